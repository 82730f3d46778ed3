"""Rendering: a template, slots and one clause per cell become one `Prompt`.

Read `render_grid` first. What an author may write is in docs/prompt-language.md. Values of slots
and clauses are plain text: braces in them are never read as tags. Nothing here runs code, reads
files or grows without bound (`MAX_OUTPUT`, `MAX_CELLS`, parser.MAX_TEMPLATE, parser.MAX_NESTING).
Names in a template are checked against those that exist: all wrong ones are found, not just one.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from types import MappingProxyType
from typing import Protocol

from dcgrid.errors import PromptError
from dcgrid.io.progress import counted
from dcgrid.prompts.parser import (
    KEYWORDS,
    CellBlock,
    If,
    Name,
    Node,
    Place,
    Slot,
    Template,
    Text,
    nearest,
    parse,
    source_of,
    unprintable,
)
from dcgrid.prompts.segments import Prompt, Segment

# Words after which English takes no further article.
_DETERMINERS = frozenset(
    (
        *("a", "an", "the", "this", "that", "these", "those", "my", "your", "his", "her", "its"),
        *("our", "their", "some", "any", "no", "every", "each", "both", "all", "another", "many"),
        *("several", "few", "one", "two", "three", "four", "five", "six", "seven", "eight"),
        *("nine", "ten"),
    )
)
# Spelled with a vowel but spoken with a consonant ("a unicorn"), and the reverse ("an hour").
_SPOKEN_CONSONANT = (
    *("eu", "ewe", "one", "once", "ukulele", "unic", "unif", "union", "uniq", "unit", "univ"),
    *("ura", "use", "usu", "ute"),
)
_SPOKEN_VOWEL = ("heir", "honest", "honor", "honour", "hour")


def article(text: str) -> str:
    """Put "a" or "an" in front, unless the text has a determiner, a number or a capital.

    >>> article("cat"), article("old man"), article("the subject"), article("Lincoln")
    ('a cat', 'an old man', 'the subject', 'Lincoln')
    """
    words = text.split()
    if not words or not words[0][0].isalpha() or words[0][0].isupper():
        return text
    first = words[0].lower()
    if first in _DETERMINERS:
        return text
    vowel = first[0] in "aeiou" and not first.startswith(_SPOKEN_CONSONANT)
    spoken_vowel = vowel or first.startswith(_SPOKEN_VOWEL)
    return f"{'an' if spoken_vowel else 'a'} {text.lstrip()}"


def bare(text: str) -> str:
    """Strip white space and closing punctuation, so that the template can set its own."""
    return text.strip().rstrip(".,;:!? \t\n")


def capital(text: str) -> str:
    """Make the first character upper case and leave the rest alone."""
    stripped = text.lstrip()
    return stripped[:1].upper() + stripped[1:]


def lower(text: str) -> str:
    """Make the whole text lower case."""
    return text.lower()


def tag(text: str) -> str:
    """Write a concept tag: in square brackets, blanks as underscores; no text, no tag.

    >>> tag("Cat_identity"), tag("[SparkEffect]"), tag("my dog")
    ('[Cat_identity]', '[SparkEffect]', '[my_dog]')
    """
    name = text.strip()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    joined = "_".join(name.split())
    return f"[{joined}]" if joined else ""


FILTERS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {"article": article, "bare": bare, "capital": capital, "lower": lower, "tag": tag}
)
"""Every filter by its name in templates."""


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


MAX_OUTPUT = 20_000
"""Most characters of a rendered prompt."""
MAX_CELLS = 64
"""Most cells of a grid prompt."""


class GridTemplate(Protocol):
    """What rendering needs of a layout recipe."""

    @property
    def rows(self) -> int:
        """Rows of cells; >= 1."""

    @property
    def cols(self) -> int:
        """Columns of cells; >= 1."""

    @property
    def cells(self) -> Sequence[str]:
        """Names of the cells, row-major, as written in the prompt."""

    @property
    def template(self) -> str:
        """Text in the template language."""

    @property
    def template_place(self) -> Place | None:
        """Where the template stands; None: in no file."""

    @property
    def slots(self) -> Mapping[str, str]:
        """Every slot with its default; an empty default: the slot is optional."""


def cell_names(rows: int, cols: int) -> tuple[str, ...]:
    """Name the cells of a grid, row-major.

    2x2: TOP LEFT, TOP RIGHT, BOTTOM LEFT, BOTTOM RIGHT. One row of three: LEFT, MIDDLE, RIGHT.
    Anything else: ROW 1 COLUMN 2.

    Raises:
        ValueError: The grid has no cell, or more than `MAX_CELLS`.
    """
    if rows < 1 or cols < 1 or rows * cols > MAX_CELLS:
        raise ValueError(f"a grid has 1 to {MAX_CELLS} cells, not {rows} x {cols}")
    if (rows, cols) == (2, 2):
        return ("TOP LEFT", "TOP RIGHT", "BOTTOM LEFT", "BOTTOM RIGHT")
    if (rows, cols) == (1, 3):
        return ("LEFT", "MIDDLE", "RIGHT")
    return tuple(f"ROW {y + 1} COLUMN {x + 1}" for y in range(rows) for x in range(cols))


def render_grid(
    layout: GridTemplate,
    slots: Mapping[str, str | None],
    cell_clauses: Sequence[str | None] = (),
    *,
    negative: str = "",
) -> Prompt:
    """Render the prompt of a grid.

    Args:
        layout: A layout recipe.
        slots: Values that replace the layout's defaults; None: not given.
        cell_clauses: What each cell shows, row-major, as plain text; None or blank: the
            template's own wording. May be shorter than the grid.
        negative: What guidance steers away from, as plain text.

    Returns:
        The text, and which of its characters belong to which cell.

    Raises:
        PromptError: The template is wrong, a slot is unknown or lacks a value, there are more
            clauses than cells, or the result is empty or longer than `MAX_OUTPUT`.

    Paper: sec. 9 (prompts), sec. 3.2 (text of a cell: T_g and T_A).
    """
    template = parse(source_of(layout.template, layout.template_place))
    values = _merged(layout, slots)
    cells = tuple(layout.cells)
    if len(cells) > MAX_CELLS:
        raise PromptError(f"a grid prompt has at most {MAX_CELLS} cells, not {len(cells)}")
    if len(cell_clauses) > len(cells):
        raise PromptError(
            f"{counted(len(cell_clauses), 'clause')} for a grid of {counted(len(cells), 'cell')}"
        )
    pairs = zip_longest(cells, cell_clauses)
    clauses = tuple(_plain(clause or "", f"the clause of {cell}") for cell, clause in pairs)
    values["grid"] = f"{layout.rows}\N{MULTIPLICATION SIGN}{layout.cols}"
    for problem in name_problems(template, slots=values.keys(), cells=cells):
        raise problem
    renderer = _Renderer(template=template, cells=cells, clauses=clauses)
    renderer.write_nodes(template.nodes, values, None)
    text, segments = _normalised(renderer.pieces)
    if not text:
        raise template.source.error(0, 1, "the template renders to nothing")
    return Prompt(
        text=text, segments=segments, negative=" ".join(_plain(negative, "negative").split())
    )


def render_text(
    template: str, slots: Mapping[str, str | None], *, place: Place | None = None
) -> str:
    """Render a template that belongs to no cell, such as an effect's clause.

    Args:
        template: Text in the template language, without cell blocks.
        slots: Values by name; None or blank: the slot exists but has no value.
        place: Where the template stands, for errors.

    Returns:
        The text, runs of white space as single spaces; may be empty.

    Raises:
        PromptError: The template is wrong, or a slot is unknown or lacks a value.

    >>> render_text("{subject | capital} in the rain", {"subject": "cat"})
    'Cat in the rain'
    """
    parsed = parse(source_of(template, place))
    values = {name: _plain(value or "", f"slot '{name}'") for name, value in slots.items()}
    for problem in name_problems(parsed, slots=values.keys(), cells=None):
        raise problem
    renderer = _Renderer(template=parsed, cells=(), clauses=())
    renderer.write_nodes(parsed.nodes, values, None)
    return _normalised(renderer.pieces)[0]


def grid_problems(layout: GridTemplate) -> list[PromptError]:
    """Return every problem of a layout's template that can be known before rendering."""
    try:
        template = parse(source_of(layout.template, layout.template_place))
    except PromptError as error:
        return [error]
    return list(name_problems(template, slots=layout.slots.keys(), cells=tuple(layout.cells)))


