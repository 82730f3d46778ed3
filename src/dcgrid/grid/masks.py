"""Which cells the model generates, and at which flow time each of them stands.

Letters: B batch, K cells, F latent frames.

True always means that the model generates. One given cell of 2x2, and the times that follow:

    given_K  [1 0]   fill_K  [0 1]   time_BKF  [0 t]
             [0 0]           [1 1]             [t t]
"""

from collections.abc import Iterable

import torch
from einops import rearrange, repeat
from torch import Tensor

from dcgrid.errors import LayoutError
from dcgrid.grid.layout import GridLayout


def given_mask(layout: GridLayout, given: Iterable[int]) -> Tensor:
    """Return given_K, bool: True where a cell holds real video.

    Raises:
        LayoutError: If an index names no cell, comes twice, or no cell is left to fill.
    """
    indices = list(given)
    layout.require(indices)
    if len(set(indices)) != len(indices):
        raise LayoutError(
            f"given cells {indices} name one cell twice", hint="Put each video in its own cell."
        )
    if len(indices) == layout.count:
        raise LayoutError(
            f"every cell of the {layout} grid is given, none is left to fill",
            hint="Give fewer videos or choose a larger layout.",
        )
    given_K = torch.zeros(layout.count, dtype=torch.bool)
    given_K[indices] = True
    return given_K


def fill_mask(layout: GridLayout, given: Iterable[int]) -> Tensor:
    """Return fill_K, bool: True where the model generates; the opposite of `given_mask`.

    Raises:
        LayoutError: As `given_mask`.

    Paper: sec. 3.3 (M)
    """
    return ~given_mask(layout, given)


def random_fill_mask(
    batch: int, layout: GridLayout, generator: torch.Generator, *, most_given: int | None = None
) -> Tensor:
    """Draw fill_BK for training: 1 to `most_given` cells of each grid are given.

    Args:
        batch: Number of grids B.
        layout: The grid; at least two cells.
        generator: Source of chance, on the CPU.
        most_given: At most this many given cells; None: all but one.

    Raises:
        ValueError: If no grid can have both a given and a generated cell.

    Paper: sec. 3.3 ("randomly mask one or more cells")
    """
    most = layout.count - 1 if most_given is None else most_given
    if not 1 <= most < layout.count:
        raise ValueError(f"most_given {most} leaves no choice in a {layout} grid")
    given_count_B1 = torch.randint(1, most + 1, (batch, 1), generator=generator)
    # Sorting random numbers gives a random permutation of the cells.
    order_BK = torch.rand(batch, layout.count, generator=generator).argsort(dim=1)
    return order_BK >= given_count_B1


def spread_over_frames(fill_BK: Tensor, frames: int) -> Tensor:
    """Repeat a mask of cells over F latent frames: fill_BK (or fill_K, then B = 1) to fill_BKF."""
    if fill_BK.ndim == 1:
        fill_BK = rearrange(fill_BK, "k -> 1 k")
    return repeat(fill_BK, "b k -> b k f", f=frames)


def flow_times(time_B: Tensor, fill_BKF: Tensor) -> Tensor:
    """Return time_BKF: t where the model generates, 0 where real video stands.

    Args:
        time_B: Flow time of each grid in [0, 1], float.
        fill_BKF: True where the model generates, per cell and latent frame; B may be 1.

    Paper: sec. 3.3
    """
    return torch.where(fill_BKF, rearrange(time_B, "b -> b 1 1"), torch.zeros_like(time_B[0]))
