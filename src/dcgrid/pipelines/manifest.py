"""Manifests: what made a result, in one JSON file beside it, enough to make it again.

No torch here. `write_manifest` and `read_manifest` are inverse; a later version with other keys
has another `format`, and is told to the user as such.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dcgrid.errors import InputVideoError
from dcgrid.pipelines.job import JOBS, GridJob
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.pipelines.script import MAX_SCENES, StoryJob
from dcgrid.pipelines.typed import typed

PixelKey = tuple[str, int, int | None]
"""An edit or scene, its cell, the seed of its noise (None in manifests that do not say it)."""
FORMAT = "dcgrid-run-3"
STORY_FORMAT = "dcgrid-story-3"
# What an earlier dcgrid wrote and this one cannot repeat, with what to do instead.
_SMALL = "its results had the model's size and rate; repeat it with the version that it names"
_EARLIER = {
    "dcgrid-run-2": _SMALL,
    "dcgrid-story-2": _SMALL,
    "dcgrid-run-1": "repeat it with the version that it names, or make the edit anew",
    "dcgrid-story-1": "it has no hashes of pixels; run `dcgrid story` again with the same scenes "
    "and --seed, and the new manifest can be repeated",
}
_MAX_BYTES = 4 * 1024 * 1024
_HINT = (
    "a manifest is the .json file that `dcgrid edit`, `compose` or `story` writes beside its "
    "results"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRecord:
    """One video of a run."""

    path: str
    """File name, without folder."""
    edit: str
    """Name of the edit or scene it shows."""
    cell: int
    """Cell it was taken from."""
    frames_sha256: str
    """Hash of its pixels before video compression; a rerun must reach it again."""
    file_sha256: str
    """Hash of the file."""
    structure: float | None
    """Score: correlation of edges with the (first) given clip; None: no clip was given."""
    flicker: float | None
    """Score: flicker beyond the given clip's; None: no clip was given."""
    seed: int | None = None
    """Seed of its noise; None: the job's."""
    measures: Mapping[str, Any] = field(default_factory=dict)
    """What it was ranked by, by the metric's key; empty: by the two scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What the manifests of all commands have."""

    versions: Mapping[str, str]
    """Of dcgrid, Python, torch and PyAV."""
    created: str
    """Date and time, ISO 8601, UTC."""
    command: str
    """Which command it was."""
    job: GridJob
    """What was asked."""
    inputs_sha256: tuple[str, ...]
    """Hash of each input file."""
    clips: tuple[Mapping[str, Any], ...]
    """What of each input was used: frames, fps, cell size, seconds."""
    model: Mapping[str, Any]
    """Name, licence, weight files with hashes, adapters with hashes."""
    machine: Mapping[str, Any]
    """Device, dtype, threads."""
    timings_s: Mapping[str, float]
    """Seconds of each stage."""
    peak_memory_bytes: int
    """Most memory of the process (on CUDA: of the GPU)."""
    outputs: tuple[OutputRecord, ...]
    """The videos that were written."""
    folder: str = ""
    """Where they were written; after a move, inputs and weights are found relative to it."""
    files_sha256: Mapping[str, str] = field(default_factory=dict)
    """Hash of each file beside the videos (contact sheet, grid, reel), by its name."""

    @property
    def frames_sha256(self) -> dict[PixelKey, str]:
        """Hash of the pixels of each video, by edit or scene, cell and seed."""
        return {(one.edit, one.cell, one.seed): one.frames_sha256 for one in self.outputs}

    @property
    def all_grids(self) -> tuple[ResolvedGrid, ...]:
        """The grids that were generated, one after another."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunManifest(Manifest):
    """Everything that made the results of one run of `edit` or `compose`."""

    grid: ResolvedGrid
    """What the recipes made of the job: text, edits, cells."""
    sampler: Mapping[str, Any]
    """Solver, steps, noise scale, shift, how given cells enter, windows."""

    @property
    def all_grids(self) -> tuple[ResolvedGrid, ...]:
        """The one grid."""
        return (self.grid,)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryManifest(Manifest):
    """Everything that made a story; `outputs` are its scenes in their order."""

    job: StoryJob
    """What was asked: scenes, titles, fades, seed."""
    grids: tuple[ResolvedGrid, ...]
    """What the recipes made of the scenes, grid after grid."""
    samplers: tuple[Mapping[str, Any], ...]
    """How each grid was sampled."""
    reel_sha256: str
    """Hash of the reel's pixels before video compression."""

    @property
    def all_grids(self) -> tuple[ResolvedGrid, ...]:
        """The grids."""
        return self.grids


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest as JSON to a path that is not its final one (see io.atomic.StagedFiles)."""
    format_ = STORY_FORMAT if isinstance(manifest, StoryManifest) else FORMAT
    values = {"format": format_, **asdict(manifest)}
    text = json.dumps(values, indent=2, default=str, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def read_manifest(path: Path) -> RunManifest | StoryManifest:
    """Read the manifest of a run or of a story.

    Raises:
        InputVideoError: Missing, unreadable, not a manifest, or values of the wrong kind.
    """
    values = _read_json(path)
    found = values.pop("format", None)
    if isinstance(found, str) and found in _EARLIER:
        raise InputVideoError(
            f"{path} was written by an earlier dcgrid ({found}; this one reads {FORMAT} and "
            f"{STORY_FORMAT})",
            hint=_EARLIER[found],
        )
    if found not in (FORMAT, STORY_FORMAT):
        raise InputVideoError(
            f"{path} is not a run manifest of format {FORMAT} or {STORY_FORMAT}", hint=_HINT
        )
    try:
        return _story(values) if found == STORY_FORMAT else _run(values)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputVideoError(f"{path} is a damaged run manifest: {error}", hint=_HINT) from error


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


def _run(values: dict[str, Any]) -> RunManifest:
    command = values.get("command")
    if not isinstance(command, str) or command not in JOBS:
        raise ValueError(f"command is {str(command)[:60]!r}")
    job = typed(JOBS[command], values.get("job"))
    manifest: RunManifest = typed(RunManifest, values, job=job)
    wrong = _wrong_grid(manifest.grid) + _wrong_facts(manifest)
    if len(manifest.grid.given) != len(job.inputs):
        wrong.append("grid.given")
    _refuse(wrong)
    return manifest


def _story(values: dict[str, Any]) -> StoryManifest:
    manifest: StoryManifest = typed(StoryManifest, values)
    wrong = [name for grid in manifest.grids for name in _wrong_grid(grid)]
    _refuse(wrong + _wrong_facts(manifest) + _wrong_story(manifest))
    return manifest


def _refuse(wrong: list[str]) -> None:
    """Refuse values that would fail far from here."""
    if wrong:
        raise ValueError(f"{wrong[0]} has an impossible value")


def _wrong_facts(manifest: Manifest) -> list[str]:
    """Return the keys that all manifests have whose values cannot be."""
    job, machine = manifest.job, manifest.machine
    checks = {
        "job.seed": 0 <= job.seed < 2**63,
        "inputs_sha256": len(manifest.inputs_sha256) == len(job.inputs),
        "job.upsample": job.upsample in ("guided", "plain", "none"),
        "job.cell_size": job.cell_size is None or len(job.cell_size) == 2,
        "machine.threads": isinstance(machine.get("threads"), int)
        and 1 <= machine["threads"] <= 4096,
        "machine.dtype": isinstance(machine.get("dtype"), str),
        "machine.attention": machine.get("attention", "auto")
        in ("auto", "sdpa", "cudnn", "flash", "sage"),
        "machine.offload": machine.get("offload", "none") in ("none", "model", "block", "disk"),
        "machine.device": isinstance(machine.get("device"), str),
        "model.weights": isinstance(manifest.model.get("weights"), dict),
        "model.loras": _are_hashed(manifest.model.get("loras", []), len(job.loras)),
    }
    return [name for name, fits in checks.items() if not fits]


def _are_hashed(loras: object, count: int) -> bool:
    """Return True for a list of so many LoRAs, each with the hash of its file."""
    return (
        isinstance(loras, list)
        and len(loras) == count
        and all(isinstance(one, dict) and isinstance(one.get("sha256"), str) for one in loras)
    )


def _wrong_story(manifest: StoryManifest) -> list[str]:
    """Return the keys of a story whose values cannot be."""
    job, grids = manifest.job, manifest.grids
    names = [name for grid in grids for name in grid.names]
    given = [len(grid.given) for grid in grids]
    alone = 0 if job.source is None else 1
    checks = {
        "command": manifest.command == job.command,
        "job.scenes": 1 <= len(job.scenes) <= MAX_SCENES,
        "job.name": "/" not in job.name and bool(job.name.strip(". ")),
        "job.fade_s": 0 <= job.fade_s <= 10,
        "grids": len(names) == len(job.scenes) and max(Counter(names).values()) == 1,
        "grids.given": given == [alone, *[1] * (len(grids) - 1)],
        "grids.mode": all(grid.mode == "consistent" for grid in grids),
        "outputs": [one.edit for one in manifest.outputs] == names,
        "model.adapters": isinstance(manifest.model.get("adapters"), dict),
    }
    return [name for name, fits in checks.items() if not fits]


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
        and all(1 <= (edit.num_inference_steps or 0) <= 1000 for edit in grid.edits)
        and all("/" not in edit.name and edit.name.strip(". ") for edit in grid.edits),
        "grid.prompt.segments": all(
            0 <= one.start < one.end <= text_length and (one.cell is None or 0 <= one.cell < count)
            for one in grid.prompt.segments
        ),
    }
    return [name for name, fits in checks.items() if not fits]
