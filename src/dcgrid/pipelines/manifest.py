"""The run manifest: what made a result, in one JSON file beside it, enough to make it again.

No torch here. `write_manifest` and `read_manifest` are inverse; unknown keys of later versions are
kept out of the way by the `format` number.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dcgrid.errors import InputVideoError
from dcgrid.pipelines.job import JOBS, GridJob
from dcgrid.pipelines.resolve import Edit, ResolvedGrid
from dcgrid.prompts import Prompt, Segment

FORMAT = "dcgrid-run-2"
STORY_FORMAT = "dcgrid-story-1"
_MAX_BYTES = 4 * 1024 * 1024
_HINT = "a manifest is the .json file that `dcgrid edit` or `compose` writes beside its results"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRecord:
    """One video of a run."""

    path: str
    """File name, without folder."""
    edit: str
    """Name of the edit it shows."""
    cell: int
    """Cell it was taken from."""
    frames_sha256: str
    """Hash of its pixels before video compression; a rerun must reach it again."""
    file_sha256: str
    """Hash of the file."""
    structure: float
    """Score: correlation of edges with the (first) given clip."""
    flicker: float
    """Score: flicker beyond the given clip's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunManifest:
    """Everything that made the results of one run."""

    versions: Mapping[str, str]
    """Of dcgrid, Python, torch and PyAV."""
    created: str
    """Date and time, ISO 8601, UTC."""
    command: str
    """Which command it was."""
    job: GridJob
    """What was asked."""
    grid: ResolvedGrid
    """What the recipes made of it: text, edits, cells."""
    inputs_sha256: tuple[str, ...]
    """Hash of each input file."""
    clips: tuple[Mapping[str, Any], ...]
    """What of each input was used: frames, fps, cell size, seconds."""
    model: Mapping[str, Any]
    """Name, licence, weight files with hashes, adapter with hash."""
    sampler: Mapping[str, Any]
    """Solver, steps, noise scale, shift, how given cells enter."""
    machine: Mapping[str, Any]
    """Device, dtype, threads."""
    timings_s: Mapping[str, float]
    """Seconds of each stage."""
    peak_memory_bytes: int
    """Most memory of the process (on CUDA: of the GPU)."""
    outputs: tuple[OutputRecord, ...]
    """The videos that were written."""


