"""Best of N: a grid generated with several seeds, and the best of all its tries by named metrics.

    seed 0  [given  rain]   seed 1  [given  rain]        four tries at rain, ranked together
            [rain   snow]           [rain   snow]        two at snow

Metrics are measured by a `Ranker` that the command line brings along; without one the cheap scores
of choose.py rank. No torch here but tensors that are passed on.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dcgrid.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from dcgrid.pipelines.choose import TryScore

MAX_CANDIDATES = 64
"""Most seeds of one run."""


class Ranker(Protocol):
    """Measures tries at an edit."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Metrics, the one that decides ties first."""

    def measure(
        self, given_THWC: "Tensor", made_THWC: "Tensor", text: str, fps: float
    ) -> Mapping[str, "Measure"]:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One generated cell that shows an edit."""

    candidate: int
    """Number of the seed, from 0."""
    seed: int
    """The seed."""
    cell: int
    """The cell."""
    score: "TryScore"
    """The cheap scores."""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    """What a ranker found; empty: there was none."""


def check_candidates(count: int, rank: Sequence[str], seed: int) -> None:
    """Refuse a number of candidates, or a ranking, that cannot be.

    Raises:
        UsageError: It cannot.
    """
    if not 1 <= count <= MAX_CANDIDATES:
        raise UsageError(
            f"{count} candidates are out of range", hint=f"use --candidates 1 to {MAX_CANDIDATES}"
        )
    if seed + count > 2**63:
        raise UsageError(f"seed {seed} leaves no seeds for {count} candidates", hint="use --seed 0")
    if len(set(rank)) < len(rank) or not all(rank):
        raise UsageError(
            f"--rank {','.join(rank)} names a metric twice, or none",
            hint="name each once: --rank id,ct,tc",
        )


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
    told = []
    for key in keys:
        measure = best.measures[key]
        values = [one.measures[key].value for one in tries]
        found = [value for value in values if value is not None]
        if measure.value is None:
            told.append(f"{measure.label} not measured ({measure.reason})")
            continue
        top = max(found) if measure.higher_is_better else min(found)
        beside = "the best" if measure.value == top else f"best {top:.4f}"
        told.append(f"{measure.label} {measure.value:.4f} ({beside})")
    return f"{name}: seed {best.seed}, cell {best.cell} of {len(tries)} tries; {', '.join(told)}"


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
