"""Which parts of a prompt each cell reads.

In composition mode a source cell reads the global text and its own clause only, so that the look
of one concept does not leak into the other; the fusions read everything:

              global   A   B   Out
    cell A      x      x
    cell B      x          x
    Out         x      x   x    x
"""

from dcgrid.errors import LayoutError
from dcgrid.grid.layout import GridLayout
from dcgrid.grid.modes import Routing, check_routing
from dcgrid.io.progress import counted
from dcgrid.prompts.segments import Prompt


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
