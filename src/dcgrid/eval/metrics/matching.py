"""Which frame of one clip belongs to which of another, and which face to which."""

from collections.abc import Sequence


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

    As many pairs as the shorter side has members are made (Kuhn 1955, in the form with potentials
    and shortest augmenting paths, O(n^3)).

    Args:
        costs: A row a member of one side, a column a member of the other; finite.

    Returns:
        Column by row.
    """
    if not costs or not costs[0]:
        return {}
    if len(costs) > len(costs[0]):
        turned = assign(list(zip(*costs, strict=True)))
        return {row: column for column, row in turned.items()}
    # Row and column 0 are a start from which no one is assigned; the members count from 1.
    rows, columns = len(costs), len(costs[0])
    row_price, column_price = [0.0] * (rows + 1), [0.0] * (columns + 1)
    owner = [0] * (columns + 1)
    for row in range(1, rows + 1):
        owner[0] = row
        column, before = _cheapest_path(costs, owner, row_price, column_price)
        while column:
            owner[column] = owner[before[column]]
            column = before[column]
    return {owner[column] - 1: column - 1 for column in range(1, columns + 1) if owner[column]}


def _cheapest_path(
    costs: Sequence[Sequence[float]],
    owner: list[int],
    row_price: list[float],
    column_price: list[float],
) -> tuple[int, list[int]]:
    """Return the free column that the row at column 0 gets to, and each column's predecessor."""
    columns = len(owner) - 1
    distance, before = [float("inf")] * (columns + 1), [0] * (columns + 1)
    done, column = [False] * (columns + 1), 0
    while owner[column]:
        done[column], row = True, owner[column]
        for other in range(1, columns + 1):
            if done[other]:
                continue
            cost = costs[row - 1][other - 1] - row_price[row] - column_price[other]
            if cost < distance[other]:
                distance[other], before[other] = cost, column
        column = min((c for c in range(1, columns + 1) if not done[c]), key=distance.__getitem__)
        step = distance[column]
        for other in range(columns + 1):
            if done[other]:
                row_price[owner[other]] += step
                column_price[other] -= step
            else:
                distance[other] -= step
    return column, before
