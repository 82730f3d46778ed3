"""Where each token stands in the grid: the only place where cells become neighbours.

Tokens are cell-major, "(k f y x)". Two cells side by side, each 2 rows of 3 tokens, one frame:

    cell-major        grid order       y,x coordinates, cells abutting
    0 1 2 | 6 7 8     0 1 2  3  4  5   0,0 0,1 0,2 | 0,3 0,4 0,5
    3 4 5 | 9 . .     6 7 8  9 10 11   1,0 1,1 1,2 | 1,3 1,4 1,5

A second grid of tokens may be set off by half a token. A token generates its patch alone, so
neighbours meet at a seam. Cells with a margin of half a patch around them have their tokens across
the seams of the plain ones; the mean of both has seams of half the height at twice as many places.

    plain     |  a  |  b  |  c  |
    offset  |  m  |  n  |  o  |  p  |        the outer half of m and p is a mirror image

Letters: B batch, K cells, C channels, S tokens of the whole grid, F Y X tokens, or latents, along
time, rows, columns.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dcgrid.errors import LayoutError
from dcgrid.grid.layout import GridLayout, TokenShape


def token_coordinates(
    layout: GridLayout, shape: TokenShape, pitch: tuple[int, int] | None = None
) -> Tensor:
    """Return coords_S3, int64: frame, row, column of every token for the rotary embedding.

    Args:
        layout: The grid.
        shape: Size of one cell in tokens.
        pitch: Distance from one cell to the next in token rows and columns. None: the cell's own
            size, so that cells abut and the grid is one picture. A fixed pitch makes the offset
            between the same point of two cells the same for cells of every shape.

    Raises:
        LayoutError: If cells of this size would overlap at that pitch.

    Paper: sec. 8 (3D-RoPE)
    """
    pitch_rows, pitch_cols = pitch or (shape.rows, shape.cols)
    # With a single row or column of cells there is nobody to overlap with.
    too_tall = layout.rows > 1 and shape.rows > pitch_rows
    too_wide = layout.cols > 1 and shape.cols > pitch_cols
    if too_tall or too_wide:
        raise LayoutError(
            f"cells of {shape.rows}x{shape.cols} tokens overlap at the model's pitch of "
            f"{pitch_rows}x{pitch_cols}",
            hint="Choose a smaller cell size for this model.",
        )
    cell_rc = torch.cartesian_prod(torch.arange(layout.rows), torch.arange(layout.cols))
    offset_K3 = torch.zeros(layout.count, 3, dtype=torch.int64)
    offset_K3[:, 1:] = cell_rc.reshape(-1, 2) * torch.tensor([pitch_rows, pitch_cols])
    axes = [torch.arange(size) for size in (shape.frames, shape.rows, shape.cols)]
    inside_N3 = torch.cartesian_prod(*axes)
    return rearrange(offset_K3[:, None] + inside_N3, "k n three -> (k n) three")


def grid_positions(layout: GridLayout, shape: TokenShape) -> Tensor:
    """Return position_S, int64: where each cell-major token stands in grid order (f y x).

    `position_S` turns grid order into cell-major (`plain_S[position_S]`); `grid_order` is its
    inverse.
    """
    rows, cols = layout.rows * shape.rows, layout.cols * shape.cols
    canvas_FYX = torch.arange(shape.frames * rows * cols).reshape(shape.frames, rows, cols)
    return rearrange(
        canvas_FYX, "f (r y) (c x) -> (r c f y x)", r=layout.rows, c=layout.cols
    ).contiguous()


def grid_order(layout: GridLayout, shape: TokenShape) -> Tensor:
    """Return order_S, int64: `tokens_S[order_S]` puts cell-major tokens in grid order (f y x)."""
    return grid_positions(layout, shape).argsort()


MARGIN = 0.5
"""Tokens by which an offset cell is wider on each side."""


def widen_cells(cells_BKCFYX: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Put a mirrored margin of half a patch around the rows and columns of every cell.

    Raises:
        ValueError: A patch is no even number of latents, or a cell is too small for a mirror.
    """
    y, x = _margins(patch)
    if min(cells_BKCFYX.shape[-2] - y, cells_BKCFYX.shape[-1] - x) < 1:
        raise ValueError(f"cells of {tuple(cells_BKCFYX.shape[-2:])} have no room for a mirror")
    batch, cells = cells_BKCFYX.shape[:2]
    padded = F.pad(cells_BKCFYX.flatten(0, 2), (x, x, y, y), "reflect")
    wide: Tensor = padded.unflatten(0, (batch, cells, cells_BKCFYX.shape[2]))
    return wide


def narrow_cells(cells_BKCFYX: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Take the margin of `widen_cells` off again."""
    y, x = _margins(patch)
    rows, columns = cells_BKCFYX.shape[-2:]
    return cells_BKCFYX[..., y : rows - y, x : columns - x]


def _margins(patch: tuple[int, int, int]) -> tuple[int, int]:
    if patch[1] % 2 or patch[2] % 2:
        raise ValueError(f"half a patch of {patch[1]} x {patch[2]} latents is no whole number")
    return patch[1] // 2, patch[2] // 2
