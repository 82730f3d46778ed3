"""`dcgrid models`: base models, networks that videos are scored with, and downloads of them."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcgrid import hub
from dcgrid.cli import complete
from dcgrid.cli.help import App
from dcgrid.cli.options import FormatOption, OfflineOption, QuietOption
from dcgrid.cli.output import Format, Output, printable
from dcgrid.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from dcgrid.models.base import ModelSpec
    from dcgrid.models.native.model import NativeModel

app = App(help="List base models, download them, and remove them again.", no_args_is_help=True)

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        autocompletion=complete.hub_models,
        help="Name of the model, see `dcgrid models list`, or its repository.",
        callback=hub.model_name,
    ),
]


@app.command("list")
def list_models(format_: FormatOption = Format.TEXT) -> None:
    """List the models that can be used by name: licence, size, and where they are."""
    with Output(format_=format_) as output:
        output.busy("looking for files")
        rows = [*_package_rows(), *map(_hub_row, hub.MODELS)]
        scorers = [_hub_row(name) for name in hub.SCORERS]
        lines = [*map(_row_line, rows), "", "for scores (dcgrid eval):", *map(_row_line, scorers)]
        output.result(lines, {"models": rows, "scorers": scorers})


@app.command("pull")
def pull(
    name: NameArgument,
    update: Annotated[
        bool,
        typer.Option(
            "--update", help="Take the commit that dcgrid names now in place of the one in use."
        ),
    ] = False,
    offline: OfflineOption = False,
    format_: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Download a model, or what is missing of it; files that arrived whole are kept.

    They lie in the cache of the hub's own client, where other programs find them, too. Every file
    is checked against the hub's hash. The model stays at the commit that was found first until
    --update is given.
    """
    with Output(format_=format_, quiet=quiet) as output:
        if _is_of_package(name):
            lines = [f"{name} is part of dcgrid: there is nothing to download"]
            output.result(lines, {"name": name, "path": _package_path(name), "bytes": 0})
            return
        if offline:
            hub.go_offline()
        output.busy("looking for files")
        model = hub.hub_model(name)
        if hub.locate_model(name) is None or update:
            pin = hub.look_up_model(name)
            if pin is not None:
                output.note(_announcement(model, pin, update=update))
                output.start(f"downloading {name}", pin.bytes_all, in_bytes=True)
        path = hub.fetch_model(
            name,
            offline=offline,
            update=update,
            report=lambda _, done, total: output.update(done, total),
        )
        line = f"{name} is here whole, at commit {path.name[:12]} of {model.repo}: {path}"
        output.result([line], {**_hub_row(name), "commit": path.name})


@app.command("info")
def info(
    name: NameArgument, offline: OfflineOption = False, format_: FormatOption = Format.TEXT
) -> None:
    """Show a model's repository, commit, licence, files, and the clips that it takes."""
    with Output(format_=format_) as output:
        output.busy("looking for files")
        if _is_of_package(name):
            facts = _package_facts(name)
        else:
            if offline:
                hub.go_offline()
            facts = _hub_facts(name)
        files = facts["files"] or []
        lines = [f"{key:<12} {_shown(value)}" for key, value in facts.items() if key != "files"]
        lines += [f"  {_size(one['bytes']):>9}  {one['path']}" for one in files]
        output.result(lines, facts)


