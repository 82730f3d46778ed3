"""Rows of a batch: a CSV, JSONL or TOML file, a folder of clips, or standard input.

    input,effects,seed            {"input": "a.mp4", "effects": ["rain"]}        [[jobs]]
    a.mp4,rain|fog,3              {"first": "b.mp4", "concept": "fire"}          input = "a.mp4"

A column is an option of `dcgrid edit`, `compose` or `story`; options.py has the schema. Rows with
`first` are compositions, rows with `scenes` stories, all others edits. No torch here.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from dcgrid.errors import BatchError, DcgridError
from dcgrid.io.progress import counted
from dcgrid.io.schema import near, read_toml, show
from dcgrid.io.text import read_text
from dcgrid.options import JOBS, REQUESTS
from dcgrid.pipelines.job import GridJob
from dcgrid.video.folder import split_folder

MAX_BYTES = 256 * 1024 * 1024
"""Largest file of jobs."""
_HINT = "docs/batch.md shows files of jobs"
_ALIASES = {"effect": "effects", "lora": "loras", "scene": "scenes", "from": "source"}
"""Columns by the name of the option that they come from."""
_PATHS = ("input", "first", "second", "source")
_OWN = ("command", "name")
"""Columns that are no options."""
_NOT_SET = ("out", "force", "device")
"""Options of single runs that rows do not take from settings; workers have a --device."""
_SPLITS = re.compile(r"[|;,]")
_TEXTS = ("prompts", "scenes")
"""Lists of free text, which may hold commas: they are split at | alone."""
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A job as somebody wrote it, checked as far as its own text goes."""

    place: str
    """File and line, or the clip of a folder."""
    name: str
    """What the user calls it; empty: nothing."""
    job: GridJob
    """What is asked."""


@dataclass(frozen=True, slots=True)
class SetValue:
    """The value of an option that the user's settings give, and where it stands."""

    value: Any
    origin: str


UserSettings: TypeAlias = Mapping[str, Mapping[str, SetValue]]
"""What is set for each command, by the option's long name."""


def read_jobs(
    source: Path | str, defaults: Mapping[str, Any], settings: UserSettings | None = None
) -> tuple[list[Row], list[str]]:
    """Read all rows.

    Args:
        source: A .csv, .tsv, .jsonl, .toml file or a folder of clips; a string is the text of
            standard input: CSV, or JSONL if it begins with a brace.
        defaults: Options of rows that do not name them.
        settings: What holds where neither a row nor `defaults` names an option.

    Returns:
        The rows, and all that is wrong, a message each with its file and line.

    Raises:
        BatchError: The file cannot be read at all, or holds no row.
    """
    problems: list[str] = []
    by_command = {name: _row_settings(name, given) for name, given in (settings or {}).items()}
    written = list(_written(source, defaults, problems))
    folder = source.parent if isinstance(source, Path) else Path()
    rows = []
    for place, values in written:
        try:
            rows.append(_row(place, values, defaults, by_command, folder))
        except DcgridError as error:
            problems += error.message.split("\n")
    names: dict[str, str] = {}
    for row in rows:
        if row.name and row.name in names:
            problems.append(f"{row.place}: the name {row.name!r} is that of {names[row.name]}")
        names.setdefault(row.name, row.place)
    if not written and not problems:
        where = source if isinstance(source, Path) else "standard input"
        raise BatchError(f"{where} holds no job", hint=_HINT)
    return rows, problems


def check_defaults(defaults: Mapping[str, Any]) -> None:
    """Check that some command has each option; values are checked with the rows.

    Raises:
        BatchError: None has.
    """
    known = {name for command in REQUESTS for name in _hints(command)} - {"out", "input"}
    for name in defaults:
        if name not in known:
            raise BatchError(f"--set: key {name!r} is unknown{near(name, known)}", hint=_HINT)


