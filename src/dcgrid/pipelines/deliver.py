"""From generated cells to files: choose among tries, compare with an earlier run, write.

Everything goes through the clip piece by piece, so that a long one is never held whole.

Letters: T frames, H W height/width, C the 3 colours.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dcgrid import __version__, hub
from dcgrid.errors import DeviceError
from dcgrid.io.atomic import StagedFiles
from dcgrid.io.progress import Progress
from dcgrid.models.base import ModelSpec
from dcgrid.pipelines.candidates import Measure, Ranker, Try, rank_by_measures, why_first
from dcgrid.pipelines.choose import TryScore, mean_score, rank_scores, score_try
from dcgrid.pipelines.footage import Footage, clip_fps
from dcgrid.pipelines.generate import GivenClip
from dcgrid.pipelines.generated import Generated, GeneratedClip
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.light import with_light
from dcgrid.pipelines.manifest import OutputRecord, PixelKey
from dcgrid.pipelines.plan import RunPlan
from dcgrid.pipelines.result import FrameCounter, result_frames, writing_stage
from dcgrid.pipelines.upsampling import (
    Shown,
    cell_noise,
    resized,
    upsampled,
    upsampler_for,
)
from dcgrid.video.clip import ClipPlan, Picture
from dcgrid.video.frames import clock_tick
from dcgrid.video.sheet import sheet_size, tile_grid, write_contact_sheet
from dcgrid.video.write import Timing, write_pictures, write_pieces

if TYPE_CHECKING:
    from dcgrid.pipelines.story_plan import StoryPlan

Pieces = Callable[[], Iterable[Tensor]]
"""Gives a clip piece by piece, from the first on each time it is called."""

SHEET_FRAMES = 6
"""Frames of each cell on the contact sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One video that will be written."""

    path: Path
    """Where it goes."""
    edit: str
    """Name of the edit that it shows."""
    text: str
    """Words of that edit; may be empty."""
    cell: int
    """The cell that it was generated in."""
    seed: int
    """Seed of the noise that it was generated from."""
    candidate: int = 0
    """Number of that seed among those of the run."""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    """What it was ranked by; empty: by `score`."""
    score: TryScore | None
    """How well it kept the clip; None: there was none."""

    def record(self, written: Path, frames_sha256: str) -> OutputRecord:
        """Return what the manifest says of it, once it is written.

        Args:
            written: The file, under a name of the moment.
            frames_sha256: Hash of its pixels.
        """
        score = self.score
        return OutputRecord(
            path=self.path.name,
            edit=self.edit,
            cell=self.cell,
            frames_sha256=frames_sha256,
            file_sha256=hub.file_sha256(written),
            structure=None if score is None else round(score.structure, 6),
            flicker=None if score is None else round(score.flicker, 6),
            seed=self.seed,
            measures={
                key: round(one.value, 6)
                for key, one in self.measures.items()
                if one.value is not None
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A grid generated from one seed."""

    seed: int
    """The seed."""
    generated: Generated
    """Its cells."""


def choose_takes(
    plan: RunPlan,
    footage: Sequence[Footage],
    candidates: Sequence[Candidate],
    ranker: Ranker | None,
    progress: Progress,
) -> list[Take]:
    """Rank the tries at each edit and give the kept ones their files, the best first.

    Where an earlier run is repeated, its takes are taken and nothing is ranked.
    """
    prepared, takes = plan.prepared, list[Take]()
    scores = [score_cells(footage[0], one.generated, footage[0].plan.picture) for one in candidates]
    groups = zip(prepared.grid.edits, prepared.grid.tries, prepared.outputs.videos, strict=True)
    for index, (edit, cells, paths) in enumerate(groups):
        tries = [
            Try(candidate=number, seed=one.seed, cell=cell, score=scores[number][cell])
            for number, one in enumerate(candidates)
            for cell in cells
        ]
        if prepared.expected_frames:
            known = prepared.expected_frames
            tries = [
                one for one in tries if _expected(known, edit.name, one.cell, one.seed)
            ] or tries
        elif ranker is not None:
            tries = _ranked(plan, index, tries, footage, candidates, ranker, progress)
        if ranker is None or prepared.expected_frames:
            order = rank_scores([one.score for one in tries])
            tries = [tries[place] for place, _ in order]
        for path, one in zip(paths, tries, strict=False):
            takes.append(
                Take(
                    path=path,
                    edit=edit.name,
                    text=edit.clause,
                    cell=one.cell,
                    seed=one.seed,
                    candidate=one.candidate,
                    measures=one.measures,
                    score=one.score,
                )
            )
    return takes


