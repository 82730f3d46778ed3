"""Write what was generated: videos, the reel of a story, a sheet of pictures, the grid.

Everything goes through the clips piece by piece, so that a long one is never held whole.

Letters: T frames, H W height/width, C the 3 colours.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dcgrid import __version__
from dcgrid.io.atomic import StagedFiles
from dcgrid.io.progress import Progress
from dcgrid.models.base import ModelSpec
from dcgrid.pipelines.clips import REEL_STAGE, FrameCounter, result_frames, writing_stage
from dcgrid.pipelines.footage import Footage, model_rate
from dcgrid.pipelines.generate import Generated
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.light import with_light
from dcgrid.pipelines.manifest import OutputRecord
from dcgrid.pipelines.plan import GenerationPlan
from dcgrid.pipelines.ranking import Take
from dcgrid.pipelines.script import StoryJob, titles_of
from dcgrid.pipelines.upsampling import (
    ResultClip,
    Shown,
    cell_noise,
    resized,
    text_size,
    upsampled,
    upsampler_for,
    without_source,
)
from dcgrid.video.clip import ClipPlan, Picture
from dcgrid.video.frames import clock_tick
from dcgrid.video.reel import reel_length, reel_pieces
from dcgrid.video.sheet import sheet_size, tile_grid, write_contact_sheet
from dcgrid.video.write import Timing, write_pictures, write_pieces

Pieces = Callable[[], Iterable[Tensor]]
"""Gives a clip piece by piece, from the first on each time it is called."""

SHEET_FRAMES, SCENE_FRAMES = 6, 4
"""Frames of each row of the contact sheet, and of a story's."""
TITLE_S = 1.5
"""Seconds that the reel shows a title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written, under temporary names."""

    records: tuple[OutputRecord, ...]
    """A record a video."""
    notes: tuple[str, ...]
    """What was changed or left out, a sentence each."""
    reel_sha256: str = ""
    """Hash of the reel's pixels; empty: there is none."""


def write_takes(
    plan: GenerationPlan,
    footage: Sequence[Footage],
    takes: Sequence[Take],
    staged: StagedFiles,
    progress: Progress,
) -> Written:
    """Write videos, reel, contact sheet and grid under temporary names.

    Raises:
        OutputError: A file cannot be written.
    """
    job, outputs, comment = plan.job, plan.prepared.outputs, _comment(plan)
    source = footage[0] if footage else None
    picks = SCENE_FRAMES if isinstance(job, StoryJob) else SHEET_FRAMES
    span_s = source.plan.duration_s if source else plan.num_frames / plan.spec.fps
    frames = result_frames(job, source.plan) if source else plan.num_frames
    timing = result_timing(job, source.plan, plan.spec) if source else _text_timing(plan)
    counter = FrameCounter(progress, frames * len(takes), writing_stage(job))
    records, notes, shown, count = list[OutputRecord](), list[str](), list[Watched](), 0
    for take in takes:
        part = staged.stage(take.path)
        watched = Watched(partial(results_of, plan, footage, take), span_s, picks)
        report = write_pictures(
            part,
            counter.counted(watched.pictures),
            timing,
            sound=source.sound() if source else None,
            comment=comment,
        )
        notes += [note for note in report.notes if note not in notes]
        records.append(take.record(part, watched.hexdigest))
        shown.append(watched)
        count = math.ceil(report.duration_s * timing.fps - 1e-3)
    reel_sha256 = ""
    if outputs.reel is not None:
        progress.start(REEL_STAGE)
        clips = [
            ResultClip(partial(results_of, plan, footage, take, timing.fps), count)
            for take in takes
        ]
        reel_sha256 = _write_reel(plan, clips, timing.fps, staged.stage(outputs.reel))
    if outputs.sheet is not None:
        best = dict(reversed([(one.edit, row) for one, row in zip(takes, shown, strict=True)]))
        _write_sheet(plan, footage, best, staged.stage(outputs.sheet))
    if outputs.grid is not None:
        _write_grid(plan, footage, takes[0].generated, staged.stage(outputs.grid))
    return Written(records=tuple(records), notes=tuple(notes), reel_sha256=reel_sha256)


def _comment(plan: GenerationPlan) -> str:
    return f"made by dcgrid {__version__} with the model {plan.spec.name}"


