"""Which of several tries at an edit is delivered: by two cheap scores, or by named metrics.

    seed 0  [given  rain]   seed 1  [given  rain]        four tries at rain, ranked together
            [rain   snow]           [rain   snow]        two at snow

The cheap scores know nothing of the effect. They ask whether a try kept the clip: an edit that lost
the subject or flickers is worse than one that did not. They cannot say which rain is prettier.
Metrics are measured by a `Ranker`, which the command line brings along.

Letters: T frames, H W height and width of a small picture, 3 are red, green, blue.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dcgrid import hub
from dcgrid.io.progress import Progress
from dcgrid.pipelines.generate import Generated, GeneratedClip, GivenClip
from dcgrid.pipelines.manifest import OutputRecord, PixelKey
from dcgrid.pipelines.plan import GenerationPlan
from dcgrid.video.pixels import unit_of

_SIDE = 64
# Flicker of one grey level in 255 on average costs about 0.04 of the score.
_FLICKER_WEIGHT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TryScore:
    """How well a try kept the clip."""

    structure: float
    """Correlation of the edges with the given clip's, mean over frames; -1..1."""
    flicker: float
    """How much more large areas jump in brightness than in the given clip; >= 0, 1 is white."""

    @property
    def total(self) -> float:
        """Higher is better."""
        return self.structure - _FLICKER_WEIGHT * self.flicker


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric of one try."""

    label: str
    """Name for people, e.g. "ID"."""
    value: float | None
    """None: it could not be measured."""
    higher_is_better: bool
    """Which way is better."""
    reason: str = ""
    """Why it could not be measured."""


class Ranker(Protocol):
    """Measures tries at an edit."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Metrics, the one that decides ties first."""

    def measure(
        self, given_THWC: Tensor, made_THWC: Tensor, text: str, fps: float
    ) -> Mapping[str, Measure]:
        """Measure a try.

        Args:
            given_THWC: The given clip, uint8.
            made_THWC: The try, uint8, as many frames.
            text: What it should show.
            fps: Frames per second.

        Returns:
            A measure for each of `keys`.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One generated cell that shows an edit."""

    generated: Generated
    """The grid that it is a cell of."""
    cell: int
    """The cell."""
    score: TryScore | None
    """How well it kept the clip; None: none is given."""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    """What a ranker found; empty: there was none."""

    @property
    def seed(self) -> int:
        """Seed of its noise."""
        return self.generated.seed

    @property
    def clip(self) -> GeneratedClip:
        """Its frames."""
        return GeneratedClip(self.generated, self.cell)


@dataclass(frozen=True, slots=True, kw_only=True)
class Take(Try):
    """A try that will be written."""

    path: Path
    """Where it goes."""
    edit: str
    """Name of the edit that it shows."""
    text: str
    """Words of that edit; may be empty."""

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


def choose_takes(
    plan: GenerationPlan,
    number: int,
    given: Sequence[GivenClip],
    candidates: Sequence[Generated],
    ranker: Ranker | None,
    progress: Progress,
) -> list[Take]:
    """Rank the tries at each edit of a grid and give the kept ones their files, the best first.

    Where an earlier run is repeated, its takes are taken and nothing is ranked.

    Args:
        plan: What is run.
        number: The grid, from 0.
        given: The clips given to it; without one nothing is scored, and the first tries are taken.
        candidates: What was generated of it, a seed each.
        ranker: Measures tries; None: the cheap scores rank them.
        progress: Gets stages, steps and remarks.
    """
    grid, prepared, takes = plan.grids[number], plan.prepared, list[Take]()
    before = sum(len(one.edits) for one in plan.grids[:number])
    picture = plan.clips[0].picture if plan.clips else (slice(None), slice(None))
    scores = [score_cells(given[0], one, picture) if given else {} for one in candidates]
    for index, (edit, cells) in enumerate(zip(grid.edits, grid.tries, strict=True)):
        tries = [
            Try(generated=one, cell=cell, score=found.get(cell))
            for one, found in zip(candidates, scores, strict=True)
            for cell in cells
        ]
        if known := prepared.expected_frames:
            tries = [
                one for one in tries if expected_hash(known, edit.name, one.cell, one.seed)
            ] or tries
        elif ranker is not None and given:
            tries = _ranked(plan, number, index, tries, given[0], ranker, progress)
        if ranker is None or prepared.expected_frames:
            tries = sorted(tries, key=lambda one: 0.0 if one.score is None else -one.score.total)
        for path, one in zip(prepared.outputs.videos[before + index], tries, strict=False):
            takes.append(
                Take(
                    path=path,
                    edit=edit.name,
                    text=edit.clause,
                    cell=one.cell,
                    generated=one.generated,
                    measures=one.measures,
                    score=one.score,
                )
            )
    return takes


def _ranked(
    plan: GenerationPlan,
    number: int,
    index: int,
    tries: Sequence[Try],
    given: GivenClip,
    ranker: Ranker,
    progress: Progress,
) -> list[Try]:
    """Measure the tries at an edit, say which is the best and why, and return them in order."""
    edit = plan.grids[number].edits[index]
    subject = plan.job.slots.get("subject") or "a person"
    # A clip of several windows is scored by its first one.
    rows, cols = plan.clips[0].picture
    given_THWC = given.frames(plan.windows[0])[:, rows, cols]
    progress.start(f"ranking {edit.name}", len(tries))
    measured = []
    for done, one in enumerate(tries, start=1):
        made_THWC = next(iter(one.generated.pieces(one.cell)))[:, rows, cols]
        text = f"{subject} {edit.clause}"
        found = ranker.measure(given_THWC[: len(made_THWC)], made_THWC, text, plan.spec.fps)
        measured.append(replace(one, measures=found))
        progress.update(done)
    order = rank_by_measures(measured, ranker.keys)
    progress.note(f"{why_first(edit.name, measured, order, ranker.keys)}.")
    return [measured[place] for place in order]


