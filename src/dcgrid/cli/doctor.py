"""`dcgrid doctor`: what this machine can run."""

import platform
from importlib import metadata
from typing import Any

from dcgrid import __version__, hub
from dcgrid.cli.options import FormatOption, QuietOption
from dcgrid.cli.output import Format, Output
from dcgrid.io.progress import counted


def doctor(format_: FormatOption = Format.TEXT, quiet: QuietOption = False) -> None:
    """Say what this machine can run: versions, devices, memory, models, codecs, folders."""
    with Output(format_=format_, quiet=quiet) as output:
        output.busy("looking at this machine")
        facts = _facts()
        output.result(_lines(facts), facts)


def _facts() -> dict[str, Any]:
    """Gather everything; nothing is downloaded and no model is loaded."""
    from dcgrid.video.probe import codec_support

    return {
        "versions": _versions(),
        "machine": _machine(),
        "models": _models(),
        "large_models": _large_models(),
        "codecs": codec_support(),
        "folders": {
            "recipes": str(hub.config_dir() / "recipes"),
            "cache": str(hub.cache_dir()),
            "downloads": str(hub.hub_dir()),
        },
        "offline": hub.is_offline(),
    }


def _versions() -> dict[str, str]:
    packages = ("torch", "av", "peft", "safetensors", "huggingface_hub")
    extra = ("diffusers", "transformers")
    return {
        "dcgrid": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        **{name: _version(name) for name in extra},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _machine() -> dict[str, Any]:
    import torch

    from dcgrid.runtime import device as runtime

    chosen = runtime.choose_device("auto")
    return {
        "system": platform.platform(),
        "cores": runtime.usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": runtime.physical_memory_bytes(),
        "available_bytes": runtime.available_host_memory_bytes(),
        "devices": list(runtime.available_devices()),
        "device": str(chosen),
        "device_available_bytes": runtime.available_memory_bytes(chosen),
        "dtype": runtime.dtype_name(runtime.choose_dtype("auto", chosen)),
    }


def _models() -> list[dict[str, Any]]:
    from dcgrid.models.native.model import native_bytes, package_models

    rows = []
    for model in package_models():
        spec, files = model.spec, model.files
        missing = sorted(part for part, path in files.items() if not path.is_file())
        size = sum(path.stat().st_size for path in files.values() if path.is_file())
        largest = max(spec.cell_sizes, key=lambda pair: pair[0] * pair[1])
        rows.append(
            {
                "name": spec.name,
                "license": spec.license,
                "weights_bytes": size,
                "missing": missing,
                "memory_bytes": native_bytes(spec.default_frames, *largest),
                "frames": spec.default_frames,
                "fps": spec.fps,
                "cell_sizes": [list(pair) for pair in spec.cell_sizes],
            }
        )
    return rows


def _large_models() -> list[dict[str, Any]]:
    """Return which models of the hub are here, and what their usual grid takes on this machine."""
    from pathlib import Path

    import torch

    from dcgrid.errors import DeviceError
    from dcgrid.models.model import GridSize
    from dcgrid.models.registry import find_model
    from dcgrid.pipelines.job import EditJob
    from dcgrid.pipelines.memory import plan_memory
    from dcgrid.runtime import device as runtime

    device = runtime.choose_device("auto")
    dtype, rows = runtime.choose_dtype("auto", device), []
    for name in hub.MODELS:
        model = find_model(name)
        spec = model.spec
        height, width = spec.cell_sizes[0]
        size = GridSize(
            cells=4, given=0, frames=spec.default_frames, height=height, width=width, guided=True
        )
        row: dict[str, Any] = {"name": name, "here": model.is_here, "license": spec.license}
        try:
            need = plan_memory(EditJob(input=Path()), model, size, torch.device(device), dtype)
        except DeviceError as error:
            rows.append({**row, "fits": False, "why": error.message})
            continue
        rows.append({**row, "fits": True, "offload": need.offload, "bytes": need.device_bytes})
    return rows


def _lines(facts: dict[str, Any]) -> list[str]:
    versions, machine = facts["versions"], facts["machine"]
    lines = [
        "  ".join(f"{name} {version}" for name, version in versions.items()),
        f"system    {machine['system']}, {machine['cores']} cores, {machine['threads']} threads",
        f"memory    {_gigabytes(machine['memory_bytes'])}, "
        f"{_gigabytes(machine['available_bytes'])} free",
        f"devices   {', '.join(machine['devices'])}; runs on {machine['device']} "
        f"in {machine['dtype']}",
    ]
    for model in facts["models"]:
        state = f"missing: {', '.join(model['missing'])}" if model["missing"] else "ready"
        fits = model["memory_bytes"] <= (machine["device_available_bytes"] or 2**63)
        lines.append(
            f"model     {model['name']}: {state}, {counted(model['frames'], 'frame')} "
            f"at {model['fps']:g} fps, needs about {_gigabytes(model['memory_bytes'])}"
            f"{'' if fits else ' (more than is free)'}, {model['license']}"
        )
    for model in facts["large_models"]:
        state = "here" if model["here"] else "not here"
        fit = "does not fit: the plan of a run says why"
        if model["fits"]:
            fit = f"fits with --offload {model['offload']}, {_gigabytes(model['bytes'])}"
        lines.append(f"model     {model['name']}: {state}, {fit}, {model['license']}")
    codecs = facts["codecs"]
    for kind in ("decode", "encode"):
        shown = (name if here else f"{name} missing" for name, here in codecs[kind].items())
        lines.append(f"{kind:<9} {', '.join(shown)}")
    lines += [f"{name:<9} {path}" for name, path in facts["folders"].items()]
    lines.append(f"network   {'off (HF_HUB_OFFLINE)' if facts['offline'] else 'allowed'}")
    return lines


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count else "unknown"