@app.command("rm")
def remove(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Remove a downloaded model from the cache; files that another snapshot shares stay."""
    with Output(format_=format_) as output:
        if _is_of_package(name):
            raise UsageError(
                f"{name} is part of dcgrid and cannot be removed",
                hint="`dcgrid models list` shows what is downloaded",
            )
        cached = hub.cached_model(name)
        if cached is None:
            # A pin of which nothing has arrived goes too.
            hub.remove_model(name)
            output.result([f"nothing of {name} is here"], {"name": name, "bytes_freed": 0})
            return
        if not yes:
            _confirm(f"Remove {name}, {_size(cached.bytes)} in {cached.folder}?")
        freed = hub.remove_model(name)
        lines = [f"removed {name}: {freed:,} bytes ({_size(freed)}) are free again"]
        output.result(lines, {"name": name, "bytes_freed": freed})


def _confirm(question: str) -> None:
    """Ask on the terminal.

    Raises:
        UsageError: There is none, or the answer is no.
    """
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on", hint="add --yes")
    if not typer.confirm(printable(question), err=True):
        raise UsageError("nothing was removed", hint="answer y, or add --yes")


def _announcement(model: hub.HubModel, pin: hub.Pin, *, update: bool) -> str:
    """Return what is downloaded, from where and under which licence."""
    amount = f"{_size(hub.bytes_left(pin))} to download of {_size(pin.bytes_all)}"
    if update and not hub.bytes_left(pin):
        amount = f"what is new in commit {pin.commit[:12]}"
    return (
        f"{model.name}: {model.repo}, {amount}, to {hub.hub_dir()}. "
        f"Licence: {pin.license or model.license}, see huggingface.co/{model.repo}."
    )


def _is_of_package(name: str) -> bool:
    # The table first: the models of the package take torch to name, which takes seconds.
    return name not in {*hub.MODELS, *hub.SCORERS} and name in _package_names()


def _package_names() -> tuple[str, ...]:
    return tuple(model.name for model in _package_models())


def _package_models() -> "tuple[NativeModel, ...]":
    from dcgrid.models.native.model import package_models

    return package_models()


def _package_path(name: str) -> str:
    """Return where a model of the package is; empty: its weights are made, not stored."""
    model = next(one for one in _package_models() if one.name == name)
    return "" if model.folder is None else str(model.folder)


def _package_rows() -> list[dict[str, Any]]:
    rows = []
    for name in _package_names():
        facts = _package_facts(name)
        rows.append({key: facts[key] for key in ("name", "license", "bytes", "state", "path")})
    return rows


def _package_facts(name: str) -> dict[str, Any]:
    model = next(one for one in _package_models() if one.name == name)
    spec, parts = model.spec, model.files
    sizes = {path.name: path.stat().st_size for path in parts.values() if path.is_file()}
    whole = len(sizes) == len(parts)
    state = "in the package" if whole else "damaged: install dcgrid again"
    return {
        "name": name,
        "license": spec.license,
        "bytes": sum(sizes.values()),
        "state": state if parts else "random weights, for tests",
        "path": _package_path(name),
        **_clip_facts(spec),
        "files": [{"path": path, "bytes": size} for path, size in sizes.items()],
    }


def _hub_row(name: str) -> dict[str, Any]:
    """Return what is known of a model without the network."""
    model = hub.hub_model(name)
    pin, path = hub.read_pin(model), hub.locate_model(name)
    begun = pin is not None and hub.cached_model(name) is not None
    return {
        "name": name,
        "license": (pin.license if pin is not None else "") or model.license,
        "bytes": pin.bytes_all if pin is not None else model.bytes_expected,
        "state": "here" if path else "partly here" if begun else "not here",
        "path": str(path) if path else f"hf:{model.repo}",
    }


def _hub_facts(name: str) -> dict[str, Any]:
    model = hub.hub_model(name)
    row, pin = _hub_row(name), hub.look_up_model(name)
    path = hub.locate_model(name)
    facts: dict[str, Any] = {**row, "repo": model.repo, "revision": model.revision}
    facts |= {"commit": "", "date": "", "bytes_left": model.bytes_expected}
    files = [
        {"path": path, "bytes": size, "digest": model.sha256.get(path, "")}
        for path, size in model.sizes.items()
    ] or None
    if pin is not None:
        facts |= {
            "license": pin.license or model.license,
            "bytes": pin.bytes_all,
            "bytes_left": hub.bytes_left(pin),
            "commit": pin.commit,
            "date": pin.date,
        }
        files = [{"path": one.path, "bytes": one.bytes, "digest": one.digest} for one in pin.files]
    if model.is_scorer:
        return {**facts, "files": files}
    adapters = (hub.default_adapter(name, mode) for mode in ("consistent", "composition"))
    facts["adapters"] = [one.reference for one in adapters if one is not None]
    return {**facts, **_checkout_facts(path), "files": files}


def _checkout_facts(path: Path | None) -> dict[str, Any]:
    """Return what the configs of a downloaded model say; nothing if they cannot be read."""
    from dcgrid.models.wan.checkpoint import read_checkout

    if path is None:
        return {}
    try:
        return _clip_facts(read_checkout(path).spec)
    except WeightsError as error:
        return {"unusable": error.message}


def _clip_facts(spec: "ModelSpec") -> dict[str, Any]:
    return {
        "cell_sizes": [f"{width}x{height}" for height, width in spec.cell_sizes],
        "fps": spec.fps,
        "frames": spec.default_frames,
        "max_frames": spec.max_frames,
    }


def _row_line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['name']:<12} {row['license']:<27} {_size(row['bytes']):>9}  {row['state']:<15} "
        f"{row['path']}"
    ).rstrip()


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int) else str(value) or "-"


def _size(count: int | None) -> str:
    """Return a number of bytes for people."""
    if count is None:
        return "unknown"
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= one:
            return f"{count / one:.1f} {unit}"
    return f"{count} B"
