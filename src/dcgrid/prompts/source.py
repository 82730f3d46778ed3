"""Where a template stands in a file, and errors that point at a character of it.

`Source.error` is the one way in which lexer, parser and renderer complain, so every message names
file, line and column and shows the line with a caret.
"""

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

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