def _text_timing(plan: GenerationPlan) -> Timing:
    return Timing.constant(plan.spec.fps)


def results_of(
    plan: GenerationPlan,
    footage: Sequence[Footage],
    take: Take,
    rate: Fraction | None = None,
) -> Iterator[Shown]:
    """Yield the frames of a take at the size of its source.

    Args:
        plan: What is run.
        footage: The clip that it shows, and one that it is composed with; none: the text alone
            says what it shows.
        take: Which cell, of which noise.
        rate: Frames per second; None: those of the job.
    """
    job, noise = plan.job, None
    if not footage:
        size = plan.cell_size if job.upsample == "none" else text_size(plan.cell_size)
        return without_source(take.clip.pieces(), model_rate(plan.spec), size)
    if rate is None and job.fps == "model":
        rate = model_rate(plan.spec)
    source = footage[0]
    grid = plan.grids[0]  # those of a story are of one layout
    # Drops and sparks of a composition are those of its second clip.
    if job.generated_by == "grid" and grid.mode == "consistent":
        noise = cell_noise(
            plan.spec,
            plan.windows,
            source.plan,
            cells=len(grid.edit_of_cell),
            cell=take.cell,
            seed=take.seed,
            text=take.text,
        )
    upsampler = upsampler_for(job, source.plan, plan.spec, plan.device, noise)
    if len(footage) > 1 and footage[1].decoded is not None:
        upsampler = with_light(upsampler, footage[1], source.plan.picture)
    # A GPU makes frames faster than they are encoded.
    threads = torch.get_num_threads() if plan.device == "cpu" else 1
    return upsampled(source, plan.windows, take.clip.pieces(), upsampler, rate, threads=threads)


def result_timing(job: GridJob, clip: ClipPlan, spec: ModelSpec) -> Timing:
    """Return the rate of a result that has a source: the source's, or the model's."""
    info = clip.info
    if job.fps == "model":
        return Timing.constant(spec.fps)
    fps = info.rate or Fraction(info.fps_avg or spec.fps).limit_denominator(1001)
    return Timing(fps=fps, tick=clock_tick(info), varies=info.rate is None)


class Watched:
    """The frames of a result, hashed and sampled as they go by to where they are written."""

    def __init__(
        self, results: Callable[[], Iterator[Shown]], span_s: float, picks: int = SHEET_FRAMES
    ) -> None:
        self._results, self._span_s, self._picks = results, span_s, picks
        self._digest = hashlib.sha256()
        self._picked: list[Shown] = []

    def pictures(self) -> Iterator[Picture]:
        """Yield the frames; each time it is called for, anew."""
        self._digest, self._picked = hashlib.sha256(), []
        shown = None
        for shown in self._results():
            frame_HWC = shown.result.rgb_HWC
            if not self._picked:
                self._digest.update(f"{tuple(frame_HWC.shape)}".encode())
            self._digest.update(frame_HWC.contiguous().numpy().data)
            due_s = len(self._picked) * self._span_s / (self._picks - 1)
            if len(self._picked) < self._picks - 1 and shown.result.time >= due_s - 1e-6:
                self._picked.append(_for_sheet(shown))
            yield shown.result
        if shown is not None and shown.result.time > self._picked[-1].result.time:
            self._picked.append(_for_sheet(shown))

    @property
    def hexdigest(self) -> str:
        """The SHA-256 of the size and of the pixels of all frames."""
        return self._digest.hexdigest()

    @property
    def sources(self) -> list[Tensor]:
        """Evenly spaced frames of the source, HWC, at the size of a picture on a sheet."""
        return [one.source.rgb_HWC for one in self._picked]

    @property
    def results(self) -> list[Tensor]:
        """The frames of the result beside them."""
        return [one.result.rgb_HWC for one in self._picked]

    @property
    def times_s(self) -> list[float]:
        """When they are on display."""
        return [float(one.result.time) for one in self._picked]


def _for_sheet(shown: Shown) -> Shown:
    """Return small copies of frames, so that large ones are let go."""
    found = []
    for one in (shown.source, shown.result):
        height, width = one.rgb_HWC.shape[:2]
        small_HWC = resized(one.rgb_HWC[None], sheet_size((height, width)))[0]
        found.append(replace(one, rgb_HWC=small_HWC))
    source, result = found
    return Shown(source=source, result=result)


