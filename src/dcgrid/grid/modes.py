"""What a grid shows, and which cells hold the concepts. Torch-free, so that plans are fast."""

from dataclasses import dataclass
from typing import Literal

from dcgrid.errors import LayoutError
from dcgrid.grid.layout import GridLayout

Mode = Literal["consistent", "composition"]
"""consistent: one concept in all cells. composition: two concepts and their fusions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How text and adapters are dealt to the cells."""

    mode: Mode = "consistent"
    """What the grid shows."""
    sources: tuple[int, int] = (0, 1)
    """Cells of concepts A and B; read in composition mode only."""


def check_routing(layout: GridLayout, routing: Routing) -> None:
    """Check that a routing fits a layout.

    Raises:
        LayoutError: If a source names no cell, both name one, or no cell is left for a fusion.
    """
    if routing.mode == "consistent":
        return
    layout.require(list(routing.sources))
    if routing.sources[0] == routing.sources[1]:
        raise LayoutError(
            f"both concepts stand in cell {routing.sources[0]}",
            hint="Composition needs two different source cells.",
        )
    if layout.count < 3:
        raise LayoutError(
            f"a {layout} grid has no cell for the fusion of two concepts",
            hint="Composition needs at least three cells, such as 2x2 or 1x3.",
        )
