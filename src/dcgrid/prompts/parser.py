"""Tokens to a small tree. The grammar is in docs/prompt-language.md; read `parse` first.

A template is text with tags between braces: slots, {if}, and the two cell blocks {each} and {in}.
Names of slots, filters and cells are checked later (check.py), so that all wrong ones are reported.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from dcgrid.prompts.lexer import Token, TokenKind, tokens
from dcgrid.prompts.source import Source

MAX_NESTING = 16
"""Most blocks inside one another."""

KEYWORDS = frozenset({"if", "not", "else", "end", "each", "in", "or"})
"""Names that no slot can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Characters that stand for themselves."""

    value: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A name used in a tag: of a slot, a filter or (a string) of a cell."""

    value: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """{name or other or "default" | filter | filter}."""

    operands: tuple[Name | Text, ...]
    """Slot names and strings, in the order they are tried; at least one."""
    filters: tuple[Name, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class If:
    """{if name} ... {else} ... {end}, or {if not name}."""

    name: Name
    negated: bool
    """True: {if not name}."""
    then: tuple["Node", ...]
    otherwise: tuple["Node", ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CellBlock:
    """{each} ... {end} (once for every cell) or {in "CELL"} ... {end}."""

    cell: Name | None
    """The cell's name; None: every cell."""
    body: tuple["Node", ...]
    start: int
    end: int


Node: TypeAlias = Text | Slot | If | CellBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A parsed template."""

    source: Source
    nodes: tuple[Node, ...]


def parse(source: Source) -> Template:
    """Parse a template.

    Raises:
        PromptError: The text breaks the grammar or a limit; names file, line and column.
    """
    parser = _Parser(source)
    nodes, _ = parser.nodes(opening=None, depth=0, in_cell=False)
    return Template(source=source, nodes=nodes)


class _Parser:
    """Recursive descent with one token of lookahead."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tokens: Iterator[Token] = tokens(source)
        self._next = next(self._tokens)

    def nodes(
        self, *, opening: Token | None, depth: int, in_cell: bool
    ) -> tuple[tuple[Node, ...], Token]:
        """Read nodes up to {else}, {end} or the end of the text; return them and that token."""
        found: list[Node] = []
        while True:
            token = self._advance()
            if token.kind is TokenKind.END:
                if opening is not None:
                    problem = f"this {{{opening.value}}} has no {{end}}"
                    raise self._source.error(opening.start, opening.end, problem)
                return tuple(found), token
            if token.kind is TokenKind.TEXT:
                found.append(Text(value=token.value, start=token.start, end=token.end))
                continue
            keyword = self._next
            if keyword.kind is TokenKind.NAME and keyword.value in ("else", "end"):
                if opening is None:
                    problem = f"{{{keyword.value}}} without a block to close"
                    raise self._source.error(keyword.start, keyword.end, problem)
                self._advance()
                self._close(f"{{{keyword.value}}}")
                return tuple(found), keyword
            found.append(self._tag(token, depth, in_cell))

    def _tag(self, brace: Token, depth: int, in_cell: bool) -> Node:
        """Read one tag, and its block if it opens one; its opening brace is already read."""
        head = self._next
        if head.kind is not TokenKind.NAME or head.value not in KEYWORDS:
            return self._slot(brace)
        self._advance()
        if head.value not in ("if", "each", "in"):
            problem = f"'{head.value}' cannot begin a tag; slots need another name"
            raise self._source.error(head.start, head.end, problem)
        if depth == MAX_NESTING:
            problem = f"more than {MAX_NESTING} blocks inside one another"
            raise self._source.error(head.start, head.end, problem)
        if head.value == "if":
            return self._if(brace, head, depth, in_cell)
        if in_cell:
            raise self._source.error(head.start, head.end, "a cell block inside a cell block")
        return self._cell_block(brace, head, depth)

    def _slot(self, brace: Token) -> Slot:
        """Read {operand or operand | filter}."""
        operands = [self._operand()]
        while self._next.kind is TokenKind.NAME and self._next.value == "or":
            self._advance()
            operands.append(self._operand())
        filters: list[Name] = []
        while self._next.kind is TokenKind.PIPE:
            self._advance()
            filters.append(self._name("a filter's name"))
        end = self._close("a slot").end
        return Slot(operands=tuple(operands), filters=tuple(filters), start=brace.start, end=end)

    def _operand(self) -> Name | Text:
        """Read a slot's name or a string."""
        if self._next.kind is TokenKind.STRING:
            token = self._advance()
            return Text(value=token.value, start=token.start, end=token.end)
        return self._name("a slot's name or a string")

    def _if(self, brace: Token, head: Token, depth: int, in_cell: bool) -> If:
        """Read the rest of an {if}; its keyword is already read."""
        negated = self._next.kind is TokenKind.NAME and self._next.value == "not"
        if negated:
            self._advance()
        name = self._name("a slot's name")
        self._close("{if}")
        then, closer = self.nodes(opening=head, depth=depth + 1, in_cell=in_cell)
        otherwise: tuple[Node, ...] = ()
        if closer.value == "else":
            otherwise, last = self.nodes(opening=head, depth=depth + 1, in_cell=in_cell)
            self._forbid_else(last)
        return If(
            name=name,
            negated=negated,
            then=then,
            otherwise=otherwise,
            start=brace.start,
            end=head.end,
        )

    def _cell_block(self, brace: Token, head: Token, depth: int) -> CellBlock:
        """Read the rest of an {each} or {in}; its keyword is already read."""
        cell = None
        if head.value == "in":
            if self._next.kind is not TokenKind.STRING:
                raise self._unexpected('a cell\'s name in quotes, as in {in "TOP LEFT"}')
            token = self._advance()
            cell = Name(value=token.value, start=token.start, end=token.end)
        self._close(f"{{{head.value}}}")
        body, closer = self.nodes(opening=head, depth=depth + 1, in_cell=True)
        self._forbid_else(closer)
        return CellBlock(cell=cell, body=body, start=brace.start, end=head.end)

    def _forbid_else(self, closer: Token) -> None:
        if closer.value == "else":
            problem = "{else} belongs to no {if} here"
            raise self._source.error(closer.start, closer.end, problem)

    def _name(self, wanted: str) -> Name:
        """Read a name that is no keyword."""
        if self._next.kind is not TokenKind.NAME or self._next.value in KEYWORDS:
            raise self._unexpected(wanted)
        token = self._advance()
        return Name(value=token.value, start=token.start, end=token.end)

    def _close(self, tag: str) -> Token:
        """Read the closing brace of a tag."""
        if self._next.kind is not TokenKind.CLOSE:
            raise self._unexpected(f"'}}' at the end of {tag}")
        return self._advance()

    def _unexpected(self, wanted: str) -> Exception:
        token = self._next
        found = token.value if token.kind is not TokenKind.STRING else "a string"
        problem = f"expected {wanted}, found {found or 'the end of the template'}"
        return self._source.error(token.start, token.end, problem)

    def _advance(self) -> Token:
        """Take the next token; END stays the next one for ever."""
        token = self._next
        if token.kind is not TokenKind.END:
            self._next = next(self._tokens)
        return token
