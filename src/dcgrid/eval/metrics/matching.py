"""Which frame of one clip belongs to which of another, and which face to which."""

from collections.abc import Sequence

from dcgrid.eval.extra import need


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
