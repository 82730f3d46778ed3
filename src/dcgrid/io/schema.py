"""TOML and JSON into dataclasses or TypedDicts: every problem at once, each with its place.

    document = read_toml(path)
    recipe = document.build(Recipe)
    document.refuse([(("cells",), "names 3 cells; rows x cols makes 4")])   of several keys

What a key may hold stands beside its field, as its type:

    steps: Annotated[int, Ge(1), Le(1000)]                     bounds, from annotated_types
    title: Annotated[str, Text(80)]                            a text that is not blank
    sizes: Annotated[tuple[tuple[int, int], ...], "a list of [height, width]"]    how errors say it

pydantic does the checking. It is imported when the first file is read.
"""

import difflib
import json
import math
import re
import tomllib
import types
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import annotated_types as at

from dcgrid.errors import DcgridError, RecipeError
from dcgrid.io.text import MAX_BYTES, read_text
from dcgrid.io.toml_positions import KeyPath, KeyPosition, key_positions, string_start

Problem = tuple[KeyPath, str]
"""A key and what is wrong with it, as a sentence without its subject."""

_Kind = TypeVar("_Kind")
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


@dataclass(frozen=True)
class Rule:
    """What a value must be beyond its type; stands in `Annotated` beside it."""

    problem: Callable[[Any], str]
    """Returns what is wrong, as "must not be blank", or ""."""

    def __get_pydantic_core_schema__(self, source: object, handler: Callable[[Any], Any]) -> object:
        """Return the type's schema with the rule behind it; pydantic calls this."""
        from pydantic_core import PydanticCustomError, core_schema

        def checked(value: object) -> object:
            if problem := self.problem(value):
                raise PydanticCustomError("rule", "{problem}", {"problem": problem})
            return value

        return core_schema.no_info_after_validator_function(checked, handler(source))


def Text(most: int, *, blank: bool = False) -> Rule:  # noqa: N802 - reads as a type
    """Return the rule of a text with so many characters at most; `blank`: it may be empty."""

    def problem(value: str) -> str:
        if not blank and not value.strip():
            return "must not be blank"
        problem = f"has {len(value)} characters; at most {most} are allowed"
        return problem if len(value) > most else ""

    return Rule(problem)


def _named_twice(items: tuple[Any, ...]) -> str:
    seen = [item.casefold() if isinstance(item, str) else item for item in items]
    twice = next((item for n, item in enumerate(items) if seen[n] in seen[:n]), None)
    return "" if twice is None else f"holds {show(twice)} twice"


EACH_ONCE = Rule(_named_twice)
"""A list that holds nothing twice; texts whatever their case."""


def _no_file_name(name: str) -> str:
    fits = name.strip(". ") and len(name.encode()) <= 200 and not set(name) & set("/\\\0\n")
    return "" if fits else f"must be a file name, not {show(name)}"


