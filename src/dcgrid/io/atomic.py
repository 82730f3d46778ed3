"""Files and folders that appear whole or not at all: a temporary name beside them, then renamed.

    with whole_file(path) as part: ...      one file
    write_whole(path, content)              one file, from memory
    with StagedFiles() as staged: ...       several files, together
    with whole_folder(path) as part: ...    a folder

A full disk, an error or Ctrl-C leaves nothing. A kill -9 leaves the temporary name, which tells the
process that made it; the next run that writes into the folder removes it (`remove_abandoned`).
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from dcgrid.errors import DcgridError, OutputError

ABANDONED_S = 3600.0
"""A temporary file of a process that is gone is removed after this time; on a disk that machines
share, the process may be another machine's."""

_PART = re.compile(r"\.(.*)\.(?:(\d+)-)?[0-9a-f]{8}\.(?:part|old)(\.\w+)?")


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True, hint: str = "") -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it at the end, or leave nothing.

    Args:
        path: The file to make; its folder must exist.
        overwrite: False: a file that is there, or appears meanwhile, is never replaced.
        hint: What to try if it cannot be written; empty: what fits the reason.

    Yields:
        A path with the same suffix in the same folder.

    Raises:
        OutputError: The folder is missing or read-only, the file exists, or the disk is full.
    """
    part = _part_of(path)
    try:
        _check_place(path, overwrite=overwrite)
        remove_abandoned(path.parent)
        yield part
        if overwrite:
            os.replace(part, path)
        else:
            _take_free_name(part, path)
    except Exception as error:
        # FFmpeg's errors are not all OSErrors, but each has the same reason in it.
        if isinstance(error, DcgridError) or not hasattr(error, "strerror"):
            raise
        raise refused(path, error, hint) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, *, hint: str = "") -> None:
    """Write a file from memory, whole or not at all; its folder is made if need be.

    Args:
        path: The file; one that is there is replaced.
        content: Text is written as UTF-8.
        hint: As in `whole_file`.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(path, error, hint) from error
    with whole_file(path, hint=hint) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


class StagedFiles:
    """Files that appear together at the end, or not at all.

    with StagedFiles() as staged:
        write(staged.stage(final_path))
        staged.commit()
    """

    def __init__(self) -> None:
        self._parts: dict[Path, Path] = {}

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was not committed."""
        for part in self._parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def stage(self, path: Path) -> Path:
        """Return a temporary path in the folder of `path`, with its suffix, to write to."""
        if all(path.parent != other.parent for other in self._parts):
            remove_abandoned(path.parent)
        self._parts[path] = _part_of(path)
        return self._parts[path]

    def digests(self, *paths: Path | None) -> dict[str, str]:
        """Return the SHA-256 of what is staged for these paths, by name; None is no file."""
        found = {}
        for path in filter(None, paths):
            with self._parts[path].open("rb") as stream:
                found[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        return found

    def commit(self) -> None:
        """Rename every staged file to its final name, in the order in which they were staged.

        A kill in the middle leaves the first of them; what vouches for the others is staged last.

        Raises:
            OutputError: A rename failed; what was there before is there again.
        """
        earlier: dict[Path, Path | None] = {}
        try:
            for path, part in self._parts.items():
                earlier[path] = _second_name(path)
                os.replace(part, path)
        except OSError as error:
            for path, old in earlier.items():
                with suppress(OSError):
                    if old is not None:
                        os.replace(old, path)
                    elif not self._parts[path].exists():
                        path.unlink()
            failed = list(earlier)[-1]
            raise refused(failed, error) from error
        for old in filter(None, earlier.values()):
            with suppress(OSError):
                old.unlink()
        self._parts.clear()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; rename it at the end, or leave nothing.

    What is at `path` is replaced; whether it may be, the caller checks. The folder around it is
    made if need be.

    Raises:
        OutputError: It cannot be written; what was there before is there again.
    """
    part = _part_of(path)
    old = part.with_suffix(".old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        part.mkdir()
        yield part
        with suppress(FileNotFoundError):
            os.replace(path, old)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            if not path.exists():
                os.replace(old, path)
        raise refused(path, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def remove_abandoned(folder: Path, age_s: float = ABANDONED_S) -> None:
    """Remove the temporary files of killed processes from a folder, not from those in it.

    Args:
        folder: May be missing.
        age_s: Only what was not written to for so many seconds; 0 where nobody else may write.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _PART.fullmatch(entry.name)
            if found is None or (found[2] and _is_alive(int(found[2]))):
                continue
            with suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime < age_s:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def refused(path: Path, error: Exception, hint: str = "") -> OutputError:
    """Return what a user is told of an error of the file system.

    Args:
        path: What was to be written.
        error: An OSError, or another with its `errno` and `strerror`.
        hint: What to try; empty: what fits the reason.
    """
    reason = str(getattr(error, "strerror", None) or "unknown error").lower()
    # Users know the names of results, not of what is written before it gets them.
    named = [_PART.fullmatch(part) for part in path.parts]
    path = Path(
        *(
            f"{found[1]}{found[3] or ''}" if found else part
            for found, part in zip(named, path.parts, strict=True)
        )
    )
    there = next((one for one in path.parents if one.is_dir()), path.parent)
    hints = {
        errno.ENOSPC: f"free some space: `df -h {there}`",
        errno.ENOENT: f"make the folder: `mkdir -p {path.parent}`",
        errno.EACCES: f"choose another place with --out: you may not write in {path.parent}",
        errno.EROFS: "choose another place with --out; this disk is read-only",
        errno.ENAMETOOLONG: "choose a shorter name with --out",
    }
    default = hints.get(getattr(error, "errno", None) or 0, "choose another place with --out")
    return OutputError(f"cannot write {path} ({reason})", hint=hint or default)


def _part_of(path: Path) -> Path:
    """Return a name that no other process takes and that says whose it is."""
    suffix = path.suffix if len(path.suffix) <= 8 else ""
    return path.with_name(f".{path.stem[:40]}.{os.getpid()}-{secrets.token_hex(4)}.part{suffix}")


def _check_place(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError where a file cannot go, before any work is done."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder", hint="name a file in it")
    if not path.parent.is_dir():
        raise OutputError(
            f"cannot write {path}: the folder {path.parent} does not exist",
            hint=f"make it: `mkdir -p {path.parent}`",
        )
    # stat, not exists(): a name that is too long must be an error here.
    with suppress(FileNotFoundError):
        path.stat()
        if not overwrite:
            raise _exists(path)


def _exists(path: Path) -> OutputError:
    return OutputError(f"{path} exists already", hint="add --force to replace it")


def _take_free_name(part: Path, path: Path) -> None:
    """Rename, but never over another file: a link fails where the name is taken."""
    try:
        os.link(part, path)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError:  # a disk without links
        os.replace(part, path)


def _second_name(path: Path) -> Path | None:
    """Give a file that is about to be replaced another name, to bring it back by if need be."""
    old = _part_of(path).with_suffix(".old")
    try:
        os.link(path, old)
    except OSError:  # nothing is there, or the disk has no links
        return None
    return old


def _is_alive(process: int) -> bool:
    """Return whether a process of this machine has that number; False where it cannot be asked."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def move_whole(source: Path, path: Path) -> None:
    """Rename a whole file over `path`, on the same disk; the folder is made if need be.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, path)
    except OSError as error:
        raise refused(path, error) from error
