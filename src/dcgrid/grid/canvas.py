"""One picture out of cells, and back: for looking at grids, never for running the model.

Letters: B batch, K cells, C channels, T H W pixel frames/height/width.
"""

from einops import rearrange
from torch import Tensor

from dcgrid.grid.layout import GridLayout, split_canvas


def place_cells(cells_BKCTHW: Tensor, layout: GridLayout) -> Tensor:
    """Lay cells side by side as one picture: BKCTHW to BCTHW, pixels or latents alike."""
    return rearrange(
        cells_BKCTHW, "b (r c) ch t h w -> b ch t (r h) (c w)", r=layout.rows, c=layout.cols
    )


def take_cells(canvas_BCTHW: Tensor, layout: GridLayout) -> Tensor:
    """Cut a picture into its cells: BCTHW to BKCTHW, the inverse of `place_cells`.

    Raises:
        LayoutError: If the picture does not divide into cells.
    """
    split_canvas(layout, canvas_BCTHW.shape[-2], canvas_BCTHW.shape[-1])
    return rearrange(
        canvas_BCTHW, "b ch t (r h) (c w) -> b (r c) ch t h w", r=layout.rows, c=layout.cols
    )
