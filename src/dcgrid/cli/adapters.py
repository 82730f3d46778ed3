"""`dcgrid adapters`: which there are, what a file holds, the way from and to other programs."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcgrid import __version__, hub
from dcgrid.adapters.find import find_adapter
from dcgrid.cli import complete
from dcgrid.cli.help import App
from dcgrid.cli.options import ForceOption, FormatOption, OfflineOption
from dcgrid.cli.output import Format, Output
from dcgrid.errors import AdapterError, UsageError

if TYPE_CHECKING:
    from dcgrid.adapters.spec import AdapterSpec

app = App(
    help="List adapters, show what a file holds, export, import and publish them.",
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
        metavar="ADAPTER",
        autocompletion=complete.adapters,
        help="A file, hf:OWNER/REPO@REVISION/FILE, hf:OWNER/REPO, or package:MODEL/FILE.",
    ),
]


@app.command("list")
def list_adapters(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Look for files in here too.")
    ] = None,
    format_: FormatOption = Format.TEXT,
) -> None:
    """List adapters: those of the package, published ones, and those in a folder of yours."""
    with Output(format_=format_) as output:
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{folder} is no folder", hint="`dcgrid adapters info` shows one file")
        output.busy("reading adapters")
        rows = [*_package_rows(), *map(_published_row, hub.ADAPTERS)]
        rows += _file_rows(folder) if folder is not None else []
        output.result(map(_row_line, rows), {"adapters": rows})


@app.command("info")
@app.command("show", hidden=True)
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
        output.busy("reading the adapter")
        path = find_adapter(adapter, offline=offline)
        facts: dict[str, Any] = {
            "file": path.absolute(),
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
        output.busy("exporting")
        path = find_adapter(adapter, offline=offline)
        from dcgrid.adapters.export import export_adapter

        written = export_adapter(path, target.value, out, force=force)
        output.result([f"wrote {one}" for one in written], {"files": written})


@app.command("push")
def push(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An adapter file.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="hf:OWNER/REPO, or hf:OWNER/REPO@BRANCH/PATH.")
    ],
    license_: Annotated[
        str, typer.Option("--license", help="Licence that the card names, such as apache-2.0.")
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository that only you see.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be pushed, and stop.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a README.md that is there.")
    ] = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Publish an adapter on the Hugging Face hub, with a card written from what it says of itself.

    The repository and the branch are made if they do not exist. It needs a token that may write:
    run `hf auth login`, or set HF_TOKEN.
    """
    with Output(format_=format_) as output:
        output.busy("reading files")
        place, files = _to_push(file, target, license_)
        sizes = {path: len(content) for path, content in files.items()}
        facts: dict[str, Any] = {"target": str(place), "files": sizes}
        if dry_run:
            lines = [f"would push to {place.repo}@{place.revision}:"]
            lines += [f"  {path}, {size:,} bytes" for path, size in sizes.items()]
            lines += ["", files["README.md"].decode()]
            card = {"card": files["README.md"].decode()}
            output.result(lines, {"dry_run": True, **facts, **card})
            return
        output.start(f"pushing to {place.repo}")
        message = f"Add adapter {place.path} with dcgrid {__version__}"
        address = hub.push_files(place, files, message=message, private=private, replace_card=force)
        lines = [f"pushed {file} to {address}", f"use it: --adapter {place}"]
        output.result(lines, {**facts, "commit": address})


def _to_push(
    file: Path, target: str, license_: str
) -> tuple[hub.WeightReference, dict[str, bytes]]:
    """Check an adapter and where it is to go; return the place of the file, and what goes there.

    Raises:
        AdapterError: The file is damaged.
        UsageError: The target is none on the hub.
    """
    from dcgrid.adapters.card import adapter_card
    from dcgrid.adapters.reading import check_finite, read_adapter

    place = hub.parse_reference(target)
    if place.source != "hub":
        raise UsageError(f"cannot push to {target!r}", hint="write hf:OWNER/REPO[@BRANCH][/PATH]")
    path = place.path or file.name
    if not path.endswith(".safetensors"):
        raise UsageError(f"{path!r} is no name for an adapter", hint="end it in .safetensors")
    spec, tensors = read_adapter(file)
    check_finite(tensors, file)
    place = replace(place, path=path)
    card = adapter_card(spec, place, license_)
    return place, {path: file.read_bytes(), "README.md": card.encode()}


def _package_rows() -> list[dict[str, Any]]:
    from dcgrid.models.native.model import package_models

    rows = []
    for model in package_models():
        if model.folder is not None:
            rows += _file_rows(model.folder, f"package:{model.name}/")
    return rows


def _published_row(adapter: hub.HubAdapter) -> dict[str, Any]:
    return {
        "reference": adapter.reference,
        "name": adapter.name,
        "base": adapter.base,
        "stage": "fill",
        "mode": adapter.mode,
        "bytes": adapter.bytes,
        "problem": "",
    }


def _file_rows(folder: Path, prefix: str = "") -> list[dict[str, Any]]:
    """Return the adapters in a folder; weights of other kinds are passed over.

    Args:
        folder: Looked through with the folders inside.
        prefix: Comes before a file's path inside the folder, in place of the folder's own path.
    """
    from dcgrid.adapters.reading import read_spec

    rows: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*.safetensors")):
        inside = path.relative_to(folder).as_posix()
        row: dict[str, Any] = {"reference": f"{prefix}{inside}" if prefix else str(path.absolute())}
        try:
            spec = read_spec(path)
        except AdapterError as error:
            rows.append({**row, "bytes": path.lstat().st_size, "problem": error.message})
            continue
        if spec is not None:
            facts = {key: getattr(spec, key) for key in ("name", "base", "stage", "mode")}
            rows.append({**row, **facts, "bytes": path.stat().st_size, "problem": ""})
    return rows


def _row_line(row: Mapping[str, Any]) -> str:
    if row["problem"]:
        return f"{row['reference']}: {row['problem']}"
    kind = f"{row['base'] or '?'}, stage {row['stage']}, {row['mode']}"
    return f"{kind:<32} {row['bytes']:>12,} bytes  {row['reference']}"


@app.command("import")
def import_file(
    lora: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="LoRA of diffusers, PEFT, ComfyUI or kohya's trainers, for Wan."
        ),
    ],
    base: Annotated[
        str,
        typer.Option(
            "--base",
            metavar="MODEL",
            autocompletion=complete.models,
            help="Model it is for: name, or folder of a Wan checkout.",
        ),
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
        output.busy("importing")
        path = find_adapter(lora, offline=offline)
        from dcgrid.adapters.importing import ImportChoice, import_lora
        from dcgrid.models.registry import find_model

        choice = ImportChoice(base=find_model(base), stage=stage.value, mode=mode.value, name=name)
        report = import_lora(path, choice, out, force=force)
        lines = [
            f"{report.matched} of {report.total} layers matched, rank {report.spec.rank}, "
            f"mean update {report.mean_delta:.2g}",
            report.spec.recipe,
            f"wrote {out}",
        ]
        facts = {"files": [out.absolute()], "layers": report.matched, **_facts(report.spec)}
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
        "scale_from": lora.scale_source,
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
