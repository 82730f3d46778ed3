"""A second grid of tokens, set off by half a token.

A token generates its patch alone, so neighbours meet at a seam. Cells with a margin of half a patch
around them have their tokens across the seams of the plain ones; the mean of both has seams of half
the height at twice as many places.

    plain     |  a  |  b  |  c  |
    offset  |  m  |  n  |  o  |  p  |        the outer half of m and p is a mirror image

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns.
"""

import torch.nn.functional as F
from torch import Tensor

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