def _ranked(
    plan: RunPlan,
    index: int,
    tries: Sequence[Try],
    footage: Sequence[Footage],
    candidates: Sequence[Candidate],
    ranker: Ranker,
    progress: Progress,
) -> list[Try]:
    """Measure the tries at an edit, tell which is the best and why, and return them in order."""
    grid, spec = plan.prepared.grid, plan.spec
    edit = grid.edits[index]
    subject = plan.prepared.job.slots.get("subject") or "a person"
    # A clip of several windows is scored by its first one.
    rows, cols = footage[0].plan.picture
    given_THWC = footage[0].frames(plan.windows[0])[:, rows, cols]
    progress.start(f"ranking {edit.name}", len(tries))
    measured = []
    for done, one in enumerate(tries, start=1):
        made_THWC = next(iter(candidates[one.candidate].generated.pieces(one.cell)))[:, rows, cols]
        text = f"{subject} {edit.clause}"
        found = ranker.measure(given_THWC[: len(made_THWC)], made_THWC, text, spec.fps)
        measured.append(replace(one, measures=found))
        progress.update(done)
    order = rank_by_measures(measured, ranker.keys)
    progress.note(f"{why_first(edit.name, measured, order, ranker.keys)}.")
    return [measured[place] for place in order]


def compare_outputs(
    plan: RunPlan, records: Sequence[OutputRecord], progress: Progress
) -> bool | None:
    """Compare pixels with those of the run that is repeated; None if none is.

    Raises:
        DeviceError: They differ and `force` is not set.
    """
    expected = plan.prepared.expected_frames
    if not expected:
        return None
    other = other_pixels(expected, records)
    return tell_other_pixels(other, progress, force=plan.prepared.job.force)


def other_pixels(expected: Mapping[PixelKey, str], records: Sequence[OutputRecord]) -> list[str]:
    """Return the edits whose pixels are not the expected ones, by edit, cell and seed."""
    return [
        one.edit
        for one in records
        if _expected(expected, one.edit, one.cell, one.seed) != one.frames_sha256
    ]


def _expected(frames: Mapping[PixelKey, str], edit: str, cell: int, seed: int | None) -> str | None:
    return frames.get((edit, cell, seed)) or frames.get((edit, cell, None))


def tell_other_pixels(other: Sequence[str], progress: Progress, *, force: bool) -> bool:
    """Refuse a rerun, or warn of it, in which these came out differently; True: none did.

    Raises:
        DeviceError: Some did and `force` is False.
    """
    if not other:
        return True
    message = f"the rerun came to other pixels in {', '.join(other)}"
    if not force:
        raise DeviceError(
            message,
            hint="the machine, its torch or its threads differ from the manifest's, or the "
            "manifest was changed; --force writes the result all the same",
        )
    progress.warn(message)
    return False


def write_takes(
    plan: RunPlan,
    footage: Sequence[Footage],
    candidates: Sequence[Candidate],
    takes: Sequence[Take],
    staged: StagedFiles,
    progress: Progress,
) -> tuple[list[OutputRecord], list[str]]:
    """Write videos, contact sheet and grid under temporary names.

    Returns:
        A record of each video, and sentences about what was changed or left out.

    Raises:
        OutputError: A file cannot be written.
    """
    outputs, records, notes = plan.prepared.outputs, [], list[str]()
    source, best = footage[0], dict[str, Watched]()
    second = footage[1] if len(footage) > 1 else None
    rate = clip_fps(plan) if plan.prepared.job.fps == "model" else None
    job = plan.prepared.job
    total = result_frames(job, source.plan) * len(takes)
    counter = FrameCounter(progress, total, writing_stage(job))
    for take in takes:
        part = staged.stage(take.path)
        clip = GeneratedClip(candidates[take.candidate].generated, take.cell)
        watched = Watched(
            partial(results_of, plan, source, take, clip, rate, second=second),
            source.plan.duration_s,
        )
        report = write_pictures(
            part,
            counter.counted(watched.pictures),
            result_timing(plan.prepared.job, source.plan, plan.spec),
            sound=source.sound(),
            comment=f"made by dcgrid {__version__} with the model {plan.spec.name}",
        )
        notes += [note for note in report.notes if note not in notes]
        records.append(take.record(part, watched.hexdigest))
        best.setdefault(take.edit, watched)
    if outputs.sheet is not None:
        _write_sheet(plan, footage, best, staged.stage(outputs.sheet))
    if outputs.grid is not None:
        first = candidates[takes[0].candidate].generated
        _write_grid(plan, footage, first, staged.stage(outputs.grid))
    return records, notes


