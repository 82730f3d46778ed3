"""The statistics of a table of preferences: intervals and tests of shares. Only `math` is needed.

Sources: E. B. Wilson, JASA 22 (1927), for the interval; S. Holm, Scand. J. Statist. 6 (1979), for
several tests at once; B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), ch. 13,
for the percentile interval, here over raters and not over answers.
"""

import math
from collections.abc import Sequence

from dcgrid.eval.study.order import Draw

Z_95 = 1.959963984540054
"""Quantile 0.975 of the normal distribution."""
RESAMPLES = 2000
"""Draws of raters that an interval is taken from."""


def wilson(hits: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a share.

    Args:
        hits: Successes; 0 to `count`.
        count: Trials; >= 1.
        z: Normal quantile; 1.96 for 95 %.

    Returns:
        Low and high end, both in [0, 1].

    Raises:
        ValueError: No trial, or more successes than trials.
    """
    _check(hits, count)
    share, square = hits / count, z * z
    middle = share + square / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    scale = 1 + square / count
    # At 0 and 1 the formula gives the end itself, up to rounding.
    low = 0.0 if hits == 0 else max(0.0, (middle - half) / scale)
    high = 1.0 if hits == count else min(1.0, (middle + half) / scale)
    return low, high


def binomial_test(hits: int, count: int) -> float:
    """Return the two-sided exact p-value of a share against one half.

    Half and half is symmetric, so it is twice the smaller tail, at most 1.

    Args:
        hits: Successes; 0 to `count`.
        count: Trials; >= 1.

    Raises:
        ValueError: No trial, or more successes than trials.
    """
    _check(hits, count)
    # Whole numbers, each way of choosing from the one before: nothing overflows, no small term is
    # lost, and ten thousand answers take a moment.
    ways = tail = 1
    for one in range(min(hits, count - hits)):
        ways = ways * (count - one) // (one + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << count))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def rater_interval(
    hits: Sequence[int], counts: Sequence[int], seed: int = 0
) -> tuple[float, float] | None:
    """Return a 95 % interval of a share whose answers belong together by rater.

    Whole raters are drawn again with replacement, with all of their answers, so that raters who
    always choose alike widen the interval. Percentiles 2.5 and 97.5 of `RESAMPLES` draws. With few
    raters it is too narrow, and where all answers agree it has no width.

    Args:
        hits: Successes of each rater.
        counts: Trials of each rater; raters without any are passed over.
        seed: The same seed gives the same interval.

    Returns:
        Low and high end; None: fewer than two raters.
    """
    raters = [(hit, count) for hit, count in zip(hits, counts, strict=True) if count]
    if len(raters) < 2:
        return None
    draw = Draw(seed)
    shares = []
    for _ in range(RESAMPLES):
        drawn = [raters[draw.below(len(raters))] for _ in raters]
        shares.append(sum(hit for hit, _ in drawn) / sum(count for _, count in drawn))
    shares.sort()
    return _quantile(shares, 0.025), _quantile(shares, 0.975)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of ordered values, on the line between the two nearest."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _check(hits: int, count: int) -> None:
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"{hits} of {count}")
