"""Disks that are full after so many bytes: a tmpfs, which root can mount."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

RUNS = os.name == "posix" and os.geteuid() == 0 and shutil.which("mount") is not None


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a disk of so many bytes (in pages of 4096) at a new folder, and take it away."""
    if not RUNS:
        pytest.skip("only root mounts a small disk")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int) -> None:
    """Write a file `filler` that leaves so many bytes of a disk free."""
    free = os.statvfs(folder)
    size = max(0, free.f_bavail * free.f_frsize - left)
    with (folder / "filler").open("wb") as stream:
        stream.write(bytes(size))