def text_problems(
    template: str, slots: Sequence[str], *, place: Place | None = None
) -> list[PromptError]:
    """Return every problem of a cell-less template that can be known before rendering."""
    try:
        parsed = parse(source_of(template, place))
    except PromptError as error:
        return [error]
    return list(name_problems(parsed, slots=slots, cells=None))


def _merged(layout: GridTemplate, slots: Mapping[str, str | None]) -> dict[str, str]:
    """Return the layout's defaults with the caller's values over them."""
    values = dict(layout.slots)
    for name, value in slots.items():
        if value is None:
            continue
        if name not in layout.slots:
            problem = f"the layout has no slot '{name[:80]}'{nearest(name, layout.slots)}"
            raise PromptError(problem, hint=f"its slots: {', '.join(sorted(layout.slots))}")
        values[name] = value
    return {name: _plain(value, f"slot '{name}'") for name, value in values.items()}


def _plain(value: str, what: str) -> str:
    """Return a value that may go into a prompt."""
    if len(value) > MAX_OUTPUT:
        raise PromptError(f"{what} has {len(value)} characters; at most {MAX_OUTPUT} are allowed")
    bad = unprintable(value)
    if bad is not None:
        raise PromptError(f"{what} holds the control character U+{ord(value[bad]):04X}")
    return value


