"""From values of frames to a score."""

import math
from collections.abc import Sequence

from dcgrid.eval.results import Score

NO_FRAMES = "no frames"
"""Reason of a clip of length 0."""


def mean_score(values: Sequence[float | None], *, none: str, first: int = 0) -> Score:
    """Return the mean of the values that there are, with the values as the series.

    A value that is no number spoils the score: it means that a picture or a network is broken, and
    the mean of the rest would hide it.

    Args:
        values: A value a frame; None: the frame has none.
        none: The reason where no frame has a value.
        first: Frame of the result that the first value stands at.
    """
    finite = [value if value is None or math.isfinite(value) else None for value in values]
    frames = tuple(range(first, first + len(values)))
    broken = sum(old is not None and new is None for old, new in zip(values, finite, strict=True))
    kept = [value for value in finite if value is not None]
    value, reason = (sum(kept) / len(kept), "") if kept else (None, none)
    if broken:
        value, reason = None, f"not a number in {broken} of {len(values)} frames"
    return Score(value=value, reason=reason, series=tuple(finite), frames=frames)


def no_score(reason: str) -> Score:
    """Return a score without a value."""
    return Score(value=None, reason=reason)
