"""Frames to frames, faces to faces."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcgrid.eval.metrics.series import assign, matched_frames


@pytest.mark.parametrize(
    ("reference", "result", "wanted"),
    [
        (4, 4, (0, 1, 2, 3)),
        (8, 4, (1, 3, 5, 7)),
        (2, 4, (0, 0, 1, 1)),
        (3, 1, (1,)),
        (1, 3, (0, 0, 0)),
        (0, 3, ()),
        (3, 0, ()),
    ],
)
def test_frames_are_matched_by_relative_time(reference, result, wanted):
    assert matched_frames(reference, result) == wanted


@given(
    rows=st.integers(0, 5),
    columns=st.integers(0, 5),
    seed=st.integers(0, 10_000),
    ties=st.booleans(),
)
def test_the_assignment_is_the_cheapest_of_all(rows, columns, seed, ties):
    generator = torch.Generator().manual_seed(seed)
    costs = torch.rand(rows, columns, generator=generator, dtype=torch.double)
    if ties:
        costs = (costs * 3).round()
    found = assign(costs.tolist())
    assert len(found) == min(rows, columns)
    assert len(set(found.values())) == len(found)
    total = sum(float(costs[row, column]) for row, column in found.items())
    small, large = sorted((costs, costs.T), key=len)[0], max(rows, columns)
    best = min(
        (sum(float(small[i, c]) for i, c in enumerate(choice)))
        for choice in permutations(range(large), min(rows, columns))
    )
    assert total == pytest.approx(best)
