"""Token coordinates and orders, against patches cut from an assembled picture."""

import pytest
import torch
from einops import rearrange

from dcgrid.errors import LayoutError
from dcgrid.grid.coordinates import (
    grid_order,
    grid_positions,
    token_coordinates,
)
from dcgrid.grid.layout import GridLayout, TokenShape

SHAPE = TokenShape(frames=2, rows=3, cols=4)
LAYOUTS = [GridLayout.parse(text) for text in ("1x1", "2x2", "1x3", "3x2")]


def canvas_of_coordinates(layout: GridLayout) -> torch.Tensor:
    """Return f, y, x of every place of the assembled canvas, in grid order; an oracle."""
    sizes = (SHAPE.frames, layout.rows * SHAPE.rows, layout.cols * SHAPE.cols)
    grids = torch.meshgrid(*map(torch.arange, sizes), indexing="ij")
    return torch.stack([g.flatten() for g in grids], dim=1)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_abutting_cells_are_one_picture(layout: GridLayout) -> None:
    coords = token_coordinates(layout, SHAPE)
    assert torch.equal(coords[grid_order(layout, SHAPE)], canvas_of_coordinates(layout))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_order_agrees_with_placing_cells(layout: GridLayout) -> None:
    cells = torch.randn(1, layout.count, 1, SHAPE.frames, SHAPE.rows, SHAPE.cols)
    cell_major = rearrange(cells, "1 k 1 f y x -> (k f y x)")
    plain = rearrange(cells, "1 (r c) 1 f y x -> (f r y c x)", r=layout.rows, c=layout.cols)
    assert torch.equal(cell_major[grid_order(layout, SHAPE)], plain)
    assert torch.equal(plain[grid_positions(layout, SHAPE)], cell_major)


def test_fixed_pitch_is_independent_of_the_cell_shape() -> None:
    layout = GridLayout(rows=2, cols=2)
    for shape in (SHAPE, TokenShape(frames=2, rows=10, cols=5)):
        coords = token_coordinates(layout, shape, (10, 12)).reshape(4, -1, 3)
        for cell in layout.cells:
            offset = coords[cell.index] - coords[0]
            expected = torch.tensor([0, 10 * cell.row, 12 * cell.col])
            assert torch.equal(offset, expected.expand_as(offset))


def test_cells_may_not_overlap() -> None:
    with pytest.raises(LayoutError, match="overlap"):
        token_coordinates(GridLayout(rows=2, cols=2), SHAPE, (2, 4))
    # One row of cells cannot overlap downwards.
    assert token_coordinates(GridLayout(rows=1, cols=2), SHAPE, (2, 4)).shape == (48, 3)


def test_paper_window_of_the_paper_grid() -> None:
    layout = GridLayout(rows=2, cols=2)
    position = grid_positions(layout, TokenShape(frames=16, rows=9, cols=16))
    assert position.shape == (9216,)
    reached = (position - position[0]).abs() <= 3072
    assert int(reached.sum()) == 3073
    assert int((position - 4608).abs().le(3072).sum()) == 6145
