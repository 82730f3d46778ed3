"""Read text that people wrote: captions, recipes, manifests, stories, files of prompts."""

import codecs
import os
import re
import stat
from difflib import get_close_matches
from pathlib import Path

from dcgrid.errors import DcgridError

MAX_BYTES = 1024 * 1024
"""Largest file that is read where a reader names no other size."""

# The longer mark first: UTF-32's begins as UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+:)/")


def read_text(
    path: Path, error: type[DcgridError], *, hint: str = "", max_bytes: int = MAX_BYTES
) -> str:
    """Return a text file with bare newlines at the ends of its lines.

    UTF-8, and UTF-16 or UTF-32 where a byte order mark says so.

    Args:
        path: The file.
        error: What is raised where it cannot be read.
        hint: Where such files come from.
        max_bytes: Larger files are refused.

    Raises:
        DcgridError: Missing, no ordinary file, unreadable, too large, or of another encoding; of
            the type `error`.
    """
    content = read_bytes(path, error, hint=hint, max_bytes=max_bytes)
    mark, encoding = next((one for one in _MARKS if content.startswith(one[0])), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as cause:
        line = content.count(b"\n", 0, cause.start) + 1
        raise error(
            f"{path}:{line}: not {encoding.upper()} text (byte {cause.start})",
            hint=f"save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 {path}",
        ) from cause
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error(f"{path}:{line}: not text: it holds a NUL character", hint="save it as UTF-8")
    return text.replace("\r\n", "\n")


def read_bytes(
    path: Path, error: type[DcgridError], *, hint: str = "", max_bytes: int = MAX_BYTES
) -> bytes:
    """Return what a small file holds; arguments and errors as `read_text`."""
    try:
        # A pipe without a writer would block the opening for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            kind = "a folder" if path.is_dir() else "a pipe or a device"
            raise error(f"cannot read {path}: it is {kind}, not a file", hint=hint)
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else str(cause)
        shown = as_typed(path) if str(path).isprintable() else repr(str(path))
        problem = f"cannot read {shown} ({(reason or 'unknown error').lower()})"
        raise error(problem, hint=hint) from cause
    if len(content) > max_bytes:
        raise error(
            f"{path} is larger than {max_bytes:,} bytes, the most for such a file", hint=hint
        )
    return content


def as_typed(path: Path) -> str:
    """Return the text of a path; of an address, `Path` has made one slash of two."""
    return _ADDRESS.sub(r"\1//", str(path))


def missing_hint(path: Path) -> str:
    """Return what to try where a file that was named is not there."""
    if _ADDRESS.match(str(path)):
        return "download it first: files are read, no addresses"
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    near = get_close_matches(path.name, [one.name for one in folder.iterdir()], n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"check the name: the folder {folder.resolve()} has no such file"
