"""Which adapter acts on which cell.

Letters: K cells, A adapters.

Composition on 2x2, sources A and B in the top row, the fusions below:

    [ A    B   ]    route_KA:  A 1.0 0.0
    [ Out  Out ]               B 0.0 1.0    Out 0.5 0.5
"""

import torch
from torch import Tensor

from dcgrid.grid.layout import GridLayout
from dcgrid.grid.modes import Routing, check_routing


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
