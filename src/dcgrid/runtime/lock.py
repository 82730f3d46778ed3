"""One run a folder: a lock file that names the process, and that a kill cannot leave behind locked.

The lock itself is the operating system's (flock), so it ends with the process, however that ends.
On Windows, which has none, only the file is written.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcgrid.errors import OutputError

if sys.platform != "win32":
    import fcntl

LOCK_NAME = "lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; `folder/lock` names the process while it is held.

    Raises:
        OutputError: Another run holds it, or the folder cannot be written.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(path)
    except OSError as error:
        raise OutputError(
            f"cannot write in {folder}: {error.strerror}", hint="use another --out"
        ) from error
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path) -> int:
    """Open the file, lock it and return its descriptor."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle)
        except BlockingIOError as error:
            owner = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise OutputError(
                f"another run works in {path.parent} (process {owner})",
                hint="wait for it, stop it with Ctrl-C, or use another --out",
            ) from error
        # The file that was locked may be one that its owner removed in between.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return handle
        os.close(handle)


def _lock(handle: int) -> None:
    if sys.platform != "win32":
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