FileName = Annotated[str, Rule(_no_file_name)]
"""A text that files may be called after, on every system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A file that was read, not yet checked."""

    file: str
    """Its path."""
    values: dict[str, Any]
    """What it holds."""
    error: type[DcgridError] = RecipeError
    """What is raised."""
    hint: str = ""
    """What is said beside it."""
    text: str = ""
    """Its text, to show lines of; empty: only keys are named."""
    positions: Mapping[KeyPath, KeyPosition] = field(default_factory=dict)
    """Where keys stand in the text."""
    layers: tuple[str, ...] = ()
    """Tables whose keys were put over those of the root; see `layered`."""
    tables: tuple[str, ...] = ()
    """All that may be there for that."""

    def layered(self, names: Iterable[str], known: Collection[str]) -> "Document":
        """Return the document with some of its tables put over its root.

        Args:
            names: Tables to put over the root, the later over the earlier, key by key.
            known: All tables that may be there for that.
        """
        root = {key: value for key, value in self.values.items() if key not in known}
        layers = tuple(name for name in names if isinstance(self.values.get(name), dict))
        for name in layers:
            for key, value in self.values[name].items():
                shared = root.get(key)
                both = isinstance(value, dict) and isinstance(shared, dict)
                root[key] = {**shared, **value} if both else value  # type: ignore[dict-item]
        wrong = [name for name in known if not isinstance(self.values.get(name, {}), dict)]
        self.refuse(((name,), "must be a table") for name in wrong)
        return Document(
            file=self.file, values=root, error=self.error, hint=self.hint, text=self.text,
            positions=self.positions, layers=layers, tables=tuple(known),
        )  # fmt: skip

    def build(self, kind: type[_Kind], values: object = None, **ready: object) -> _Kind:
        """Return the file's values as a dataclass.

        Args:
            kind: The dataclass; what it holds is made, too.
            values: What to make it of; None: the whole file.
            ready: Fields that the file must not name, as JSON values.

        Raises:
            DcgridError: There is any problem; the message has all of them, in the file's order.
        """
        from pydantic import ValidationError

        values = self.values if values is None else values
        if isinstance(values, dict):
            self.refuse(((key,), "is unknown") for key in ready if key in values)
            values = {**values, **ready}
        try:
            # Through JSON, whose lists are tuples and whose strings are paths to pydantic; a date
            # of TOML is neither text nor number.
            text = json.dumps([values], default=lambda date: [str(date)])
            found = _adapter(cast(Any, kind)).validate_json(text)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            # pydantic counts the entries that are right: a list with a wrong one is too short, too.
            inside = {one["loc"][:n] for one in errors for n in range(len(one["loc"]))}
            shown = [
                one for one in errors if one["type"] != "too_short" or one["loc"] not in inside
            ]
            self.refuse(_problem(kind, values, one, self.tables) for one in shown)
            raise
        made: _Kind = found[0]
        return made

    def refuse(self, problems: Iterable[Problem]) -> None:
        """Raise the error for problems, if there is any.

        Raises:
            DcgridError: There is.
        """
        messages = sorted({self._message(*one) for one in problems})
        if messages:
            raise self.error("\n".join(message for _, message in messages), hint=self.hint)

    def place(self, *path: str | int) -> TextPlace:
        """Return where the characters of a key's string begin (line 1 if not known)."""
        found = self._position(path)
        offset = string_start(self.text, found.value) if found else 0
        line, column = _line_column(self.text, offset)
        return TextPlace(file=self.file, line=line, column=column)

    def _position(self, path: KeyPath) -> KeyPosition | None:
        places = [(name, *path) for name in reversed(self.layers)] + [path]
        return next((self.positions[one] for one in places if one in self.positions), None)

    def _message(self, path: KeyPath, problem: str) -> tuple[int, str]:
        """Return offset and message of a problem at a key, or at the nearest one around it."""
        for name in reversed(self.layers):
            if any((name, *path[: n + 1]) in self.positions for n in range(len(path))):
                path = (name, *path)
                break
        around = (path[:n] for n in range(len(path), 0, -1))
        known = next((one for one in around if one in self.positions), None)
        name = "".join(c if c.isprintable() else "?" for c in ".".join(map(str, path)))
        what = f"key '{name[:120]}' {problem}"
        if known is None:
            return 0, f"{self.file}: {what if path else f'the file {problem}'}"
        offset = self.positions[known].key
        line, column = _line_column(self.text, offset)
        shown = _caret(self.text, offset, len(str(known[-1])) if known == path else 1)
        return offset, f"{self.file}:{line}:{column}: {what}\n{shown}"


def read_toml(
    path: Path,
    error: type[DcgridError] = RecipeError,
    *,
    hint: str = "",
    max_bytes: int = MAX_BYTES,
) -> Document:
    """Read a TOML file.

    Args:
        path: The file.
        error: What is raised where it is wrong.
        hint: What is said beside that.
        max_bytes: Larger files are refused.

    Raises:
        DcgridError: Missing, unreadable, too large, no text, no TOML, or it holds control
            characters, which would reach terminals, file names and text encoders.
    """
    text = read_text(path, error, hint=hint, max_bytes=max_bytes)
    return parse_toml(text, str(path), error, hint=hint)