class HashedPieces:
    """The pieces of a clip, hashed as they go by; each time they are called for, anew."""

    def __init__(self, pieces: Pieces, num_frames: int) -> None:
        self._pieces, self._num_frames = pieces, num_frames
        self._digest: hashlib._Hash | None = None

    def __call__(self) -> Iterator[Tensor]:
        """Yield the pieces."""
        self._digest = None
        for piece_THWC in self._pieces():
            if self._digest is None:
                shape = (self._num_frames, *piece_THWC.shape[1:])
                self._digest = hashlib.sha256(f"{shape}".encode())
            self._digest.update(piece_THWC.contiguous().numpy().tobytes())
            yield piece_THWC

    @property
    def hexdigest(self) -> str:
        """The SHA-256 of the clip's shape and pixels; where the pieces end does not show in it."""
        if self._digest is None:
            raise ValueError("a clip has at least one piece")
        return self._digest.hexdigest()


def _write_reel(
    plan: GenerationPlan, clips: Sequence[ResultClip], fps: Fraction, path: Path
) -> str:
    """Write the reel, at one rate whatever that of the clip; return the hash of its pixels."""
    job = plan.job
    if not isinstance(job, StoryJob):
        raise ValueError(f"{job.command} has no reel")
    title_s = TITLE_S if job.titles else 0
    count = reel_length([len(clip) for clip in clips], fps, job.fade_s)
    pieces = HashedPieces(
        partial(reel_pieces, clips, titles_of(job), fps, title_s=title_s, fade_s=job.fade_s), count
    )
    write_pieces(path, pieces, fps, num_frames=count, comment=_comment(plan))
    return pieces.hexdigest


def _write_sheet(
    plan: GenerationPlan, footage: Sequence[Footage], best: Mapping[str, Watched], path: Path
) -> None:
    """Write frames of the inputs, and of the best try at each edit or scene."""
    job, grid = plan.job, plan.grids[0]
    rows = [best[name] for name in plan.prepared.names]
    labels, pictures = plan.prepared.names, [row.results for row in rows]
    given = [grid.labels[cell] for cell in grid.given]
    if isinstance(job, StoryJob):
        labels = [f"{number} {title}" for number, title in enumerate(titles_of(job), start=1)]
        given = ["clip"]
    if not footage:
        write_contact_sheet(path, pictures, labels)
        return
    sources = rows[0].sources
    last = plan.clips[0].num_frames - 1
    numbers = [min(round(time_s * plan.spec.fps), last) for time_s in rows[0].times_s]
    size = tuple(sources[0].shape[:2])
    others = [
        list(resized(picked(one.pieces(plan.windows), numbers), (size[0], size[1])))
        for one in footage[1:]
    ]
    write_contact_sheet(path, [sources, *others, *pictures], [*given, *labels])


def _write_grid(
    plan: GenerationPlan, footage: Sequence[Footage], generated: Generated, path: Path
) -> None:
    """Write all cells as the model has them: its size, its rate; what is held is left out."""
    grid, clip = plan.grids[0], plan.clips[0]
    count = clip.num_frames - clip.held_frames

    def pieces() -> Iterator[Tensor]:
        streams = {cell: generated.pieces(cell) for cell in generated.cells}
        streams |= {
            cell: one.pieces(plan.windows) for cell, one in zip(grid.given, footage, strict=True)
        }
        ordered, left = [streams[cell] for cell in sorted(streams)], count
        for cells in zip(*ordered, strict=True):
            tiled_THWC = tile_grid(cells, grid.rows, grid.cols)[:left]
            left -= len(tiled_THWC)
            if len(tiled_THWC):
                yield tiled_THWC

    write_pieces(path, pieces, model_rate(plan.spec), num_frames=count, sound=footage[0].sound())


def picked(pieces: Iterable[Tensor], numbers: Sequence[int]) -> Tensor:
    """Return the frames of these numbers, THWC."""
    frames, first = [], 0
    for piece_THWC in pieces:
        inside = [n - first for n in numbers if first <= n < first + len(piece_THWC)]
        frames += [piece_THWC[n] for n in inside]
        first += len(piece_THWC)
    return torch.stack(frames)