def expected_hash(
    frames: Mapping[PixelKey, str], edit: str, cell: int, seed: int | None
) -> str | None:
    """Return the hash that a repeated run must come to; None: it has no such result."""
    return frames.get((edit, cell, seed)) or frames.get((edit, cell, None))


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


def score_try(given_THWC: Tensor, filled_THWC: Tensor) -> TryScore:
    """Score a filled cell against the given clip.

    Args:
        given_THWC: Frames of the given clip, uint8.
        filled_THWC: Frames of the try, uint8, as many.

    Returns:
        The score. A clip without any edge (one colour) has structure 0.
    """
    given_THW, filled_THW = _small_luma(given_THWC), _small_luma(filled_THWC)
    return TryScore(
        structure=_edge_correlation(given_THW, filled_THW),
        flicker=max(0.0, _flicker(filled_THW) - _flicker(given_THW)),
    )


def mean_score(scores: Sequence[TryScore]) -> TryScore:
    """Return the mean score of the pieces of one try."""
    return TryScore(
        structure=statistics.fmean(score.structure for score in scores),
        flicker=statistics.fmean(score.flicker for score in scores),
    )


def rank_tries(given_THWC: Tensor, tries_NTHWC: Tensor) -> list[tuple[int, TryScore]]:
    """Return the indices of tries with their scores, the best first; ties keep their order."""
    scores = [score_try(given_THWC, one) for one in tries_NTHWC]
    return sorted(enumerate(scores), key=lambda pair: -pair[1].total)


def rank_by_measures(tries: Sequence[Try], keys: Sequence[str]) -> list[int]:
    """Return the indices of tries, the best first: by the mean of their ranks under each metric.

    Ranks, so that a metric with wide values does not outvote the others. Tries that are equal so
    far are ordered by the first metric, then by the next, then by their order. A metric that no try
    has a value of is left out; a try without a value where others have one is last under it.
    """
    columns = [ranks for key in keys if (ranks := _ranks(tries, key)) is not None]
    if not columns:
        return list(range(len(tries)))
    means = [statistics.fmean(column[index] for column in columns) for index in range(len(tries))]

    def order(index: int) -> tuple[float, ...]:
        return (means[index], *(column[index] for column in columns), index)

    return sorted(range(len(tries)), key=order)


def why_first(name: str, tries: Sequence[Try], order: Sequence[int], keys: Sequence[str]) -> str:
    """Return in a sentence why a try was taken, with its measures beside the best of all."""
    best = tries[order[0]]
    parts = []
    for key in keys:
        measure = best.measures[key]
        values = [one.measures[key].value for one in tries]
        found = [value for value in values if value is not None]
        if measure.value is None:
            parts.append(f"{measure.label} not measured ({measure.reason})")
            continue
        top = max(found) if measure.higher_is_better else min(found)
        beside = "the best" if measure.value == top else f"best {top:.4f}"
        parts.append(f"{measure.label} {measure.value:.4f} ({beside})")
    return f"{name}: seed {best.seed}, cell {best.cell} of {len(tries)} tries; {', '.join(parts)}"


def _ranks(tries: Sequence[Try], key: str) -> list[float] | None:
    """Return the rank of each try under a metric, 0 the best, equal ones sharing theirs.

    None: no try has a value.
    """
    values = [_badness(one.measures[key]) for one in tries]
    if all(value is None for value in values):
        return None
    known = [float("inf") if value is None else value for value in values]
    return [
        sum(other < own for other in known) + (sum(other == own for other in known) - 1) / 2
        for own in known
    ]


def _badness(measure: Measure) -> float | None:
    if measure.value is None:
        return None
    return -measure.value if measure.higher_is_better else measure.value


def _small_luma(frames_THWC: Tensor) -> Tensor:
    """Return brightness in [0, 1] at 64 x 64: edges of things, not noise."""
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    # Smoothed and not averaged over boxes: a clip and its enlarged edit then match point by point.
    small = F.interpolate(
        unit_of(rearrange(frames_THWC, "t h w c -> t c h w")),
        (_SIDE, _SIDE),
        mode="bilinear",
        antialias=True,
    )
    return (small * rearrange(weights, "c -> 1 c 1 1").to(small.device)).sum(dim=1)


def _edge_correlation(first_THW: Tensor, second_THW: Tensor) -> float:
    first, second = _edges(first_THW), _edges(second_THW)
    first = first - first.mean(dim=1, keepdim=True)
    second = second - second.mean(dim=1, keepdim=True)
    return float(F.cosine_similarity(first, second, dim=1, eps=1e-6).mean())


def _edges(luma_THW: Tensor) -> Tensor:
    """Return how steep the brightness is at each point, one row per frame."""
    down = luma_THW[:, 1:, :-1] - luma_THW[:, :-1, :-1]
    right = luma_THW[:, :-1, 1:] - luma_THW[:, :-1, :-1]
    return rearrange((down.square() + right.square()).sqrt(), "t h w -> t (h w)")


def _flicker(luma_THW: Tensor) -> float:
    """Return the mean second difference in time of 8 x 8 areas; 0 for fewer than 3 frames."""
    if len(luma_THW) < 3:
        return 0.0
    areas = F.adaptive_avg_pool2d(rearrange(luma_THW, "t h w -> t 1 h w"), (8, 8))
    return float((areas[2:] - 2 * areas[1:-1] + areas[:-2]).abs().mean())
