"""From painted cells to files: choose among tries, compare with an earlier run, write.

Everything goes through the clip piece by piece, so that a long one is never held whole.

Letters: T frames, H W height/width, C the 3 colours.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dcgrid import __version__, hub
from dcgrid.errors import DeviceError
from dcgrid.pipelines.candidates import Measure, Ranker, Try, rank_by_measures, why_first
from dcgrid.pipelines.choose import TryScore, mean_score, rank_scores, score_try
from dcgrid.pipelines.footage import Footage, clip_fps
from dcgrid.pipelines.manifest import OutputRecord
from dcgrid.pipelines.outputs import StagedFiles
from dcgrid.pipelines.paint import GivenClip
from dcgrid.pipelines.painted import Painted
from dcgrid.pipelines.plan import PixelKey, RunPlan
from dcgrid.pipelines.progress import Progress
from dcgrid.pipelines.windows import sheet_frames
from dcgrid.video.resample import resample_pieces, resampled_count
from dcgrid.video.sheet import tile_grid, write_contact_sheet
from dcgrid.video.write import write_pieces

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
    cell: int
    """The cell that it was painted in."""
    seed: int
    """Seed of the noise that it was painted from."""
    candidate: int = 0
    """Number of that seed among those of the run."""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    """What it was ranked by; empty: by `score`."""
    score: TryScore | None
    """How well it kept the clip; None: there was none."""
    frames_sha256: str
    """Hash of its pixels."""

    def record(self, written: Path) -> OutputRecord:
        """Return what the manifest says of it, once it is written (under a name of the moment)."""
        score = self.score
        return OutputRecord(
            path=self.path.name,
            edit=self.edit,
            cell=self.cell,
            frames_sha256=self.frames_sha256,
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
    """A grid painted from one seed."""

    seed: int
    """The seed."""
    painted: Painted
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
    scores = [score_cells(footage[0], one.painted) for one in candidates]
    groups = zip(prepared.grid.names, prepared.grid.tries, prepared.outputs.videos, strict=True)
    for index, (name, cells, paths) in enumerate(groups):
        tries = [
            Try(candidate=number, seed=one.seed, cell=cell, score=scores[number][cell])
            for number, one in enumerate(candidates)
            for cell in cells
        ]
        if prepared.expected_frames:
            known = prepared.expected_frames
            tries = [one for one in tries if _expected(known, name, one.cell, one.seed)] or tries
        elif ranker is not None:
            tries = _ranked(plan, index, tries, footage, candidates, ranker, progress)
        if ranker is None or prepared.expected_frames:
            order = rank_scores([one.score for one in tries])
            tries = [tries[place] for place, _ in order]
        for path, one in zip(paths, tries, strict=False):
            pieces = candidates[one.candidate].painted.pieces(one.cell)
            takes.append(
                Take(
                    path=path,
                    edit=name,
                    cell=one.cell,
                    seed=one.seed,
                    candidate=one.candidate,
                    measures=one.measures,
                    score=one.score,
                    frames_sha256=hash_pieces(pieces, plan.clips[0].num_frames),
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
    # A clip of several windows is judged by its first one.
    given_THWC = footage[0].frames(plan.windows[0])
    progress.start(f"ranking {edit.name}", len(tries))
    measured = []
    for done, one in enumerate(tries, start=1):
        made_THWC = next(iter(candidates[one.candidate].painted.pieces(one.cell)))
        text = f"{subject} {edit.clause}"
        found = ranker.measure(given_THWC[: len(made_THWC)], made_THWC, text, spec.fps)
        measured.append(replace(one, measures=found))
        progress.update(done)
    order = rank_by_measures(measured, ranker.keys)
    progress.note(f"{why_first(edit.name, measured, order, ranker.keys)}.")
    return [measured[place] for place in order]


def compare_takes(plan: RunPlan, takes: Sequence[Take], progress: Progress) -> bool | None:
    """Compare pixels with those of the run that is repeated; None if none is.

    Raises:
        DeviceError: They differ and `force` is not set.
    """
    expected = plan.prepared.expected_frames
    if not expected:
        return None
    other = other_pixels(expected, takes)
    return tell_other_pixels(other, progress, force=plan.prepared.job.force)


def other_pixels(expected: Mapping[PixelKey, str], takes: Sequence[Take]) -> list[str]:
    """Return the names of takes whose pixels are not the expected ones, by edit, cell and seed."""
    return [
        take.edit
        for take in takes
        if _expected(expected, take.edit, take.cell, take.seed) != take.frames_sha256
    ]


def _expected(frames: Mapping[PixelKey, str], edit: str, cell: int, seed: int) -> str | None:
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
    progress.start("writing", len(outputs.all()) - 1)
    video = _VideoWriter(plan=plan, footage=footage[0])
    for done, take in enumerate(takes, start=1):
        part = staged.stage(take.path)
        told = video.write(part, partial(candidates[take.candidate].painted.pieces, take.cell))
        notes += [note for note in told if note not in notes]
        records.append(take.record(part))
        progress.update(done)
    if outputs.sheet is not None:
        _write_sheet(plan, footage, candidates, takes, staged.stage(outputs.sheet))
    if outputs.grid is not None:
        grid_part = staged.stage(outputs.grid)
        first = candidates[takes[0].candidate].painted
        video.write(grid_part, lambda: _grid_pieces(plan, footage, first))
    return records, notes


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


def hash_pieces(pieces: Iterable[Tensor], num_frames: int) -> str:
    """Return the SHA-256 of a clip's shape and pixels, as `HashedPieces` does."""
    hashed = HashedPieces(lambda: pieces, num_frames)
    for _ in hashed():
        pass
    return hashed.hexdigest


