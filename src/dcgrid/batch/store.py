"""Where the state of a batch is: a folder, or a prefix of an object store through fsspec.

Names are relative, with slashes: "plan.json", "items/ID/manifest.json". A file appears whole or not
at all, and one of several that create the same name wins. Ages are by the storage's own clock, so
that machines whose clocks differ agree.
"""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from dcgrid.errors import BatchError, OutputError
from dcgrid.io.atomic import move_whole, refused, whole_file, write_whole


class Store(Protocol):
    """A place for files."""

    @property
    def folder(self) -> Path | None:
        """The folder; None: it is none of this machine."""

    def location(self, name: str) -> str:
        """Return what users call a file."""

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None: it is not there."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole; one that is there is replaced."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless it is there; return False if it is. One of several callers wins."""

    def exists(self, name: str) -> bool:
        """Return whether a file is there."""

    def touch(self, name: str) -> None:
        """Make the age of a file 0; nothing if it is not there."""

    def age_s(self, name: str) -> float | None:
        """Return the seconds since a file was written or touched; None: it is not there."""

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, without it; none if it is not there."""

    def remove(self, name: str) -> None:
        """Remove a file; nothing if it is not there."""

    def put(self, path: Path, name: str) -> None:
        """Move a file of this machine there, whole; one that is there is replaced."""

    def scratch(self) -> Path:
        """Return a folder of this machine to make results in, from which `put` is cheap."""


def open_store(place: str) -> Store:
    """Return the store of a folder, or of a URL such as s3://bucket/prefix.

    Raises:
        BatchError: The storage is not known, its package is missing, or it has no conditional put.
        OutputError: The folder cannot be written.
    """
    check_place(place)
    if "://" in place:
        return RemoteStore(place)
    folder = Path(place).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error) from error
    return FolderStore(folder)


def check_place(place: str) -> None:
    """Check that a place is no file.

    Raises:
        OutputError: It is.
    """
    if "://" not in place and Path(place).exists() and not Path(place).is_dir():
        raise OutputError(f"--out {place} is a file", hint="name a folder")


class FolderStore:
    """A folder, of this machine or of a file system that machines share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path | None:
        """The folder."""
        return self._folder

    def location(self, name: str) -> str:
        """Return the path of a file."""
        return str(self._folder / name)

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None: it is not there."""
        try:
            return (self._folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole."""
        write_whole(self._folder / name, content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless it is there."""
        path = self._folder / name
        if path.exists():
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, overwrite=False) as part:
                part.write_bytes(content)
        except OSError as error:
            raise refused(path, error) from error
        except OutputError:
            if path.exists():
                return False
            raise
        return True

    def exists(self, name: str) -> bool:
        """Return whether a file is there."""
        return (self._folder / name).exists()

    def touch(self, name: str) -> None:
        """Make the age of a file 0, by the clock of the file system."""
        with suppress(FileNotFoundError):
            os.utime(self._folder / name)

    def age_s(self, name: str) -> float | None:
        """Return the age of a file: against one that is written now, on the same file system."""
        try:
            changed = (self._folder / name).stat().st_mtime
        except FileNotFoundError:
            return None
        probe = self._folder / f".clock-{secrets.token_hex(6)}"
        try:
            probe.touch()
            return probe.stat().st_mtime - changed
        finally:
            probe.unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder."""
        try:
            return [one for one in os.listdir(self._folder / folder) if not one.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._folder / name).unlink(missing_ok=True)

    def put(self, path: Path, name: str) -> None:
        """Move a file there."""
        move_whole(path, self._folder / name)

    def scratch(self) -> Path:
        """Return a folder on the same disk."""
        path = self._folder / "work"
        path.mkdir(exist_ok=True)
        return path


class RemoteStore:
    """A prefix of an object store, through fsspec.

    Args:
        url: As s3://bucket/prefix, gs://bucket/prefix, memory://prefix.

    Raises:
        BatchError: See `open_store`.
    """

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            kind = url.split("://", 1)[0]
            package = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}.get(kind, "")
            hint = f"pip install {package}" if package else "a folder, s3:// and gs:// are known"
            raise BatchError(f"--out {url} cannot be used: {error}", hint=hint) from error
        self._url = url.rstrip("/")
        self._check_create()

    def _check_create(self) -> None:
        """Check that a file is not created twice: what claims of rows rest on.

        Raises:
            BatchError: It is, or the storage cannot be written.
        """
        name = f"claims/.probe-{secrets.token_hex(6)}"
        try:
            first, second = self.create(name, b"1"), self.create(name, b"2")
        except Exception as error:  # of whichever backend
            raise BatchError(
                f"--out {self._url} cannot be written: {error}", hint="check name and credentials"
            ) from error
        with suppress(FileNotFoundError):
            self.remove(name)
        if not first or second:
            raise BatchError(
                f"--out {self._url}: this storage cannot create a file only where there is none, "
                "so two workers would take the same row",
                hint="update its package (s3fs, gcsfs), or use a folder that all machines see",
            )

    @property
    def folder(self) -> Path | None:
        """None."""
        return None

    def location(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self._url}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None: it is not there."""
        try:
            content: bytes = self._files.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file; object stores show it when it is whole."""
        self._files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless it is there, by the store's conditional put."""
        try:
            self._files.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def exists(self, name: str) -> bool:
        """Return whether a file is there."""
        self._files.invalidate_cache()
        return bool(self._files.exists(self._path(name)))

    def touch(self, name: str) -> None:
        """Write the same content again, which is how objects get a new time."""
        content = self.read(name)
        if content is not None:
            self.write(name, content)

    def age_s(self, name: str) -> float | None:
        """Return the age of a file, against one that is written now."""
        probe = f"claims/.clock-{secrets.token_hex(6)}"
        try:
            self._files.invalidate_cache()
            changed = self._files.modified(self._path(name))
            self.write(probe, b"")
            age: float = (self._files.modified(self._path(probe)) - changed).total_seconds()
        except FileNotFoundError:
            return None
        finally:
            with suppress(FileNotFoundError):
                self.remove(probe)
        return age

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder."""
        try:
            self._files.invalidate_cache()
            found = self._files.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        names = (str(one).rstrip("/").rsplit("/", 1)[-1] for one in found)
        return [one for one in names if not one.startswith(".")]

    def remove(self, name: str) -> None:
        """Remove a file."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def put(self, path: Path, name: str) -> None:
        """Upload a file and remove it here."""
        self._files.put_file(str(path), self._path(name))
        path.unlink()

    def scratch(self) -> Path:
        """Return a folder of this machine."""
        path = Path(tempfile.gettempdir()) / "dcgrid-batch"
        path.mkdir(exist_ok=True)
        return path

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"