@dataclass(slots=True, kw_only=True)
class _Renderer:
    """Walks a checked template and collects text with its owners."""

    template: Template
    cells: tuple[str, ...]
    clauses: tuple[str, ...]
    pieces: list[tuple[str, int | None]] = field(default_factory=list)
    length: int = 0

    def write_nodes(
        self, nodes: Sequence[Node], values: Mapping[str, str], owner: int | None
    ) -> None:
        for node in nodes:
            match node:
                case Text():
                    self._write(node.value, node, owner)
                case Slot():
                    self._write(self._value(node, values), node, owner)
                case If():
                    holds = bool(values[node.name.value].strip()) != node.negated
                    self.write_nodes(node.then if holds else node.otherwise, values, owner)
                case CellBlock():
                    self._write_cells(node, values)

    def _write_cells(self, block: CellBlock, values: Mapping[str, str]) -> None:
        for index, name in enumerate(self.cells):
            if block.cell is None or block.cell.value == name:
                inside = {**values, "cell": name, "clause": self.clauses[index]}
                # Blocks of neighbouring cells never run into one word.
                self.pieces.append((" ", None))
                self.write_nodes(block.body, inside, index)
                self.pieces.append((" ", None))

    def _value(self, slot: Slot, values: Mapping[str, str]) -> str:
        """Return the first operand that has a value, filtered."""
        for operand in slot.operands:
            value = values[operand.value] if isinstance(operand, Name) else operand.value
            if value.strip() or isinstance(operand, Text):
                for name in slot.filters:
                    value = FILTERS[name.value](value)
                return value
        named = " or ".join(f"'{operand.value}'" for operand in slot.operands)
        first = slot.operands[0].value
        hint = f'give it a value, or write {{{first} or "..."}} or {{if {first}}}...{{end}}'
        problem = f"slot {named} has no value"
        raise self.template.source.error(slot.start, slot.end, problem, hint=hint)

    def _write(self, text: str, node: Text | Slot, owner: int | None) -> None:
        self.length += len(text)
        if self.length > MAX_OUTPUT:
            problem = f"the prompt grows past {MAX_OUTPUT} characters here"
            raise self.template.source.error(node.start, node.end, problem)
        self.pieces.append((text, owner))


def _normalised(
    pieces: Sequence[tuple[str, int | None]],
) -> tuple[str, tuple[Segment, ...]]:
    """Join pieces with runs of white space made one space, and say who owns which characters.

    A segment is a longest run with one owner; it begins and ends with a printed character.
    """
    characters: list[str] = []
    runs: list[tuple[int | None, int, int]] = []
    space_due = False
    for text, owner in pieces:
        for character in text:
            if character.isspace():
                space_due = bool(characters)
                continue
            if space_due:
                characters.append(" ")
                space_due = False
            characters.append(character)
            end = len(characters)
            if runs and runs[-1][0] == owner:
                runs[-1] = (owner, runs[-1][1], end)
            else:
                runs.append((owner, end - 1, end))
    segments = tuple(Segment(start=start, end=end, cell=cell) for cell, start, end in runs)
    return "".join(characters), segments
