"""Scores of a clip frame by frame, and which frames and faces of two clips belong together."""

import math
from collections.abc import Sequence

from dcgrid.eval.results import Score
from dcgrid.runtime.install import need

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


def matched_frames(reference: int, result: int) -> tuple[int, ...]:
    """Return for each frame of a result the frame of the reference at the same relative time.

    Frame i of n stands for the time (i + 1/2) / n of its clip; clips of one length are matched
    frame by frame. Nothing is matched where one of them is empty.

    Args:
        reference: Frames of the reference.
        result: Frames of the result.
    """
    if not reference:
        return ()
    return tuple((2 * index + 1) * reference // (2 * result) for index in range(result))


def assign(costs: Sequence[Sequence[float]]) -> dict[int, int]:
    """Return the one-to-one assignment of rows to columns of the least total cost.

    As many pairs as the shorter side has members are made.

    Args:
        costs: A row a member of one side, a column a member of the other; finite.

    Returns:
        Column by row.

    Raises:
        UsageError: scipy is not installed.
    """
    if not costs or not costs[0]:
        return {}
    rows, columns = need("scipy.optimize").linear_sum_assignment(costs)
    return dict(zip(rows.tolist(), columns.tolist(), strict=True))