def _written(
    source: Path | str, defaults: Mapping[str, Any], problems: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and values of each row."""
    if isinstance(source, str):
        lines = _jsonl if source.lstrip().startswith("{") else _csv
        yield from lines(source, "standard input", problems)
    elif source.is_dir():
        if not ({"effects", "prompt", "concept", "scenes"} & set(defaults)):
            raise BatchError(
                f"{source} is a folder: what is to be made of its clips?",
                hint=f"dcgrid batch {source} --effect rain --out results",
            )
        key = "first" if "concept" in defaults else "source" if "scenes" in defaults else "input"
        clips, _ = split_folder(source)
        for path in clips:
            yield str(path), {key: str(path.absolute())}
    elif source.suffix.lower() == ".toml":
        yield from _toml(source)
    elif source.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _jsonl(_text(source), str(source), problems)
    elif source.suffix.lower() in (".csv", ".tsv", ".txt"):
        yield from _csv(_text(source), str(source), problems)
    else:
        raise BatchError(
            f"{source} is no file of jobs: its name must end in .csv, .jsonl or .toml",
            hint=f"{_HINT}; `dcgrid edit` takes a single clip",
        )


def _text(path: Path) -> str:
    return read_text(path, BatchError, hint=_HINT, max_bytes=MAX_BYTES)


def _jsonl(text: str, file: str, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"{file}:{number}: not JSON: {error}")
            continue
        if isinstance(values, dict):
            yield f"{file}:{number}", values
        else:
            problems.append(f"{file}:{number}: must be a JSON object, not {show(values)}")


def _toml(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    document = read_toml(path, BatchError, hint=_HINT, max_bytes=MAX_BYTES)
    jobs = document.values.get("jobs", [])
    document.refuse(
        ((key,), "is unknown; jobs stand in [[jobs]]") for key in document.values if key != "jobs"
    )
    if not isinstance(jobs, list) or not all(isinstance(one, dict) for one in jobs):
        document.refuse([(("jobs",), "must be an array of tables: [[jobs]]")])
    for number, values in enumerate(jobs):
        found = document.positions.get(("jobs", number))
        line = document.text.count("\n", 0, found.key) + 1 if found else 1
        yield f"{path}:{line}", values


def _csv(text: str, file: str, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    header = text.split("\n", 1)[0]
    marks = {mark: header.count(mark) for mark in "\t;,"}
    reader = csv.reader(
        io.StringIO(text), delimiter=max(marks, key=lambda one: marks[one]), strict=True
    )
    columns: list[str] = []
    start = 1
    try:
        for cells in reader:
            place, start = f"{file}:{start}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [_column(cell) for cell in cells]
                found = dict(_header_problems(columns))
                problems += [f"{place}: {problem}" for problem in found.values()]
                columns = ["" if n in found else name for n, name in enumerate(columns)]
            elif len(cells) != len(columns):
                problems.append(
                    f"{place}: {counted(len(cells), 'cell')}; the header names {len(columns)}"
                )
            else:
                filled = dict(zip(columns, map(str.strip, cells), strict=True))
                filled = {name: cell for name, cell in filled.items() if name and cell}
                kinds = _hints(_command(filled))
                yield (
                    place,
                    {n: _typed(n, cell, kinds.get(n, str)) for n, cell in filled.items()},
                )
    except csv.Error as error:
        problems.append(f"{file}:{reader.line_num}: not CSV: {error}")


def _header_problems(columns: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the number of each column that is wrong, and what is."""
    known = {*_OWN, *(name for command in REQUESTS for name in _hints(command))}
    for number, name in enumerate(columns):
        if not name:
            yield number, f"column {number + 1} has no name"
        elif columns.index(name) < number:
            yield number, f"column {name!r} is there twice"
        elif name not in known:
            yield number, f"column {name!r} is unknown{near(name, known - {'out'})}"


@cache
def _hints(command: str) -> dict[str, Any]:
    return get_type_hints(REQUESTS[command])


def _column(cell: str) -> str:
    name = cell.strip().lower().replace("-", "_").strip("_")
    return _ALIASES.get(name, name)


def _typed(name: str, text: str, kind: Any) -> object:  # noqa: ANN401 - a type
    """Return the value of a cell, or its text where that is none of the type: errors show it."""
    if get_origin(kind) is Literal or kind is str:
        return text
    options = [one for one in get_args(kind) if one is not NoneType] or [kind]
    if kind in (int, float) or options[0] in (int, float):
        try:
            return int(text) if kind is int or text.isdecimal() else float(text)
        except ValueError:
            return text
    if kind is bool:
        low = text.lower()
        return low in _YES if low in (*_YES, *_NO) else text
    parts = text.split("|") if name in _TEXTS else _SPLITS.split(text)
    return [part.strip() for part in parts if part.strip()]


def _command(values: Mapping[str, Any]) -> str:
    """Return the command of a row; an unknown one is an edit, and `_row` refuses it."""
    named = values.get("command")
    if named in REQUESTS:
        return str(named)
    return "compose" if "first" in values else "story" if "scenes" in values else "edit"


def _row_settings(command: str, given: Mapping[str, SetValue]) -> dict[str, tuple[str, SetValue]]:
    """Return what is set for a command, by column, with the option's name; no inputs, no device."""
    kinds, found = _hints(command), {}
    for name, setting in given.items():
        column = _column(name)
        column = "prompts" if (command, column) == ("compose", "prompt") else column
        if column not in kinds or column in (*_PATHS, *_NOT_SET):
            continue
        value = setting.value
        if isinstance(value, str):
            value = _typed(column, value, kinds[column])
        found[column] = name, replace(setting, value=value)
    return found


def _row(
    place: str,
    written: dict[str, Any],
    defaults: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, tuple[str, SetValue]]],
    folder: Path,
) -> Row:
    """Return a checked row.

    Raises:
        BatchError: Something is wrong; all of it in one message.
    """
    values = {_column(name): value for name, value in written.items()}
    command, problems = _command(values), list[str]()
    known = _hints(command)
    values = {**{name: one for name, one in defaults.items() if name in known}, **values}
    left = {
        column: one for column, one in settings.get(command, {}).items() if column not in values
    }
    values |= {column: one.value for column, (_, one) in left.items()}
    if values.get("command", command) not in REQUESTS:
        shown = show(values["command"])
        problems.append(f"{place}: key 'command' must be one of {', '.join(REQUESTS)}, not {shown}")
    name = values.pop("name", "") if command != "story" else values.get("name", "")
    if not isinstance(name, str):
        problems.append(f"{place}: key 'name' must be a string, not {show(name)}")
    if "out" in values:
        problems.append(
            f"{place}: key 'out' is for single runs: results of a batch go to --out, in items/ID; "
            "'name' names a row in index.jsonl"
        )
    for key in ("command", "out", "force"):
        values.pop(key, None)
    for key in _PATHS:
        if isinstance(values.get(key), str) and values[key]:
            values[key] = str((folder / Path(values[key]).expanduser()).absolute())
    if isinstance(values.get("effects"), str):
        values["effects"] = [values["effects"]]
    try:
        job = JOBS[command](values, place, BatchError)
        job = replace(job, origins={name: one.origin for name, one in left.values()})
    except BatchError as error:
        problems += error.message.split("\n")
    if problems:
        raise BatchError("\n".join(problems))
    return Row(place=place, name=str(name), job=job)