def parse_toml(text: str, file: str, error: type[DcgridError], *, hint: str = "") -> Document:
    """Read TOML; `file` is what errors call it, and they are those of `read_toml`."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as cause:
        message, shown = _toml_problem(text, cause)
        raise error(f"{file}:{message}: not TOML: {shown}", hint=hint) from cause
    except (RecursionError, ValueError) as cause:
        # tomllib lets deep nesting, giant integers and impossible dates through as these.
        raise error(f"{file}: not readable as TOML: {cause}", hint=hint) from cause
    positions = key_positions(text)
    document = Document(
        file=file, values=values, error=error, hint=hint, text=text, positions=positions
    )
    document.refuse(control_characters(values))
    return document


def read_json(
    path: Path, error: type[DcgridError], *, hint: str, max_bytes: int = 64 * MAX_BYTES
) -> Document:
    """Read a JSON file that holds a table; arguments and errors as `read_toml`."""
    text = read_text(path, error, hint=hint, max_bytes=max_bytes)
    return parse_json(text, str(path), error, hint=hint)


def parse_json(text: str | bytes, file: str, error: type[DcgridError], *, hint: str) -> Document:
    """Read JSON that holds a table; `file` is what errors call it."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise error(f"{file} is not JSON: {cause}", hint=hint) from cause
    if not isinstance(values, dict):
        raise error(f"{file} is not JSON of a table: it holds {show(values)}", hint=hint)
    return Document(file=file, values=values, error=error, hint=hint)


def read_format(path: Path, format_: str, error: type[DcgridError], *, hint: str) -> Document:
    """Read a JSON file of ours, whose name of a format is taken out.

    Raises:
        DcgridError: As `read_json`, or it is of another format.
    """
    document = read_json(path, error, hint=hint)
    if document.values.pop("format", None) != format_:
        raise error(f"{path} is not of the format {format_}", hint=hint)
    return document


def control_characters(value: object, path: KeyPath = ()) -> Iterator[Problem]:
    """Yield the keys whose names or texts hold control characters, blanks and newlines aside."""
    if isinstance(value, str):
        bad = [c for c in value if unicodedata.category(c) == "Cc" and not c.isspace()]
        if bad:
            yield path, f"holds the control character U+{ord(bad[0]):04X}"
    elif isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str):
                yield from control_characters(key, (*path, key))
            yield from control_characters(one, (*path, key))


