"""Files that appear whole or not at all: a temporary name in the same folder, then renamed."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av.error

from dcgrid.errors import OutputError


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it at the end, or leave nothing.

    Yields:
        A path with the same suffix in the same folder.

    Raises:
        OutputError: The folder is missing or read-only, the file exists, or the disk is full.
    """
    part = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        _check_place(path, overwrite=overwrite)
        yield part
        os.replace(part, path)
    except (av.error.FFmpegError, OSError) as error:
        raise _output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _check_place(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError where a file cannot go, before any work is done."""
    if path.is_dir():
        raise OutputError(f"{path}: this is a directory.", hint="Name a file in it.")
    if not path.parent.is_dir():
        raise OutputError(
            f"{path}: the folder {path.parent} does not exist.",
            hint=f"Try `mkdir -p {path.parent}`.",
        )
    # stat, not exists(): a name that is too long must be an error here.
    with contextlib.suppress(FileNotFoundError):
        path.stat()
        if not overwrite:
            raise OutputError(f"{path}: this file exists.", hint="Add --force to replace it.")


def _output_error(path: Path, error: OSError | av.error.FFmpegError) -> OutputError:
    """Turn an error of the file system into a sentence."""
    reason = error.strerror or "unknown error"
    hints = {
        errno.ENOSPC: f"Free some space: `df -h {path.parent}`.",
        errno.EACCES: f"Choose another place with --out; see `ls -ld {path.parent}`.",
        errno.EROFS: "Choose another place with --out; this disk is read-only.",
        errno.ENAMETOOLONG: "Choose a shorter name with --out.",
    }
    hint = hints.get(error.errno or 0, "Choose another place with --out.")
    return OutputError(f"{path}: this file cannot be written ({reason.lower()}).", hint=hint)
