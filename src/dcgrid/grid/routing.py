"""What a grid shows, which adapter acts on which cell, and which parts of a prompt each cell reads.

Composition on 2x2, sources A and B in the top row, the fusions below:

    [ A    B   ]    route_KA:  A 1.0 0.0                    global   A   B   Out
    [ Out  Out ]               B 0.0 1.0          cell A      x      x
                               Out 0.5 0.5        cell B      x          x
                                                  Out         x      x   x    x

A source cell reads the global text and its own clause only, so that the look of one concept does
not leak into the other; the fusions read everything. No torch here but in `route_matrix`, so that
plans are fast.

Letters: K cells, A adapters.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dcgrid.errors import LayoutError
from dcgrid.grid.layout import GridLayout
from dcgrid.io.progress import counted
from dcgrid.prompts.segments import Prompt

if TYPE_CHECKING:
    from torch import Tensor

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


def visible_segments(
    prompt: Prompt, layout: GridLayout, routing: Routing, *, own_clause_only: bool = False
) -> tuple[tuple[bool, ...], ...]:
    """Return visible_KS: True where cell k reads segment s of the prompt.

    A prompt without segments (the unconditional text) gives K empty rows.

    Args:
        prompt: A rendered prompt; its S segments keep their order.
        layout: The grid.
        routing: Mode and source cells.
        own_clause_only: True: for models that need it narrow, every cell reads the global text and
            its own clause. Differs: docs/decisions/0001.

    Raises:
        LayoutError: If a segment belongs to a cell that the grid lacks, or the routing does not
            fit.

    Paper: sec. 3.2 (structured attention masking)
    """
    check_routing(layout, routing)
    for segment in prompt.segments:
        if segment.cell is not None and not 0 <= segment.cell < layout.count:
            raise LayoutError(
                f"the prompt has text for cell {segment.cell}, but a {layout} grid has "
                f"{counted(layout.count, 'cell')}: {prompt.segment_text(segment)[:60]!r}",
                hint="Render the prompt with a recipe for this layout.",
            )
    restricted: tuple[int, ...] = routing.sources if routing.mode == "composition" else ()
    if own_clause_only:
        restricted = tuple(range(layout.count))
    return tuple(
        tuple(cell not in restricted or segment.cell in (None, cell) for segment in prompt.segments)
        for cell in range(layout.count)
    )


def route_matrix(layout: GridLayout, routing: Routing) -> "Tensor":
    """Return route_KA, float32: the weight of each adapter in each cell; rows sum to 1.

    Raises:
        LayoutError: If the routing does not fit the layout.

    Paper: sec. 3.2, eqs. 1-3
    """
    import torch

    check_routing(layout, routing)
    if routing.mode == "consistent":
        return torch.ones(layout.count, 1)
    route_KA = torch.full((layout.count, 2), 0.5)
    route_KA[list(routing.sources)] = torch.eye(2)
    return route_KA
