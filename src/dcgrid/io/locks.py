"""One run a folder, or a file: a lock file that names the process and that no kill leaves locked.

The lock is the operating system's, through filelock, so it ends with the process, however that
ends.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dcgrid.errors import OutputError
from dcgrid.io.atomic import ABANDONED_S, remove_abandoned

LOCK_NAME = "lock"


@contextmanager
def run_lock(folder: Path, name: str = LOCK_NAME, held: str = "") -> Iterator[None]:
    """Hold a lock; the file `folder/name` names the process while it is held.

    What killed runs left half-written in the folder is removed.

    Args:
        folder: Where the file is; made if need be.
        name: Its name.
        held: What an error calls that which another run holds; "": a run in the folder.

    Raises:
        OutputError: Another run holds it, or the folder cannot be written.
    """
    # Late: no plan needs it, and it takes a tenth of a second.
    import filelock

    path = folder / name
    lock = filelock.FileLock(path, mode=0o644)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        owner = _read_owner(path)  # before filelock may empty the file
        lock.acquire(timeout=0)
        path.write_text(f"{os.getpid()}\n")
    except filelock.Timeout as error:
        raise OutputError(
            f"{held or f'another run works in {folder}'} (process {owner})",
            hint="wait for it, stop it with Ctrl-C, or use another --out",
        ) from error
    except OSError as error:
        # Some disks know no locks; there the file only tells.
        if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
            if lock.is_locked:  # made, but the disk is full
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                lock.release()
            raise OutputError(
                f"cannot write in {folder}: {error.strerror}", hint="use another --out"
            ) from error
    try:
        # Who holds the folder's own lock is alone in it.
        remove_abandoned(folder, 0.0 if name == LOCK_NAME else ABANDONED_S)
        yield
    finally:
        # Removed while held: who opened it before finds out that it is no longer the file.
        with suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()


def _read_owner(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[:20].strip() or "unknown"
    except OSError:
        return "unknown"
