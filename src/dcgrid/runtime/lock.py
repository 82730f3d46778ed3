"""One run a folder, or a file: a lock file that names the process and that no kill leaves locked.

The lock itself is the operating system's (flock), so it ends with the process, however that ends.
On Windows, and on disks that know no locks, only the file is written.
"""

import errno
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
def run_lock(folder: Path, name: str = LOCK_NAME, held: str = "") -> Iterator[None]:
    """Hold a lock; the file `folder/name` names the process while it is held.

    Args:
        folder: Where the file is; made if need be.
        name: Its name.
        held: What an error calls that which another run holds; "": a run in the folder.

    Raises:
        OutputError: Another run holds it, or the folder cannot be written.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(path, held or f"another run works in {folder}")
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


def _locked(path: Path, held: str) -> int:
    """Open the file, lock it and return its descriptor."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle)
        except BlockingIOError as error:
            owner = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise OutputError(
                f"{held} (process {owner})",
                hint="wait for it, stop it with Ctrl-C, or use another --out",
            ) from error
        # The file that was locked may be one that its owner removed in between.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return handle
        os.close(handle)


def _lock(handle: int) -> None:
    if sys.platform != "win32":
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
                raise