def show(value: object) -> str:
    """Return a value as a message shows it: on one line, not long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def near(name: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest of the known names, or ""."""
    found = difflib.get_close_matches(str(name)[:80], list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


@cache
def _adapter(kind: Any) -> Any:  # noqa: ANN401 - pydantic is not imported here
    """Return pydantic's checker of a dataclass, which takes a list of one."""
    from pydantic import ConfigDict, TypeAdapter

    # A dataclass has no config of its own; it takes that of the list.
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    one: Any = types.GenericAlias(tuple, (kind,))
    return TypeAdapter(one, config=config)


def _problem(
    kind: type[Any],
    values: Any,  # noqa: ANN401
    error: Mapping[str, Any],
    tables: tuple[str, ...],
) -> Problem:
    """Return what pydantic found, in our words, at the key that the user wrote."""
    path: KeyPath = tuple(error["loc"][1:])
    hint, problem, context = error["type"], error["msg"], error.get("ctx", {})
    expected: Any = kind
    for depth, part in enumerate(path):
        around, expected = expected, _inner(expected, part)
        if expected is None:
            known = [*get_type_hints(_bare(around)), *(tables if depth == 0 else ())]
            return path, f"is unknown{near(part, known)}"
        if _phrase(expected):  # said as a whole
            path = path[: depth + 1]
            break
    if hint == "rule":
        return path, problem
    if hint == "value_error":
        return path, f"is wrong: {context.get('error', problem)}"
    if hint == "missing" and len(path) + 1 == len(error["loc"]):
        return path, f"is missing; it must be {_described(expected)}"
    if hint == "too_short":
        least, count = context["min_length"], context["actual_length"]
        return path, f"needs at least {least} {'entry' if least == 1 else 'entries'}, has {count}"
    value = _value_at(values, path)
    if hint == "too_long" and not _phrase(expected):
        return path, f"has {len(value)} entries; at most {context['max_length']} are allowed"
    choices = get_args(_bare(expected)) if get_origin(_bare(expected)) is Literal else ()
    return path, f"must be {_described(expected)}, not {show(value)}{near(value, choices)}"


def _value_at(values: Any, path: KeyPath) -> Any:  # noqa: ANN401
    for part in path:
        values = values[part]
    return values


def _parts(annotation: Any) -> tuple[Any, tuple[Any, ...]]:  # noqa: ANN401
    """Return a type without `| None` and `Annotated`, and what stood in `Annotated`."""
    more: tuple[Any, ...] = ()
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            more += annotation.__metadata__
            annotation = annotation.__origin__
        elif origin in (types.UnionType, Union):
            annotation = next(one for one in get_args(annotation) if one is not types.NoneType)
        else:
            return annotation, more


def _bare(annotation: Any) -> Any:  # noqa: ANN401
    return _parts(annotation)[0]


def _phrase(annotation: Any) -> str:  # noqa: ANN401
    """Return how errors say the type, where a string beside it says so."""
    return next((one for one in _parts(annotation)[1] if isinstance(one, str)), "")


def _inner(annotation: Any, part: str | int) -> Any:  # noqa: ANN401
    """Return the type of a field, an entry or a value; None: there is no such field."""
    bare = _bare(annotation)
    if is_dataclass(bare) or hasattr(bare, "__required_keys__"):  # or a TypedDict
        return get_type_hints(bare, include_extras=True).get(str(part))
    arguments = get_args(bare)
    if get_origin(bare) is tuple:
        many = arguments[-1] is Ellipsis
        return arguments[0] if many else arguments[min(int(part), len(arguments) - 1)]
    return arguments[-1] if arguments else object


def _described(annotation: Any) -> str:  # noqa: ANN401
    """Return what a value must be, as "an integer from 0 to 5"."""
    bare, more = _parts(annotation)
    if phrase := _phrase(annotation):
        return phrase
    if get_origin(bare) is Literal:
        return f"one of {', '.join(map(str, get_args(bare)))}"
    if get_origin(bare) is tuple:
        names = {str: "strings", int: "integers", float: "numbers"}
        name = names.get(_bare(get_args(bare)[0]))
        return f"a list of {name}" if name else "an array of tables"
    if bare in (int, float):
        return f"{'an integer' if bare is int else 'a number'}{_range(more)}"
    return {str: "a string", Path: "a string", bool: "true or false"}.get(bare, "a table")


def _range(more: tuple[Any, ...]) -> str:
    """Return the bounds of a number as " from 0 to below 1"."""
    low, high = -math.inf, math.inf
    above = below = False
    for one in more:
        if isinstance(one, at.Ge | at.Gt):
            low, above = float(getattr(one, "ge", getattr(one, "gt", low))), isinstance(one, at.Gt)
        elif isinstance(one, at.Le | at.Lt):
            high, below = getattr(one, "le", getattr(one, "lt", high)), isinstance(one, at.Lt)
    top = f"{high:g}" if abs(high) < 1e6 else f"{high}"
    if high >= 1e9:  # there for the sake of what comes after, not of people
        return "" if low == -math.inf else f" above {low:g}" if above else f" of {low:g} or more"
    if above:
        return f" above {low:g}, {'below' if below else 'at most'} {top}"
    return f" from {low:g} to {'below ' if below else ''}{top}"


def _toml_problem(text: str, error: tomllib.TOMLDecodeError) -> tuple[str, str]:
    """Return line and column of tomllib's complaint, and the complaint with the source line."""
    found = _AT.search(str(error))
    lines = text.split("\n")
    if found and found[1]:
        line, column = int(found[1]), int(found[2])
    else:
        line, column = len(lines), len(lines[-1]) + 1
    offset = sum(len(content) + 1 for content in lines[: line - 1]) + column - 1
    shown = _caret(text, min(offset, len(text)), 1)
    return f"{line}:{column}", f"{_AT.sub('', str(error))}\n{shown}"


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
