"""A template to tokens and a small tree: the grammar is in docs/prompt-language.md; read `parse`.

A template is text with tags between braces: slots, {if}, and the two cell blocks {each} and {in}.
Names of slots, filters and cells are checked later (template.py), so that all wrong ones are
reported. `Source.error` is the one way in which lexer, parser and renderer complain, so every
message names file, line and column and shows the line with a caret.
"""

import difflib
import enum
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from dcgrid.errors import PromptError

_SHOWN_COLUMNS = 90


class Place(Protocol):
    """Where the first character of a template stands; recipes have such places."""

    @property
    def file(self) -> str:
        """Path of the file, as shown to the user."""

    @property
    def line(self) -> int:
        """Line in the file, counted from 1."""

    @property
    def column(self) -> int:
        """Column in that line, counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The text of a template and where it comes from."""

    text: str
    """The template itself."""
    file: str = "template"
    """Name shown in errors."""
    line: int = 1
    """Line of the first character in `file`; >= 1."""
    column: int = 1
    """Column of the first character in `file`; >= 1."""

    def error(self, start: int, end: int, problem: str, *, hint: str = "") -> PromptError:
        """Make an error about the characters start..end of the text.

        Args:
            start: First offending character, an index into `text`; may be len(text).
            end: One past the last offending character.
            problem: What is wrong, in a few words.
            hint: What to try next.

        Returns:
            The error; its message is "file:line:column: problem", the source line and a caret.
        """
        row = self.text.count("\n", 0, start)
        line_start = self.text.rfind("\n", 0, start) + 1
        line_end = self.text.find("\n", start)
        content = self.text[line_start : line_end if line_end >= 0 else len(self.text)]
        at = start - line_start
        column = at + (self.column if row == 0 else 1)
        shown = _caret(content, at, max(1, min(end - start, len(content) - at)))
        place = f"{self.file}:{self.line + row}:{column}"
        return PromptError(f"{place}: {problem}\n{shown}", hint=hint)


def source_of(template: str, place: Place | None) -> Source:
    """Return a source for template text that stands at a place, or nowhere in particular."""
    if place is None:
        return Source(text=template)
    return Source(text=template, file=place.file, line=place.line, column=place.column)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'NAME'?" for the known name most like `name`, or "" if none is."""
    # difflib is quadratic, and nobody means a name of thousands of characters.
    matches = difflib.get_close_matches(name[:80], sorted(known), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def unprintable(text: str) -> int | None:
    """Return the index of the first control character or lone surrogate, or None.

    White space (tab, newline and the like) is fine: rendering makes it single spaces.
    """
    for index, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs") and not character.isspace():
            return index
    return None


def _caret(content: str, at: int, width: int) -> str:
    """Return a source line with a caret line under it, cut to a window around the caret."""
    first = max(0, at - _SHOWN_COLUMNS // 2)
    window = content[first : first + _SHOWN_COLUMNS]
    line = "".join(c if c.isprintable() else " " for c in window)
    carets = "^" * min(width, max(1, len(line) - (at - first)))
    return f"    {line}\n    {' ' * (at - first)}{carets}"


MAX_TEMPLATE = 20_000
"""Most characters of a template."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STRING = re.compile(r'"((?:[^"\\\n]|\\["\\])*)"')
_TEXT = re.compile(r"(?:[^{}]|\{\{|\}\})+")


class TokenKind(enum.Enum):
    """What a token is."""

    TEXT = "text"
    OPEN = "{"
    CLOSE = "}"
    NAME = "name"
    STRING = "string"
    PIPE = "|"
    END = "end of template"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token and the characters it was read from."""

    kind: TokenKind
    value: str
    """Text or string with escapes resolved, or the name or sign itself."""
    start: int
    end: int


def tokens(source: Source) -> Iterator[Token]:
    """Read the tokens of a template; the last one is END.

    Raises:
        PromptError: Too long, a control character, a stray brace, an open string, an unknown sign.
    """
    text = source.text
    if len(text) > MAX_TEMPLATE:
        problem = f"template of {len(text)} characters; at most {MAX_TEMPLATE} are allowed"
        raise source.error(0, 1, problem)
    bad = unprintable(text)
    if bad is not None:
        raise source.error(bad, bad + 1, f"control character U+{ord(text[bad]):04X}")
    position = 0
    while position < len(text):
        match = _TEXT.match(text, position)
        if match:
            value = match[0].replace("{{", "{").replace("}}", "}")
            yield Token(kind=TokenKind.TEXT, value=value, start=position, end=match.end())
            position = match.end()
        elif text[position] == "}":
            raise source.error(position, position + 1, "'}' closes nothing; write }} for a brace")
        else:
            for token in _tag_tokens(source, position):
                yield token
                position = token.end
    yield Token(kind=TokenKind.END, value="", start=len(text), end=len(text))


def _tag_tokens(source: Source, opening: int) -> Iterator[Token]:
    """Read the tokens of one tag, from its opening brace to its closing one."""
    text = source.text
    yield Token(kind=TokenKind.OPEN, value="{", start=opening, end=opening + 1)
    position = opening + 1
    while position < len(text):
        character = text[position]
        if character.isspace():
            position += 1
            continue
        token = _tag_token(source, position)
        yield token
        if token.kind is TokenKind.CLOSE:
            return
        position = token.end
    problem = "'{' is never closed; write {{ for a brace"
    raise source.error(opening, opening + 1, problem)


def _tag_token(source: Source, position: int) -> Token:
    """Read the one token of a tag that starts at a position."""
    text, character = source.text, source.text[position]
    if character in "|}":
        kind = TokenKind.PIPE if character == "|" else TokenKind.CLOSE
        return Token(kind=kind, value=character, start=position, end=position + 1)
    name = _NAME.match(text, position)
    if name:
        return Token(kind=TokenKind.NAME, value=name[0], start=position, end=name.end())
    if character != '"':
        raise source.error(position, position + 1, f"unexpected {character!r} inside braces")
    string = _STRING.match(text, position)
    if not string:
        problem = 'string is not closed on its line; inside it only \\" and \\\\ may follow \\'
        raise source.error(position, position + 1, problem)
    value = re.sub(r'\\(["\\])', r"\1", string[1])
    return Token(kind=TokenKind.STRING, value=value, start=position, end=string.end())


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

    def _name(self, expected: str) -> Name:
        """Read a name that is no keyword."""
        if self._next.kind is not TokenKind.NAME or self._next.value in KEYWORDS:
            raise self._unexpected(expected)
        token = self._advance()
        return Name(value=token.value, start=token.start, end=token.end)

    def _close(self, tag: str) -> Token:
        """Read the closing brace of a tag."""
        if self._next.kind is not TokenKind.CLOSE:
            raise self._unexpected(f"'}}' at the end of {tag}")
        return self._advance()

    def _unexpected(self, expected: str) -> Exception:
        token = self._next
        found = token.value if token.kind is not TokenKind.STRING else "a string"
        problem = f"expected {expected}, found {found or 'the end of the template'}"
        return self._source.error(token.start, token.end, problem)

    def _advance(self) -> Token:
        """Take the next token; END stays the next one for ever."""
        token = self._next
        if token.kind is not TokenKind.END:
            self._next = next(self._tokens)
        return token
