"""Where the keys of a TOML document stand, which tomllib does not say.

The scanner takes text that tomllib has already accepted, so it needs to know strings, brackets and
comments only. Keys inside inline tables and arrays have no position of their own.
"""

import re
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]
"""Names from the root to a key; an int counts the tables of an array of tables."""

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_KEY_PART = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[A-Za-z0-9_-]+')
_MULTILINE = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}', re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'')
_PLAIN = re.compile(r"[^\n#]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPosition:
    """Offsets of a key and of its value in the text."""

    key: int
    value: int
    """Equals `key` for the header of a table."""


def key_positions(text: str) -> dict[KeyPath, KeyPosition]:
    """Return where the keys and table headers of a valid TOML text stand.

    Args:
        text: The document with bare newlines at the ends of lines.

    Returns:
        Positions by path; keys that the scanner cannot place are missing.
    """
    found: dict[KeyPath, KeyPosition] = {}
    counts: dict[KeyPath, int] = {}
    prefix: KeyPath = ()
    position = _BLANK.match(text, 0).end()  # type: ignore[union-attr]  # it matches nothing too
    while position < len(text):
        start = position
        if text[position] == "[":
            is_array = text.startswith("[[", position)
            names, position = _key(text, position + (2 if is_array else 1))
            prefix = _resolved(names, counts, is_array=is_array)
            found[prefix] = KeyPosition(key=start, value=start)
            position = _line_end(text, position)
        else:
            names, position = _key(text, position)
            if not names or not text.startswith("=", position):
                return found
            value = _end(_SPACE, text, position + 1)
            found[prefix + names] = KeyPosition(key=start, value=value)
            position = value_end(text, value)
        position = _end(_BLANK, text, position)
    return found


def string_start(text: str, value: int) -> int:
    """Return the offset of the first character inside a string value.

    Args:
        text: The document.
        value: Offset of the value; of its opening quote, if it is a string.

    Returns:
        The offset after the quotes, and after the newline that TOML drops there.
    """
    if text.startswith(('"""', "'''"), value):
        inside = value + 3
        return inside + 1 if text.startswith("\n", inside) else inside
    return value + 1 if text.startswith(('"', "'"), value) else value


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Return the end of a match at a position, or the position."""
    match = pattern.match(text, position)
    return match.end() if match else position


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return end if end >= 0 else len(text)


def _key(text: str, position: int) -> tuple[KeyPath, int]:
    """Read a dotted key; return its names and the offset after it and its blanks."""
    names: list[str] = []
    while True:
        position = _end(_SPACE, text, position)
        part = _KEY_PART.match(text, position)
        if not part:
            return tuple(names), position
        names.append(part[0].strip("\"'") if part[0][0] in "\"'" else part[0])
        position = _end(_SPACE, text, part.end())
        if not text.startswith(".", position):
            return tuple(names), position
        position += 1


def _resolved(names: KeyPath, counts: dict[KeyPath, int], *, is_array: bool) -> KeyPath:
    """Return a header's path with the numbers of the array tables that it lies in."""
    path: KeyPath = ()
    for name in names[:-1]:
        path += (name,)
        if path in counts:
            path += (counts[path],)
    path += names[-1:]
    if is_array:
        counts[path] = counts.get(path, -1) + 1
        path += (counts[path],)
    return path


def value_end(text: str, position: int) -> int:
    """Return the offset after the value that starts at a position."""
    if not text.startswith(("[", "{"), position):
        string = _MULTILINE.match(text, position) or _STRING.match(text, position)
        return string.end() if string else _end(_PLAIN, text, position)
    depth = 0
    while position < len(text):
        string = _MULTILINE.match(text, position) or _STRING.match(text, position)
        if string:
            position = string.end()
            continue
        character = text[position]
        if character == "#":
            position = _line_end(text, position)
            continue
        depth += (character in "[{") - (character in "]}")
        position += 1
        if depth == 0:
            return position
    return position
