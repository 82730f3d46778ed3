"""Manifests: what made a result, in one JSON file beside it, enough to make it again.

No torch here. `write_manifest` and `read_manifest` are inverse; a later version with other keys
has another `format`, and is reported as such.
"""

import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from annotated_types import Ge, Gt, Le, Lt
from typing_extensions import TypedDict  # pydantic refuses that of `typing` before Python 3.12

from dcgrid import __version__
from dcgrid.errors import InputVideoError
from dcgrid.io.schema import Problem, Rule, control_characters, read_json, show
from dcgrid.io.toml_positions import KeyPath
from dcgrid.pipelines.job import ComposeJob, EditJob, GridJob
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.pipelines.script import StoryJob
from dcgrid.pipelines.windows import Window

if TYPE_CHECKING:
    from dcgrid.models.base import ModelSpec
    from dcgrid.video.clip import ClipPlan

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


def _outside(name: str) -> str:
    is_inside = Path(name).name == name and name not in ("", "..")
    return "" if is_inside else f"must be a file's name without a folder, not {show(name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRecord:
    """One video of a run."""

    path: Annotated[str, Rule(_outside)]
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


class ClipFacts(TypedDict):
    """What of an input was used."""

    frames: Annotated[int, Ge(1), Lt(1e9)]
    fps: Annotated[float, Gt(0), Le(100_000)]
    cell_size: Annotated[tuple[int, ...], "height and width"]
    start_s: Annotated[float, Ge(0), Lt(1e9)]
    duration_s: Annotated[float, Ge(0), Lt(1e9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a run ran."""

    device: str
    """Kind of device, and number if there are several."""
    dtype: str
    """Number format."""
    threads: Annotated[int, Ge(1), Le(1024)]
    """Threads of the processor."""
    offload: Literal["none", "model", "block", "disk"] = "none"
    """Where a checkout's weights were."""
    processes: Annotated[int, Ge(1)] = 1
    """Processes that shared a grid."""
    attention: Literal["auto", "sdpa", "cudnn", "flash", "sage"] = "auto"
    """What attended."""


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
    clips: tuple[ClipFacts, ...]
    """What of each input was used."""
    model: Mapping[str, Any]
    """Name, licence, weight files with hashes, adapters with hashes."""
    machine: Machine
    """Where it ran."""
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

    @property
    def all_samplers(self) -> tuple[Mapping[str, Any], ...]:
        """How each of them was sampled."""
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

    @property
    def all_samplers(self) -> tuple[Mapping[str, Any], ...]:
        """How it was sampled."""
        return (self.sampler,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _EditManifest(RunManifest):
    """The file of `edit`."""

    job: EditJob


@dataclass(frozen=True, slots=True, kw_only=True)
class _ComposeManifest(RunManifest):
    """The file of `compose`."""

    job: ComposeJob


_KINDS: Mapping[str, type[RunManifest]] = {"edit": _EditManifest, "compose": _ComposeManifest}


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

    @property
    def all_samplers(self) -> tuple[Mapping[str, Any], ...]:
        """How each was sampled."""
        return self.samplers


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest as JSON to a path that is not its final one (see io.atomic.StagedFiles)."""
    format_ = STORY_FORMAT if isinstance(manifest, StoryManifest) else FORMAT
    values = {"format": format_, **asdict(manifest)}
    text = json.dumps(values, indent=2, default=str, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def read_manifest(path: Path) -> RunManifest | StoryManifest:
    """Read the manifest of a run or of a story.

    Raises:
        InputVideoError: Missing, unreadable, not a manifest, or values that cannot be.
    """
    document = read_json(path, InputVideoError, hint=_HINT, max_bytes=_MAX_BYTES)
    found = document.values.pop("format", None)
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
    document = replace(document, file=f"{path} is a damaged run manifest")
    document.refuse(control_characters(document.values))
    if found == STORY_FORMAT:
        story = document.build(StoryManifest)
        document.refuse([*_problems(story), *_story_problems(story)])
        return story
    command = str(document.values.get("command"))
    if command not in _KINDS:
        problem = f"must be one of {', '.join(_KINDS)}, not {show(command)}"
        document.refuse([(("command",), problem)])
    read = document.build(_KINDS[command])
    run = RunManifest(**{one.name: getattr(read, one.name) for one in fields(RunManifest)})
    given = len(run.grid.given) == len(run.job.inputs)
    document.refuse(_grid_problems(run.grid, ("grid",)))
    document.refuse(_problems(run))
    document.refuse([] if given else [(("grid", "given"), "must be a cell for each input")])
    return run


def _problems(manifest: Manifest) -> Iterator[Problem]:
    """Yield the keys that all manifests have and whose values contradict each other."""
    job, model = manifest.job, manifest.model
    if len(manifest.inputs_sha256) != len(job.inputs):
        yield ("inputs_sha256",), f"must have a hash for each of {len(job.inputs)} inputs"
    if not isinstance(model.get("weights"), dict):
        yield ("model", "weights"), "must be a table"
    loras = model.get("loras", [])
    hashed = isinstance(loras, list) and all(
        isinstance(one, dict) and isinstance(one.get("sha256"), str) for one in loras
    )
    if not hashed or len(loras) != len(job.loras):
        yield ("model", "loras"), f"must have a hash for each of {len(job.loras)} LoRAs"
    for sampler in manifest.all_samplers:
        scale = sampler.get("noise_scale", 1.0)
        if not isinstance(scale, int | float) or not 1e-3 <= scale <= 100:
            problem = f"must be a number from 0.001 to 100, not {show(scale)}"
            yield ("sampler", "noise_scale"), problem


def _story_problems(manifest: StoryManifest) -> Iterator[Problem]:
    """Yield the keys of a story whose values contradict each other."""
    job, grids = manifest.job, manifest.grids
    for number, grid in enumerate(grids):
        yield from _grid_problems(grid, ("grids", number))
    names = [name for grid in grids for name in grid.names]
    given = [len(grid.given) for grid in grids]
    checks = {
        ("command",): manifest.command == job.command,
        ("grids",): len(names) == len(job.scenes) and max(Counter(names).values()) == 1,
        ("grids", "given"): given == [0 if job.source is None else 1, *[1] * (len(grids) - 1)],
        ("grids", "mode"): all(grid.mode == "consistent" for grid in grids),
        ("outputs",): [one.edit for one in manifest.outputs] == names,
        ("model", "adapters"): isinstance(manifest.model.get("adapters"), dict),
    }
    yield from ((key, "does not fit the story") for key, fits in checks.items() if not fits)


def _grid_problems(grid: ResolvedGrid, place: KeyPath) -> Iterator[Problem]:
    """Yield the keys of a grid that name cells or characters which are not there."""
    count, edits = len(grid.edit_of_cell), range(len(grid.edits))
    filled = (
        index is None if cell in grid.given else index in edits
        for cell, index in enumerate(grid.edit_of_cell)
    )
    inside = (
        one.start < one.end <= len(grid.prompt.text) and (one.cell is None or one.cell < count)
        for one in grid.prompt.segments
    )
    cells = set(grid.given) <= set(range(count)) and len(set(grid.given)) == len(grid.given)
    checks = {
        "edit_of_cell": count == grid.rows * grid.cols and all(filled),
        "given": cells,
        "edits": len(grid.edits) <= count and all(one.num_inference_steps for one in grid.edits),
        "prompt.segments": all(inside),
    }
    wrong = (key for key, fits in checks.items() if not fits)
    yield from (((*place, key), "does not fit the grid") for key in wrong)


def versions() -> Mapping[str, str]:
    """Return the versions of what pixels depend on."""
    return {
        "dcgrid": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: metadata.version(name) for name in ("torch", "av", "peft")},
    }


def now() -> str:
    """Return date and time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def clip_facts(clips: Sequence["ClipPlan"]) -> tuple[ClipFacts, ...]:
    """Return what of each input was used."""
    return tuple(
        {
            "frames": clip.num_frames,
            "fps": clip.fps,
            "cell_size": tuple(clip.cell_size),
            "start_s": clip.start_s,
            "duration_s": clip.duration_s,
        }
        for clip in clips
    )


def machine_facts(device: str, dtype: str, offload: str, processes: int, attention: str) -> Machine:
    """Return where it ran, on how many processes, where weights were, and what attended."""
    import torch

    return Machine(
        device=device,
        dtype=dtype,
        threads=torch.get_num_threads(),
        offload=cast(Any, offload),
        processes=processes,
        attention=cast(Any, attention),
    )


def sampler_facts(
    spec: "ModelSpec", grid: ResolvedGrid, windows: Sequence[Window]
) -> Mapping[str, Any]:
    """Return how a grid was sampled."""
    from dcgrid.pipelines.sampling import sample_settings

    settings = sample_settings(spec, grid.num_inference_steps, grid.noise_scale)
    return {
        "solver": settings.solver,
        "num_inference_steps": settings.schedule.num_inference_steps,
        "time_shift": settings.schedule.shift,
        "noise_scale": settings.noise_scale,
        "given": settings.given,
        "self_conditioning": spec.self_conditioning,
        # Both 0: nothing is left out.
        "guidance_until": grid.shortcuts.guidance_until,
        "cache_threshold": grid.shortcuts.cache_threshold,
        "windows": len(windows),
        "carried_frames": windows[-1].head,
        "blended_frames": windows[-1].blend,
    }
