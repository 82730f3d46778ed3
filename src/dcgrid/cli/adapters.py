"""`dcgrid adapters`: what an adapter file holds, and copies of it for other programs."""

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
    help="Show what an adapter file holds, and export it for other programs.",
    no_args_is_help=True,
)


class Target(StrEnum):
    """Programs that an adapter can be exported for."""

    PEFT = "peft"
    DIFFUSERS = "diffusers"


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
    """Show what an adapter is for, how it was made, and how much it changes."""
    from dcgrid.adapters.reading import layer_names, mean_update, read_adapter

    with Output(format_=format_) as output:
        path = find_adapter(adapter, offline=offline)
        spec, tensors = read_adapter(path)
        facts: dict[str, Any] = {
            "file": str(path),
            "bytes": path.stat().st_size,
            **_facts(spec),
            "layers": len(layer_names(spec.form, tensors)),
            "parameters": sum(tensor.numel() for tensor in tensors.values()),
            "mean_update": mean_update(spec, tensors),
        }
        output.result([f"{key:<12} {_shown(value)}" for key, value in facts.items()], facts)


@app.command("export")
def export(
    adapter: AdapterArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for peft, file for diffusers.")],
    target: Annotated[
        Target, typer.Option("--for", help="Program that is to load it.")
    ] = Target.PEFT,
    offline: OfflineOption = False,
    force: ForceOption = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Write a copy that PEFT or diffusers loads: a plain LoRA of the same rank."""
    with Output(format_=format_) as output:
        path = find_adapter(adapter, offline=offline)
        from dcgrid.adapters.export import export_adapter

        written = export_adapter(path, target.value, out, force=force)
        output.result([f"wrote {one}" for one in written], {"files": [str(one) for one in written]})


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
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value) or "-"