def results_of(
    plan: "RunPlan | StoryPlan",
    source: Footage,
    take: Take,
    clip: GeneratedClip,
    rate: Fraction | None,
    *,
    second: Footage | None = None,
) -> Iterator[Shown]:
    """Yield the frames of a take at the size of its source.

    Args:
        plan: What is run.
        source: The clip that it shows.
        take: Which cell, of which noise.
        clip: The frames of that cell.
        rate: Frames per second; None: each frame of the source at its own time.
        second: The clip that it is composed with.
    """
    job, noise = plan.prepared.job, None
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
    if second is not None and job.upsample == "guided":
        upsampler = with_light(upsampler, second, source.plan.picture, plan.windows[0])
    # A GPU makes frames faster than they are encoded.
    threads = torch.get_num_threads() if plan.device == "cpu" else 1
    return upsampled(source, plan.windows, clip.pieces(), upsampler, rate, threads=threads)


def result_timing(job: GridJob, clip: ClipPlan, spec: ModelSpec) -> Timing:
    """Return the rate of a result that has a source: the source's, or the model's."""
    info = clip.info
    if job.fps == "model":
        return Timing.constant(spec.fps)
    fps = info.rate or Fraction(info.fps_avg or spec.fps).limit_denominator(1001)
    return Timing(fps=fps, tick=clock_tick(info))


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


def score_cells(
    given: GivenClip,
    generated: Generated,
    picture: tuple[slice, slice] = (slice(None), slice(None)),
) -> dict[int, TryScore]:
    """Score every cell in one pass: a long clip is decoded anew each time it is gone through.

    Args:
        given: The clip that cells are compared with.
        generated: The cells.
        picture: Rows and columns of a cell that are not padding.
    """
    rows, cols = picture
    scores: dict[int, list[TryScore]] = {cell: [] for cell in generated.cells}
    streams = [generated.pieces(cell) for cell in generated.cells]
    for window, *made in zip(generated.windows, *streams, strict=True):
        given_THWC = given.frames(window)[window.fresh, rows, cols]
        for cell, made_THWC in zip(generated.cells, made, strict=True):
            scores[cell].append(score_try(given_THWC, made_THWC[:, rows, cols]))
    return {cell: mean_score(pieces) for cell, pieces in scores.items()}


def _write_sheet(
    plan: RunPlan, footage: Sequence[Footage], best: Mapping[str, Watched], path: Path
) -> None:
    """Write frames of the inputs and of each edit's best try."""
    grid = plan.prepared.grid
    rows = [best[name].results for name in grid.names]
    first = best[grid.names[0]]
    fps, last = plan.spec.fps, plan.clips[0].num_frames - 1
    wanted = [min(round(time_s * fps), last) for time_s in first.times_s]
    size = tuple(first.sources[0].shape[:2])
    others = [
        list(resized(picked(one.pieces(plan.windows), wanted), (size[0], size[1])))
        for one in footage[1:]
    ]
    labels = [grid.labels[cell] for cell in grid.given] + list(grid.names)
    write_contact_sheet(path, [first.sources, *others, *rows], labels)


def _write_grid(
    plan: RunPlan, footage: Sequence[Footage], generated: Generated, path: Path
) -> None:
    """Write all cells as the model has them: its size, its rate; what is held is left out."""
    grid, clip = plan.prepared.grid, plan.clips[0]
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

    write_pieces(path, pieces, clip_fps(plan), num_frames=count, sound=footage[0].sound())


def picked(pieces: Iterable[Tensor], wanted: Sequence[int]) -> Tensor:
    """Return the frames of these numbers, THWC."""
    frames, first = [], 0
    for piece_THWC in pieces:
        inside = [n - first for n in wanted if first <= n < first + len(piece_THWC)]
        frames += [piece_THWC[n] for n in inside]
        first += len(piece_THWC)
    return torch.stack(frames)
