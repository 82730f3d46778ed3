"""Which adapter acts on which cell.

Letters: K cells, A adapters.

Composition on 2x2, sources A and B in the top row, the fusions below:

    [ A    B   ]    route_KA:  A 1.0 0.0
    [ Out  Out ]               B 0.0 1.0    Out 0.5 0.5
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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


def route_matrix(layout: GridLayout, routing: Routing) -> Tensor:
    """Return route_KA, float32: the weight of each adapter in each cell; rows sum to 1.

    Raises:
        LayoutError: If the routing does not fit the layout.

    Paper: sec. 3.2, eqs. 1-3
    """
    check_routing(layout, routing)
    if routing.mode == "consistent":
        return torch.ones(layout.count, 1)
    route_KA = torch.full((layout.count, 2), 0.5)
    route_KA[list(routing.sources)] = torch.eye(2)
    return route_KA
