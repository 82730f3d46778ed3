"""`dcgrid story` from the top: the same character in scene after scene, grid after grid.

    prepare_story -> plan_story -> tell_story

    from a clip       [clip  1]  [clip  4]        the clip stands in every grid
                      [ 2    3]  [ 5    6]
    from text alone   [ 1    2]  [ 4    5]        later grids go on from the last scene
                      [ 3    4]  [ 6    7]

Letters: T frames, H W height/width, C the 3 colours.

Paper: sec. 4 (story generation), Fig. 8
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from dcgrid import __version__, hub
from dcgrid.errors import UsageError
from dcgrid.pipelines.choose import rank_tries
from dcgrid.pipelines.deliver import enlarged
from dcgrid.pipelines.fill import FilledCell, FillSettings, fill_grid
from dcgrid.pipelines.footage import read_planned
from dcgrid.pipelines.job import check_input
from dcgrid.pipelines.manifest import write_story_manifest
from dcgrid.pipelines.models import LoadedModel, grid_reference, load_model
from dcgrid.pipelines.outputs import OutputPaths, StagedFiles, name_outputs
from dcgrid.pipelines.plan import clip_rules, memory_estimate_bytes
from dcgrid.pipelines.progress import Progress
from dcgrid.pipelines.request import grid_request
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.pipelines.script import StoryJob, resolve_story, titles_of
from dcgrid.runtime import device as runtime
from dcgrid.video.clip import Clip, ClipPlan
from dcgrid.video.parts import read_part, write_part
from dcgrid.video.read import plan_clip, probe
from dcgrid.video.reel import reel_length, reel_pieces
from dcgrid.video.sheet import write_contact_sheet
from dcgrid.video.write import write_pieces, write_video

if TYPE_CHECKING:
    from dcgrid.models.base import ModelSpec

TITLE_S = 1.5
"""Seconds that the reel shows a title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedStory:
    """A story whose scenes, text and files have been checked."""

    job: StoryJob
    """What was asked."""
    grids: tuple[ResolvedGrid, ...]
    """The grids in their order."""
    outputs: OutputPaths
    """Files that will be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryPlan:
    """All that is known before the model is loaded."""

    prepared: PreparedStory
    """The checked story."""
    spec: "ModelSpec"
    """The model."""
    clip: ClipPlan | None
    """What of the character's clip is used; None: there is none."""
    size_THW: tuple[int, int, int]
    """Frames, height and width of a cell."""
    device: str
    """Device it will run on."""
    dtype: str
    """Number format."""

    def lines(self) -> list[str]:
        """Return the plan as sentences, one per line."""
        frames, height, width = self.size_THW
        grids, factor = self.prepared.grids, self.spec.upsample
        clip = self.clip.lines() if self.clip else ["No clip: the character comes from the text."]
        seconds = frames / self.spec.fps
        memory = memory_estimate_bytes(self.spec, frames, (height, width)) / 1e9
        return [
            *clip,
            f"Scenes: {len(self.prepared.job.scenes)} of {seconds:.2f} s in {len(grids)} grids of "
            f"{grids[0].rows}x{grids[0].cols} cells of {width}x{height}.",
            f"Model: {self.spec.name} on {self.device}, {self.dtype}, about {memory:.1f} GB of "
            "memory.",
            f"Result: {width * factor}x{height * factor}, "
            f"{', '.join(path.name for path in self.prepared.outputs.all())}.",
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the plan for programs."""
        return {
            "command": "story",
            "scenes": [name for grid in self.prepared.grids for name in grid.names],
            "prompts": [grid.prompt.text for grid in self.prepared.grids],
            "size": list(self.size_THW),
            "model": self.spec.name,
            "device": self.device,
            "dtype": self.dtype,
            "outputs": [str(path) for path in self.prepared.outputs.all()],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryResult:
    """What a story made."""

    files: tuple[Path, ...]
    """Every file."""
    seconds: float
    """Seconds that it took."""
    notes: tuple[str, ...]
    """What was changed or left out while writing."""


def prepare_story(job: StoryJob, recipe_dir: Path | None = None) -> PreparedStory:
    """Check a story as far as that goes in milliseconds.

    Raises:
        InputVideoError: The clip is missing or unreadable.
        UsageError: The job contradicts itself.
        RecipeError: An effect or the layout is unknown or wrong.
        PromptError: The text cannot be rendered.
        OutputError: A result cannot be written where it should go.
    """
    for path in job.inputs:
        check_input(path)
    grids = resolve_story(job, recipe_dir)
    names = [name for grid in grids for name in grid.names]
    outputs = name_outputs(job, names, [1] * len(names))
    return PreparedStory(job=job, grids=grids, outputs=outputs)


def plan_story(prepared: PreparedStory) -> StoryPlan:
    """Add the facts of the model and of the clip.

    Raises:
        UsageError: No such model, device or dtype, or a duration the model cannot take.
        DeviceError: The device is not on this machine.
        InputVideoError: The clip is not a video, or starts after its end.
    """
    from dcgrid.models.loading import model_spec

    job = prepared.job
    spec = model_spec(job.model)
    device = runtime.choose_device(job.device)
    rules = replace(clip_rules(spec), longest=None)
    clip = None
    if job.source is not None:
        clip = plan_clip(probe(job.source), rules, job.start_s, job.duration_s)
        size_THW = (clip.num_frames, *clip.cell_size)
    else:
        asked = spec.default_frames
        if job.duration_s is not None:
            asked = round(job.duration_s * spec.fps)
        size_THW = (max(rules.frames_within(asked), rules.least_frames), *spec.cell_sizes[0])
    if job.fade_s * spec.fps * 2 > size_THW[0]:
        raise UsageError(
            f"a fade of {job.fade_s} s is longer than half of a scene "
            f"({size_THW[0] / spec.fps:.2f} s)",
            hint=f"use --fade {size_THW[0] / spec.fps / 4:.2f}",
        )
    return StoryPlan(
        prepared=prepared,
        spec=spec,
        clip=clip,
        size_THW=size_THW,
        device=str(device),
        dtype=runtime.dtype_name(runtime.choose_dtype(job.dtype, device)),
    )


def tell_story(plan: StoryPlan, progress: Progress) -> StoryResult:
    """Carry out a plan. All files appear together at the end; after an error there is none.

    Args:
        plan: From `plan_story`.
        progress: Told of stages, steps and remarks.

    Raises:
        InputVideoError: The clip cannot be decoded.
        WeightsError: Weights are missing or damaged.
        AdapterError: The adapter is damaged or for another model.
        OutputError: A file cannot be written.
    """
    started = time.perf_counter()
    job = plan.prepared.job
    clip = _read(plan, progress)
    if clip is not None:
        # Only decoding shows how many frames there are.
        plan = replace(plan, size_THW=(len(clip.frames_THWC), *plan.size_THW[1:]))
    models = _Models(plan, progress)
    if clip is None and not plan.spec.paints_from_text:
        progress.warn(
            f"the model {plan.spec.name} is too small to make a character from words alone; "
            "name a clip with --from"
        )
    unknown = models.any().backbone.unknown_words(job.words)
    if unknown:
        progress.warn(f"the model {plan.spec.name} never saw: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="dcgrid-story-") as folder, StagedFiles() as staged:
        scenes = _Scenes(Path(folder))
        for frames_THWC in _paint(plan, clip, models, progress):
            scenes.add(frames_THWC)
        notes = _write(plan, clip, scenes, staged, progress)
        seconds = time.perf_counter() - started
        manifest = _manifest(plan, models, seconds)
        write_story_manifest(staged.stage(plan.prepared.outputs.manifest), manifest)
        staged.commit()
    return StoryResult(files=plan.prepared.outputs.all(), seconds=seconds, notes=tuple(notes))


class _Models:
    """The model with its Grid-Fill adapter, and with Grid LoRA for a grid that has no clip."""

    def __init__(self, plan: StoryPlan, progress: Progress) -> None:
        self._plan, self._progress = plan, progress
        self.loaded: dict[bool, LoadedModel] = {}

    def any(self) -> LoadedModel:
        """Return whichever is needed first."""
        return self.of(self._plan.prepared.grids[0])

    def of(self, grid: ResolvedGrid) -> LoadedModel:
        """Return the model that fills a grid."""
        filling = bool(grid.given)
        if filling not in self.loaded:
            job = self._plan.prepared.job
            device = torch.device(self._plan.device)
            dtype = runtime.choose_dtype(self._plan.dtype, device)
            # A Grid-Fill adapter knows grids with a given cell only; without one, Grid LoRA paints.
            asked = job if filling else replace(job, adapter=grid_reference(job))
            self.loaded[filling] = load_model(asked, "consistent", device, dtype, self._progress)
        return self.loaded[filling]


class _Scenes(Sequence[Tensor]):
    """Finished scenes THWC, kept on disk without loss: a long story is more than memory holds."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def add(self, frames_THWC: Tensor) -> None:
        """Keep one more scene."""
        write_part(self._path(self._count), frames_THWC)
        self._count += 1

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self._count

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        """Read a scene again."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return read_part(self._path(index))

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:04d}.mkv"


def _read(plan: StoryPlan, progress: Progress) -> Clip | None:
    if plan.clip is None:
        return None
    job = plan.prepared.job
    rules = replace(clip_rules(plan.spec), longest=None)
    return read_planned(plan.clip, rules, (job.start_s, job.duration_s), progress)[0]


def _paint(
    plan: StoryPlan, clip: Clip | None, models: _Models, progress: Progress
) -> Iterator[Tensor]:
    """Paint grid after grid and yield the scenes in their order."""
    given_THWC = None if clip is None else clip.frames_THWC
    for number, grid in enumerate(plan.prepared.grids):
        settings = FillSettings(
            seed=(plan.prepared.job.seed + number) % 2**63, device=torch.device(plan.device)
        )
        given = [] if given_THWC is None else [given_THWC]
        request = replace(grid_request(grid, given), size_THW=plan.size_THW)
        filled = fill_grid(models.of(grid).backbone, request, settings, progress)
        best = [_best_try(filled, cells, given_THWC) for cells in grid.tries]
        yield from (one.frames_THWC for one in best)
        if clip is None:
            given_THWC = best[-1].small_THWC


def _best_try(
    filled: Sequence[FilledCell], cells: Sequence[int], given_THWC: Tensor | None
) -> FilledCell:
    """Return the best of several tries at a scene; without a clip to compare with the first."""
    tries = [one for one in filled if one.cell in cells]
    if given_THWC is None or len(tries) == 1:
        return tries[0]
    best, _ = rank_tries(given_THWC, torch.stack([one.frames_THWC for one in tries]))[0]
    return tries[best]


def _write(
    plan: StoryPlan, clip: Clip | None, scenes: _Scenes, staged: StagedFiles, progress: Progress
) -> list[str]:
    """Write scenes, reel and storyboard under temporary names; return remarks."""
    prepared, job = plan.prepared, plan.prepared.job
    fps = Fraction(plan.spec.fps).limit_denominator(100_000)
    comment = f"made by dcgrid {__version__} with the model {plan.spec.name}"
    titles, notes = titles_of(job), list[str]()
    progress.start("writing", len(scenes) + 2)
    sound = None if clip is None else clip.sound()
    for index, (path,) in enumerate(prepared.outputs.videos):
        report = write_video(staged.stage(path), scenes[index], fps, sound=sound, comment=comment)
        notes += [note for note in report.notes if note not in notes]
        progress.update(index + 1)
    if prepared.outputs.reel is not None:
        title_s = TITLE_S if job.titles else 0
        write_pieces(
            staged.stage(prepared.outputs.reel),
            partial(reel_pieces, scenes, titles, fps, title_s=title_s, fade_s=job.fade_s),
            fps,
            num_frames=reel_length([len(scene) for scene in scenes], fps, job.fade_s),
            comment=comment,
        )
    if prepared.outputs.sheet is not None:
        rows = [[scene] for scene in scenes]
        labels = [f"{number} {title}" for number, title in enumerate(titles, start=1)]
        if clip is not None:
            height, width = scenes[0].shape[1:3]
            rows.insert(0, [enlarged(clip.frames_THWC, (height, width))])
            labels.insert(0, "clip")
        write_contact_sheet(staged.stage(prepared.outputs.sheet), rows, labels)
    return notes


def _manifest(plan: StoryPlan, models: _Models, seconds: float) -> dict[str, Any]:
    """Gather what made the story."""
    job = plan.prepared.job
    return {
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": asdict(job),
        "grids": [asdict(grid) for grid in plan.prepared.grids],
        "inputs_sha256": [hub.file_sha256(path) for path in job.inputs],
        "model": {
            "name": plan.spec.name,
            "license": plan.spec.license,
            "weights": dict(models.any().weights),
            "adapters": {one.adapter: one.adapter_sha256 for one in models.loaded.values()},
        },
        "machine": {"device": plan.device, "dtype": plan.dtype},
        "seconds": round(seconds, 3),
        "outputs": {
            path.name: title
            for (path,), title in zip(plan.prepared.outputs.videos, titles_of(job), strict=True)
        },
    }
