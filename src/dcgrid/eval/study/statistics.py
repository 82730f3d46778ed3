"""The statistics of a table of preferences: intervals and tests of shares, by scipy.

Sources: E. B. Wilson, JASA 22 (1927), for the interval; S. Holm, Scand. J. Statist. 6 (1979), for
several tests at once; B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), ch. 13,
for the percentile interval, here over raters and not over answers.
"""

from collections.abc import Sequence
from typing import Any

from dcgrid.eval.extra import need

RESAMPLES = 2000
"""Draws of raters that an interval is taken from."""


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share, both ends in [0, 1].

    Args:
        hits: Successes; 0 to `count`.
        count: Trials; >= 1.

    Raises:
        ValueError: No trial, or more successes than trials.
        UsageError: scipy is not installed.
    """
    interval = _binomial(hits, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def binomial_test(hits: int, count: int) -> float:
    """Return the two-sided exact p-value of a share against one half; see `wilson`."""
    return float(_binomial(hits, count).pvalue)


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

    Raises:
        UsageError: scipy is not installed.
    """
    raters = [(hit, count) for hit, count in zip(hits, counts, strict=True) if count]
    if len(raters) < 2:
        return None

    def share(hits: Any, counts: Any, axis: int) -> Any:  # noqa: ANN401 - arrays
        return hits.sum(axis=axis) / counts.sum(axis=axis)

    drawn = need("scipy.stats").bootstrap(
        tuple(zip(*raters, strict=True)),
        share,
        n_resamples=RESAMPLES,
        paired=True,
        method="percentile",
        rng=seed,
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def _binomial(hits: int, count: int) -> Any:  # noqa: ANN401 - a result of scipy
    return need("scipy.stats").binomtest(hits, count)
