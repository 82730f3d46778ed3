"""Masks, flow times, routing and text visibility."""

import pytest
import torch

from dcgrid.errors import LayoutError
from dcgrid.grid.layout import GridLayout
from dcgrid.grid.masks import (
    fill_mask,
    flow_times,
    given_mask,
    random_fill_mask,
    spread_over_frames,
)
from dcgrid.grid.routing import Routing, route_matrix, visible_segments
from dcgrid.prompts.segments import Prompt, Segment

GRID = GridLayout(rows=2, cols=2)
COMPOSITION = Routing(mode="composition")


def prompt_of(*owners: int | None) -> Prompt:
    """Return a prompt of one letter per segment."""
    return Prompt(
        text="abcdefgh"[: len(owners)],
        segments=tuple(Segment(start=i, end=i + 1, cell=owner) for i, owner in enumerate(owners)),
    )


def test_true_means_generate() -> None:
    assert fill_mask(GRID, [0]).tolist() == [False, True, True, True]
    assert given_mask(GRID, [0, 3]).tolist() == [True, False, False, True]
    assert fill_mask(GRID, []).all()


@pytest.mark.parametrize("given", [[4], [-1], [1, 1], [0, 1, 2, 3]])
def test_bad_given_cells(given: list[int]) -> None:
    with pytest.raises(LayoutError):
        fill_mask(GRID, given)


def test_times_per_cell_and_frame() -> None:
    fill = spread_over_frames(fill_mask(GRID, [1]), 3)
    time = flow_times(torch.tensor([0.25, 0.75]), fill)
    assert time.shape == (2, 4, 3)
    assert time[:, 1].eq(0).all()
    assert time[0, [0, 2, 3]].eq(0.25).all()
    assert time[1, [0, 2, 3]].eq(0.75).all()
    fill = fill.clone()
    fill[0, 0, 0] = False  # the first latent frame of a filled cell is given too
    time = flow_times(torch.tensor([0.5]), fill)
    assert time[0, 0].tolist() == [0, 0.5, 0.5]


def test_random_masks_leave_both_kinds_and_are_fair() -> None:
    fill = random_fill_mask(4000, GRID, torch.Generator().manual_seed(0))
    assert fill.any(dim=1).all()
    assert (~fill).any(dim=1).all()
    assert torch.allclose(fill.float().mean(0), torch.full((4,), 0.5), atol=0.03)
    one = random_fill_mask(500, GRID, torch.Generator().manual_seed(0), most_given=1)
    assert (~one).sum(1).eq(1).all()
    again = random_fill_mask(4000, GRID, torch.Generator().manual_seed(0))
    assert torch.equal(fill, again)
    with pytest.raises(ValueError, match="no choice"):
        random_fill_mask(1, GridLayout(rows=1, cols=1), torch.Generator())


def test_routes() -> None:
    assert route_matrix(GRID, COMPOSITION).tolist() == [[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]]
    assert route_matrix(GRID, Routing()).tolist() == [[1]] * 4
    swapped = Routing(mode="composition", sources=(2, 0))
    layout = GridLayout(rows=1, cols=3)
    assert route_matrix(layout, swapped).tolist() == [[0, 1], [0.5, 0.5], [1, 0]]


@pytest.mark.parametrize(
    ("text", "sources"), [("1x2", (0, 1)), ("2x2", (1, 1)), ("2x2", (0, 4)), ("1x3", (-1, 0))]
)
def test_bad_sources(text: str, sources: tuple[int, int]) -> None:
    with pytest.raises(LayoutError):
        route_matrix(GridLayout.parse(text), Routing(mode="composition", sources=sources))


def test_consistent_cells_read_everything() -> None:
    visible = visible_segments(prompt_of(None, 0, 1, 2, 3), GRID, Routing())
    assert visible == ((True,) * 5,) * 4


def test_composition_hides_the_other_concept() -> None:
    visible = visible_segments(prompt_of(None, 0, 1, 2, 3, None), GRID, COMPOSITION)
    assert visible == (
        (True, True, False, False, False, True),
        (True, False, True, False, False, True),
        (True,) * 6,
        (True,) * 6,
    )


def test_unconditional_text_has_no_segments() -> None:
    assert visible_segments(Prompt(text="", segments=()), GRID, COMPOSITION) == ((),) * 4


def test_text_for_a_missing_cell() -> None:
    with pytest.raises(LayoutError, match=r"cell 4.*'b'"):
        visible_segments(prompt_of(None, 4), GRID, Routing())