@dataclass(frozen=True, slots=True, kw_only=True)
class _VideoWriter:
    """Writes cells at the wanted rate, with the sound of the first input."""

    plan: RunPlan
    footage: Footage

    def write(self, path: Path, pieces: Pieces) -> tuple[str, ...]:
        """Write a video; return what was changed or left out."""
        count, fps = self.footage.plan.num_frames, clip_fps(self.plan)
        wanted = self._wanted_fps()
        report = write_pieces(
            path,
            pieces if wanted == fps else lambda: resample_pieces(pieces(), count, fps, wanted),
            wanted,
            num_frames=resampled_count(count, fps, wanted),
            sound=self.footage.sound(),
            comment=f"made by dcgrid {__version__} with the model {self.plan.spec.name}",
        )
        return report.notes

    def _wanted_fps(self) -> Fraction:
        """Return the model's rate, or the source's where that is asked for and known."""
        source_fps = self.footage.plan.info.fps_avg
        if self.plan.prepared.job.fps == "model" or not source_fps:
            return clip_fps(self.plan)
        return Fraction(source_fps).limit_denominator(1001)


def score_cells(given: GivenClip, painted: Painted) -> dict[int, TryScore]:
    """Score every cell in one pass: a long clip is decoded anew each time it is gone through."""
    scores: dict[int, list[TryScore]] = {cell: [] for cell in painted.cells}
    streams = [painted.pieces(cell) for cell in painted.cells]
    for window, *made in zip(painted.windows, *streams, strict=True):
        given_THWC = given.frames(window)[window.fresh]
        for cell, made_THWC in zip(painted.cells, made, strict=True):
            scores[cell].append(score_try(given_THWC, made_THWC))
    return {cell: mean_score(pieces) for cell, pieces in scores.items()}


def _write_sheet(
    plan: RunPlan,
    footage: Sequence[Footage],
    candidates: Sequence[Candidate],
    takes: Sequence[Take],
    path: Path,
) -> None:
    """Write frames of the inputs and of each edit's best try."""
    grid, wanted = plan.prepared.grid, sheet_frames(plan.windows, SHEET_FRAMES)
    best = {take.edit: take for take in reversed(takes)}
    made = [
        picked(candidates[best[name].candidate].painted.pieces(best[name].cell), wanted)
        for name in grid.names
    ]
    size = (made[0].shape[1], made[0].shape[2])
    given = [enlarged(picked(one.pieces(plan.windows), wanted), size) for one in footage]
    labels = [grid.labels[cell] for cell in grid.given] + list(grid.names)
    write_contact_sheet(
        path, [[row] for row in (*given, *made)], labels, frames_per_clip=len(wanted)
    )


def _grid_pieces(plan: RunPlan, footage: Sequence[Footage], painted: Painted) -> Iterator[Tensor]:
    """Yield the whole grid, the inputs enlarged to the size of the painted cells."""
    grid = plan.prepared.grid
    streams = {cell: painted.pieces(cell) for cell in painted.cells}
    streams |= {
        cell: one.pieces(plan.windows) for cell, one in zip(grid.given, footage, strict=True)
    }
    ordered = [streams[cell] for cell in sorted(streams)]
    size_of = painted.cells[0]
    for pieces in zip(*ordered, strict=True):
        size = tuple(pieces[size_of].shape[1:3])
        yield tile_grid([enlarged(one, (size[0], size[1])) for one in pieces], grid.rows, grid.cols)


def picked(pieces: Iterable[Tensor], wanted: Sequence[int]) -> Tensor:
    """Return the frames of these numbers, THWC."""
    frames, first = [], 0
    for piece_THWC in pieces:
        inside = [n - first for n in wanted if first <= n < first + len(piece_THWC)]
        frames += [piece_THWC[n] for n in inside]
        first += len(piece_THWC)
    return torch.stack(frames)


def enlarged(frames_THWC: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge frames to a height and width, for pictures only."""
    if tuple(frames_THWC.shape[1:3]) == size:
        return frames_THWC
    video_TCHW = rearrange(frames_THWC, "t h w c -> t c h w").float()
    larger_TCHW = F.interpolate(video_TCHW, size, mode="bicubic", antialias=True)
    return rearrange(larger_TCHW.round().clamp(0, 255).to(torch.uint8), "t c h w -> t h w c")
