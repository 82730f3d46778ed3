"""`dcgrid adapters`: what an adapter file holds, and the way from and to other programs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcgrid.adapters.find import find_adapter
from dcgrid.cli.options import ForceOption, FormatOption, OfflineOption
from dcgrid.cli.output import Format, Output

if TYPE_CHECKING:
    from dcgrid.adapters.spec import AdapterSpec

app = typer.Typer(
    help="Show what an adapter file holds, export it for other programs, import theirs.",
    no_args_is_help=True,
)


class Target(StrEnum):
    """Programs that an adapter can be exported for."""

    PEFT = "peft"
    DIFFUSERS = "diffusers"
    COMFYUI = "comfyui"
    KOHYA = "kohya"


class Stages(StrEnum):
    """What an adapter is for."""

    DC = "dc"
    GRID = "grid"
    FILL = "fill"


class Modes(StrEnum):
    """What the grids of an adapter show."""

    CONSISTENT = "consistent"
    COMPOSITION = "composition"


AdapterArgument = Annotated[
    str,
    typer.Argument(
        metavar="ADAPTER", help="A file, hf:OWNER/REPO@REVISION/FILE, or package:MODEL/FILE."
    ),
]


@app.command("show")
def show_adapter(
    adapter: AdapterArgument,
    offline: OfflineOption = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show what an adapter is for, how it was made, and how much it changes.

    LoRA files that other programs wrote for Wan are shown, too.
    """
    from dcgrid.adapters.foreign import is_foreign

    with Output(format_=format_) as output:
        path = find_adapter(adapter, offline=offline)
        facts: dict[str, Any] = {
            "file": str(path),
            "bytes": path.stat().st_size,
            **(_foreign_facts(path) if is_foreign(path) else _own_facts(path)),
        }
        output.result([f"{key:<12} {_shown(value)}" for key, value in facts.items()], facts)


@app.command("export")
def export(
    adapter: AdapterArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for peft, file for the others.")],
    target: Annotated[
        Target,
        typer.Option(
            "--for",
            help="Program that is to load it. comfyui and kohya take adapters of Wan models alone; "
            "ComfyUI finds the file in models/loras and loads it with LoraLoaderModelOnly.",
        ),
    ] = Target.PEFT,
    offline: OfflineOption = False,
    force: ForceOption = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Write a copy for another program: a plain LoRA of the same rank."""
    with Output(format_=format_) as output:
        path = find_adapter(adapter, offline=offline)
        from dcgrid.adapters.export import export_adapter

        written = export_adapter(path, target.value, out, force=force)
        output.result([f"wrote {one}" for one in written], {"files": [str(one) for one in written]})


@app.command("import")
def import_file(
    lora: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="LoRA of diffusers, PEFT, ComfyUI or kohya's trainers, for Wan."
        ),
    ],
    base: Annotated[
        str, typer.Option("--base", help="Model it is for: name, or folder of a Wan checkout.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The adapter file.")],
    stage: Annotated[
        Stages, typer.Option("--stage", help="What it is to be used for.")
    ] = Stages.FILL,
    mode: Annotated[
        Modes, typer.Option("--mode", help="What the grids that it fills show.")
    ] = Modes.CONSISTENT,
    name: Annotated[str, typer.Option("--name", help="Its name.", show_default="the file's")] = "",
    offline: OfflineOption = False,
    force: ForceOption = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Write an adapter file of dcgrid from a LoRA of another program, the same update.

    Every layer must fit the base. A LoRA that changes biases or norms, too, is used with --lora.
    """
    with Output(format_=format_) as output:
        path = find_adapter(lora, offline=offline)
        from dcgrid.adapters.importing import ImportChoice, import_lora

        choice = ImportChoice(base=base, stage=stage.value, mode=mode.value, name=name)
        report = import_lora(path, choice, out, force=force)
        lines = [
            f"{report.matched} of {report.total} layers matched, rank {report.spec.rank}, "
            f"mean update {report.mean_delta:.2g}",
            f"wrote {out}",
        ]
        facts = {"files": [str(out)], "layers": report.matched, **_facts(report.spec)}
        output.result(lines, facts)


def _own_facts(path: Path) -> dict[str, Any]:
    from dcgrid.adapters.reading import layer_names, mean_update, read_adapter

    spec, tensors = read_adapter(path)
    return {
        **_facts(spec),
        "layers": len(layer_names(spec.form, tensors)),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "mean_update": mean_update(spec, tensors),
    }


def _foreign_facts(path: Path) -> dict[str, Any]:
    from dcgrid.adapters.foreign import mean_foreign_update, read_foreign
    from dcgrid.adapters.wan_names import WIDTHS

    lora = read_foreign(path)
    size = WIDTHS.get(lora.width or 0)
    sides = [side for one in lora.layers.values() for side in (one.down_RD, one.up_DR)]
    return {
        "naming": lora.naming,
        "base_width": lora.width or 0,
        "base": f"Wan {size}" if size else "",
        "ranks": list(lora.ranks),
        "scales": sorted({one.scale for one in lora.layers.values()}),
        "layers": len(lora.layers),
        "deltas": len(lora.deltas),
        "parameters": sum(tensor.numel() for tensor in (*sides, *lora.deltas.values())),
        "mean_update": mean_foreign_update(lora),
    }


def _facts(spec: "AdapterSpec") -> dict[str, Any]:
    return {
        "name": spec.name,
        "stage": spec.stage,
        "mode": spec.mode,
        "form": spec.form,
        "base": spec.base,
        "base_hash": spec.base_hash,
        "layout": spec.layout,
        "rank": spec.rank,
        "alpha": spec.alpha,
        "noise_scale": spec.noise_scale,
        "recipe": spec.recipe,
        "targets": list(spec.targets),
        "tokens": list(spec.tokens),
        "prompts": list(spec.prompts),
    }


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value) or "-"
