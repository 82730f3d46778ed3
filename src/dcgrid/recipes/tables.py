"""Strict reading of TOML: typed values with their place, all problems reported at once.

Read `read_toml` first. A reader asks for the keys it knows and then calls `finish`:

    table = read_toml(path)
    steps = table.integer("steps", minimum=1, maximum=100_000)
    table.finish()

A getter that finds a problem notes it and returns a stand-in, so that one run names every problem;
`finish` raises them together with unknown keys, so no stand-in outlives it.
"""

import difflib
import math
import re
import shlex
import tomllib
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

from dcgrid.errors import RecipeError
from dcgrid.recipes.positions import KeyPath, KeyPosition, key_positions, string_start

MAX_BYTES = 256 * 1024
"""Largest recipe file that is read."""

_SHOWN_COLUMNS = 90
_AT = re.compile(r" ?\(at (?:line (\d+), column (\d+)|end of document)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPlace:
    """Where a text starts in a file."""

    file: str
    """Path of the file."""
    line: int
    """Line, counted from 1."""
    column: int
    """Column, counted from 1."""


@dataclass(slots=True, kw_only=True)
class _Document:
    """What all tables of one file share."""

    file: str
    text: str
    positions: Mapping[KeyPath, KeyPosition]
    problems: list[tuple[int, str]] = field(default_factory=list)
    """Offset and finished message of each problem."""
    tables: list["Table"] = field(default_factory=list)
    """Every table that was opened, to look for unknown keys in."""


def read_toml(path: Path) -> "Table":
    """Read a TOML file.

    Args:
        path: The file; UTF-8, at most `MAX_BYTES`.

    Returns:
        The root table.

    Raises:
        RecipeError: The file is missing, unreadable, too large, not UTF-8 or not TOML.
    """
    text = _read_text(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _decode_error(path, text, error) from error
    except (RecursionError, ValueError) as error:
        # tomllib lets deep nesting, giant integers and impossible dates through as these.
        raise RecipeError(f"{path}: not readable as TOML: {error}") from error
    document = _Document(file=str(path), text=text, positions=key_positions(text))
    return Table(document, (), values)


class Table:
    """A table of a recipe file; see the module's text for how it is used."""

    def __init__(self, document: _Document, path: KeyPath, values: Mapping[str, Any]) -> None:
        """Open a table; only this module does."""
        self._document = document
        self._path = path
        self._values = values
        self._known: set[str] = set()
        document.tables.append(self)

    @property
    def file(self) -> str:
        """Path of the file."""
        return self._document.file

    @property
    def is_clean(self) -> bool:
        """True: no problem noted in the file so far."""
        return not self._document.problems

    def keys(self) -> tuple[str, ...]:
        """Return the keys that are there, for tables in which any name may stand."""
        return tuple(self._values)

    def has(self, key: str) -> bool:
        """Return whether the key is there; the key counts as known from now on."""
        self._known.add(key)
        return key in self._values

    def text(
        self,
        key: str,
        *,
        default: str | None = None,
        choices: Collection[str] = (),
        max_length: int = 20_000,
    ) -> str:
        """Return a string; without a default the key is required and must not be blank.

        Args:
            key: The key.
            default: Value when the key is absent; "" also allows a blank string.
            choices: The only values allowed; empty: any.
            max_length: Most characters.
        """
        wanted = f"one of {', '.join(choices)}" if choices else "a string"
        value = self._typed(key, (str,), wanted, default)
        if not isinstance(value, str):
            return ""
        self._refuse_control_characters(key, value)
        if choices and value not in choices:
            self.problem(key, f"must be {wanted}, not {_shown(value)}{_nearest(value, choices)}")
        elif not value.strip() and default != "":
            self.problem(key, "must not be blank")
        elif len(value) > max_length:
            self.problem(key, f"has {len(value)} characters; at most {max_length} are allowed")
        return value

    def texts(
        self, key: str, *, default: tuple[str, ...] | None = None, minimum: int = 0
    ) -> tuple[str, ...]:
        """Return a list of at least `minimum` strings, none blank, none twice."""
        value = self._typed(key, (list, tuple), "a list of strings", default)
        items = tuple(value) if isinstance(value, list | tuple) else ()
        if not all(isinstance(item, str) and item.strip() for item in items):
            self.problem(key, "must hold strings only, none of them blank")
            return ()
        self._refuse_control_characters(key, "".join(items))
        if len({item.casefold() for item in items}) < len(items):
            twice = next(i for n, i in enumerate(items) if i.casefold() in _folded(items[:n]))
            self.problem(key, f"holds {twice[:80]!r} twice")
        if value is not None and len(items) < minimum:
            self.problem(key, f"needs at least {minimum} entries, has {len(items)}")
        return items

    def integer(self, key: str, *, minimum: int, maximum: int, default: int | None = None) -> int:
        """Return an integer in minimum..maximum."""
        wanted = f"an integer from {minimum} to {maximum}"
        value = self._typed(key, (int,), wanted, default)
        self._check_range(key, minimum, maximum, wanted)
        return minimum if value is None else int(value)

    def number(
        self, key: str, *, minimum: float, maximum: float, default: float | None = None
    ) -> float:
        """Return a finite number in minimum..maximum."""
        wanted = f"a number from {minimum:g} to {maximum:g}"
        value = self._typed(key, (int, float), wanted, default)
        self._check_range(key, minimum, maximum, wanted)
        return float(minimum if value is None else value)

    def numbers(self, key: str, *, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """Return a list of finite numbers."""
        value = self._typed(key, (list, tuple), "a list of numbers", default)
        items = tuple(value) if isinstance(value, list | tuple) else ()
        if not all(_is(item, (int, float)) and abs(item) < 1e300 for item in items):
            self.problem(key, "must hold finite numbers only")
            return ()
        return tuple(float(item) for item in items)

    def sizes(
        self, key: str, *, default: tuple[tuple[int, int], ...] | None = None
    ) -> tuple[tuple[int, int], ...]:
        """Return a list of one [height, width] or more, whole numbers above 0."""
        wanted = "a list of [height, width] in pixels"
        value = self._typed(key, (list, tuple), wanted, default)
        pairs = tuple(value or ())
        for pair in pairs:
            whole = isinstance(pair, list | tuple) and all(_is(n, (int,)) and n > 0 for n in pair)
            if not whole or len(pair) != 2:
                self.problem(key, f"must be {wanted}, not {_shown(value)}")
                return ()
        if value is not None and not pairs:
            self.problem(key, f"must be {wanted}, not an empty one")
        return tuple((height, width) for height, width in pairs)

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """Return true or false."""
        return bool(self._typed(key, (bool,), "true or false", default))

    def texts_by_name(self, key: str) -> dict[str, str]:
        """Return a table whose values are all strings, any names; empty if absent."""
        value = self._typed(key, (dict,), "a table of strings", {})
        entries = value if isinstance(value, dict) else {}
        for name, entry in entries.items():
            if not isinstance(entry, str):
                self._note((*self._path, key, name), f"must be a string, not {_shown(entry)}")
            else:
                self._refuse_control_characters(key, entry)
        return {name: entry for name, entry in entries.items() if isinstance(entry, str)}

    def table(self, key: str, *, optional: bool = False) -> "Table":
        """Return the table under a key; an absent optional one is empty."""
        value = self._typed(key, (dict,), "a table", {} if optional else None)
        return Table(self._document, (*self._path, key), value or {})

    def tables(self, key: str) -> tuple["Table", ...]:
        """Return an array of tables; empty if absent."""
        value = self._typed(key, (list, tuple), "an array of tables", ())
        items = tuple(value) if isinstance(value, list | tuple) else ()
        if not all(isinstance(item, dict) for item in items):
            self.problem(key, "must be an array of tables")
            return ()
        path = (*self._path, key)
        return tuple(Table(self._document, (*path, n), item) for n, item in enumerate(items))

    def problem(self, key: str, problem: str) -> None:
        """Note that the value of a key is wrong, e.g. beside another key's."""
        self._note((*self._path, key), problem)

    def place(self, key: str) -> TextPlace:
        """Return where the characters of a key's string begin (line 1 if not known)."""
        found = self._document.positions.get((*self._path, key))
        offset = string_start(self._document.text, found.value) if found else 0
        line, column = _line_column(self._document.text, offset)
        return TextPlace(file=self._document.file, line=line, column=column)

    def finish(self) -> None:
        """Check for unknown keys in every table that was opened.

        Raises:
            RecipeError: There is any problem; the message has all of them, in file order.
        """
        for table in self._document.tables:
            for key in table._values.keys() - table._known:
                near = _nearest(key, table._known)
                table._note((*table._path, key), f"is unknown{near}")
        problems = [message for _, message in sorted(self._document.problems, key=itemgetter(0))]
        if problems:
            raise RecipeError(
                "\n".join(problems), hint=f"dcgrid recipes check {shlex.quote(self._document.file)}"
            )

    def _typed(self, key: str, types: tuple[type, ...], wanted: str, default: object) -> Any:  # noqa: ANN401
        """Return the value of a key if it has one of the types; None (and a note) if it is wrong.

        The value is Any: each getter narrows it at once.
        """
        self._known.add(key)
        if key not in self._values:
            if default is None:
                self.problem(key, f"is missing; it must be {wanted}")
            return default
        value = self._values[key]
        if _is(value, types):
            return value
        self.problem(key, f"must be {wanted}, not {_shown(value)}")
        return None

    def _refuse_control_characters(self, key: str, value: str) -> None:
        """Note control characters: they would reach terminals, file names and text encoders."""
        bad = [c for c in value if unicodedata.category(c) == "Cc" and not c.isspace()]
        if bad:
            self.problem(key, f"holds the control character U+{ord(bad[0]):04X}")

    def _check_range(self, key: str, minimum: float, maximum: float, wanted: str) -> None:
        """Note a number of the file that is out of range; defaults may be."""
        value = self._values.get(key)
        if _is(value, (int, float)) and not minimum <= cast(float, value) <= maximum:
            self.problem(key, f"must be {wanted}, not {_shown(value)}")

    def _note(self, path: KeyPath, problem: str) -> None:
        """Note a problem at a key, or at the nearest table around it that has a place."""
        positions, text = self._document.positions, self._document.text
        known = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in positions), None)
        name = ".".join(str(part) for part in path)
        what = f"key '{name[:120]}' {problem}"
        if known is None:
            self._document.problems.append((0, f"{self._document.file}: {what}"))
            return
        offset = positions[known].key
        line, column = _line_column(text, offset)
        shown = _caret(text, offset, len(str(known[-1])) if known == path else 1)
        message = f"{self._document.file}:{line}:{column}: {what}\n{shown}"
        self._document.problems.append((offset, message))


def _read_text(path: Path) -> str:
    """Return a file's text with bare newlines at the ends of lines."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        hint = "dcgrid recipes list"
        raise RecipeError(f"cannot read recipe {str(path)!r}: {reason}", hint=hint) from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{path}: larger than {MAX_BYTES} bytes, so hardly a recipe")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 text (byte {error.start})") from error


def _decode_error(path: Path, text: str, error: tomllib.TOMLDecodeError) -> RecipeError:
    """Return tomllib's complaint with the source line and a caret."""
    found = _AT.search(str(error))
    problem = _AT.sub("", str(error))
    lines = text.split("\n")
    if found and found[1]:
        line, column = int(found[1]), int(found[2])
    else:
        line, column = len(lines), len(lines[-1]) + 1
    offset = sum(len(content) + 1 for content in lines[: line - 1]) + column - 1
    shown = _caret(text, min(offset, len(text)), 1)
    return RecipeError(f"{path}:{line}:{column}: not TOML: {problem}\n{shown}")


def _line_column(text: str, offset: int) -> tuple[int, int]:
    """Return line and column, both from 1, of an offset."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _caret(text: str, offset: int, width: int) -> str:
    """Return the line of an offset with carets under it, cut to a window."""
    start = text.rfind("\n", 0, offset) + 1
    line = text[start:].split("\n", 1)[0]
    first = max(0, offset - start - _SHOWN_COLUMNS // 2)
    window = "".join(c if c.isprintable() else " " for c in line[first : first + _SHOWN_COLUMNS])
    return f"    {window}\n    {' ' * (offset - start - first)}{'^' * max(1, width)}"


def _is(value: object, types: tuple[type, ...]) -> bool:
    """Return whether a TOML value has a type; true and false are no integers, nan no number."""
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, types)


def _folded(items: tuple[str, ...]) -> set[str]:
    return {item.casefold() for item in items}


def _nearest(name: str, known: Collection[str]) -> str:
    """Return "; did you mean 'NAME'?" for the known name most like `name`, or ""."""
    matches = difflib.get_close_matches(name[:80], sorted(known), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def _shown(value: object) -> str:
    """Return a value as short text for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