def write_manifest(path: Path, manifest: RunManifest) -> None:
    """Write a manifest as JSON to a path that is not its final one (see outputs.StagedFiles)."""
    values = {"format": FORMAT, **asdict(manifest)}
    text = json.dumps(values, indent=2, default=str, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def write_story_manifest(path: Path, values: Mapping[str, Any]) -> None:
    """Write what made a story as JSON to a path that is not its final one."""
    text = json.dumps({"format": STORY_FORMAT, **values}, indent=2, default=str, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def read_manifest(path: Path) -> RunManifest:
    """Read a manifest.

    Raises:
        InputVideoError: Missing, unreadable, not a manifest, or values of the wrong kind.
    """
    values = _read_json(path)
    found = values.pop("format", None)
    if found == "dcgrid-run-1":
        raise InputVideoError(
            f"{path} was written by an earlier dcgrid ({found}; this one reads {FORMAT})",
            hint="repeat it with the version that it names, or make the edit anew",
        )
    if found == STORY_FORMAT:
        raise InputVideoError(
            f"{path} is the manifest of a story, which `rerun` cannot repeat",
            hint="run `dcgrid story` again with the same scenes and --seed",
        )
    if found != FORMAT:
        raise InputVideoError(f"{path} is not a run manifest of format {FORMAT}", hint=_HINT)
    try:
        manifest: RunManifest = _typed(RunManifest, values)
        _check(manifest)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputVideoError(f"{path} is a damaged run manifest: {error}", hint=_HINT) from error
    return manifest


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise InputVideoError(f"cannot read {path} ({reason})", hint=_HINT) from error
    if len(content) > _MAX_BYTES:
        raise InputVideoError(f"{path} is too large for a run manifest", hint=_HINT)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputVideoError(f"{path} is not JSON", hint=_HINT) from error
    if not isinstance(values, dict):
        raise InputVideoError(f"{path} is not a run manifest", hint=_HINT)
    return values


def _typed(kind: type[Any], values: Any) -> Any:  # noqa: ANN401 - JSON in, dataclass out
    """Build a dataclass from JSON values, checking each against the field's type."""
    if not isinstance(values, dict):
        raise TypeError(f"{kind.__name__} is not a table")
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise TypeError(f"{kind.__name__} has the unknown key {unknown[0][:60]!r}")
    missing = [n for n, f in known.items() if f.default is MISSING and n not in values]
    if missing:
        raise TypeError(f"{kind.__name__} lacks {missing[0]!r}")
    if kind is RunManifest:
        command = values["command"]
        if command not in JOBS:
            raise ValueError(f"command is {str(command)[:60]!r}")
        job = _typed(JOBS[command], values["job"])
        rest = {name: value for name, value in values.items() if name != "job"}
        return RunManifest(job=job, **_fields(known, rest))
    return kind(**_fields(known, values))


def _fields(known: Mapping[str, Field[Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(name, known[name].type, values[name]) for name in values}


def _value(name: str, kind: Any, value: Any) -> Any:  # noqa: ANN401 - see _typed
    """Return one JSON value as the type of its field."""
    nested = {
        "grid": ResolvedGrid,
        "prompt": Prompt if kind is Prompt else None,
    }.get(name)
    if nested is not None:
        return _typed(nested, value)
    lists = {"outputs": OutputRecord, "edits": Edit, "segments": Segment}
    if name in lists:
        if not isinstance(value, list):
            raise TypeError(f"{name} is not a list")
        return tuple(_typed(lists[name], entry) for entry in value)
    if kind == Path or (kind == Path | None and value is not None):
        return Path(_of(name, value, str))
    if kind in (str, bool, int):
        return _of(name, value, kind)
    if kind is float or (kind == float | None and value is not None):
        return _finite(name, value)
    if kind == int | None and value is not None:
        return _of(name, value, int)
    if isinstance(value, list):
        return tuple(value)
    return value


def _of(name: str, value: object, kind: type) -> Any:  # noqa: ANN401 - see _typed
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{name} is {str(value)[:60]!r}, not {kind.__name__}")
    return value


def _finite(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError(f"{name} is {str(value)[:60]!r}, not a number")
    return float(value)


def _check(manifest: RunManifest) -> None:
    """Refuse values that would fail far from here."""
    job, wrong = manifest.job, _wrong_grid(manifest.grid)
    texts = [getattr(job, name) for name in ("effects", "prompts") if hasattr(job, name)]
    checks = {
        "job.layout": isinstance(job.layout, str),
        "job.effects": all(isinstance(text, str) for group in texts for text in group),
        "job.keep": job.keep in ("best", "all"),
        "job.fps": job.fps in ("model", "source"),
        "inputs_sha256": len(manifest.inputs_sha256) == len(job.inputs)
        and all(isinstance(one, str) for one in manifest.inputs_sha256),
        "grid.given": len(manifest.grid.given) == len(job.inputs),
        "machine.threads": isinstance(manifest.machine.get("threads"), int)
        and 1 <= manifest.machine["threads"] <= 4096,
        "machine.dtype": isinstance(manifest.machine.get("dtype"), str),
        "machine.device": isinstance(manifest.machine.get("device"), str),
        "model.weights": isinstance(manifest.model.get("weights"), dict),
    }
    wrong += [name for name, fits in checks.items() if not fits]
    if wrong:
        raise ValueError(f"{wrong[0]} has an impossible value")


def _wrong_grid(grid: ResolvedGrid) -> list[str]:
    """Return the keys of a grid whose values cannot be."""
    count = len(grid.edit_of_cell)
    text_length = len(grid.prompt.text)
    checks = {
        "grid.mode": grid.mode in ("consistent", "composition"),
        "grid.rows": 1 <= grid.rows <= 8 and 1 <= grid.cols <= 8,
        "grid.edit_of_cell": count == grid.rows * grid.cols
        and all(
            index is None if cell in grid.given else index in range(len(grid.edits))
            for cell, index in enumerate(grid.edit_of_cell)
        ),
        "grid.given": len(set(grid.given)) == len(grid.given)
        and all(cell in range(count) for cell in grid.given),
        "grid.edits": 1 <= len(grid.edits) <= count
        and all(1 <= edit.num_inference_steps <= 1000 for edit in grid.edits)
        and all("/" not in edit.name and edit.name.strip(". ") for edit in grid.edits),
        "grid.prompt.segments": all(
            0 <= one.start < one.end <= text_length and (one.cell is None or 0 <= one.cell < count)
            for one in grid.prompt.segments
        ),
    }
    return [name for name, fits in checks.items() if not fits]
