"""Names in a template against the names that exist: all wrong ones are found, not just one."""

from collections.abc import Collection, Iterator, Sequence

from dcgrid.errors import PromptError
from dcgrid.prompts.filters import FILTERS
from dcgrid.prompts.parser import KEYWORDS, CellBlock, If, Name, Node, Slot, Template, Text
from dcgrid.prompts.source import nearest

CELL_SLOTS = frozenset({"cell", "clause"})
"""Slots that exist inside cell blocks only: the cell's name and its clause."""
GRID_SLOTS = frozenset({"grid"})
"""Slots that every grid template has: the grid's shape, as in 2x2 with a multiplication sign."""


def name_problems(
    template: Template, *, slots: Collection[str], cells: Sequence[str] | None
) -> Iterator[PromptError]:
    """Yield an error for every unknown slot, filter or cell of a template, in reading order.

    Args:
        template: What to check.
        slots: Names of the slots that have or may have a value.
        cells: Names of the grid's cells; None: the template belongs to no grid, so cell blocks
            and grid slots are wrong in it.

    Yields:
        Errors that name file, line and column and the nearest known name.
    """
    known = set(slots) | (GRID_SLOTS if cells is not None else set())
    for node in template.nodes:
        yield from _problems(template, node, known, cells)


def _problems(
    template: Template, node: Node, known: set[str], cells: Sequence[str] | None
) -> Iterator[PromptError]:
    """Yield the problems of one node and what is inside it."""
    match node:
        case Text():
            return
        case Slot():
            for operand in node.operands:
                if isinstance(operand, Name):
                    yield from _slot_problem(template, operand, known)
            for name in node.filters:
                if name.value not in FILTERS:
                    yield _unknown(template, name, "filter", FILTERS)
        case If():
            yield from _slot_problem(template, node.name, known)
            for inner in (*node.then, *node.otherwise):
                yield from _problems(template, inner, known, cells)
        case CellBlock():
            if cells is None:
                problem = "cell blocks belong to layout templates, not here"
                yield template.source.error(node.start, node.end, problem)
            elif node.cell is not None and node.cell.value not in cells:
                yield _unknown(template, node.cell, "cell", cells)
            for inner in node.body:
                yield from _problems(template, inner, known | CELL_SLOTS, cells)


def _slot_problem(template: Template, name: Name, known: set[str]) -> Iterator[PromptError]:
    if name.value in known:
        return
    if name.value in CELL_SLOTS:
        problem = f"slot '{name.value}' exists only inside {{each}} and {{in}}"
        yield template.source.error(name.start, name.end, problem)
    else:
        yield _unknown(template, name, "slot", known)


def _unknown(template: Template, name: Name, what: str, known: Collection[str]) -> PromptError:
    # A tag that is no keyword reads as a slot, so {ned} may well be {end}.
    candidates = {*known, *KEYWORDS} if what == "slot" else known
    problem = f"unknown {what} '{name.value[:80]}'{nearest(name.value, candidates)}"
    hint = f"known {what}s: {', '.join(sorted(known))}" if known else ""
    return template.source.error(name.start, name.end, problem, hint=hint)
