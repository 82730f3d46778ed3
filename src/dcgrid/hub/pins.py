"""Which commit a name meant when it was first downloaded: `pins.json` in the cache folder.

{"models": {NAME: {"repo", "commit", "license", "date", "earlier": [COMMIT],
                   "files": [{"path", "bytes", "digest"}]}},
 "adapters": {REFERENCE: PATH}}
"""

import json
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dcgrid.errors import OutputError, WeightsError
from dcgrid.hub.listing import Listing, RemoteFile
from dcgrid.hub.places import cache_dir, hub_dir
from dcgrid.hub.table import HubModel

_NAME = "pins.json"
_TABLES = ("models", "adapters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What was found under a model's name."""

    repo: str
    """Repository "owner/name"."""
    commit: str
    """The commit that its branch stood at."""
    license: str
    """What its card said then; empty: nothing."""
    date: str
    """When it was resolved, ISO 8601 in UTC."""
    files: tuple[RemoteFile, ...]
    """The files of the model."""
    earlier: tuple[str, ...] = ()
    """Commits that it was at before updates."""

    @property
    def folder(self) -> Path:
        """Where the snapshot is or will be."""
        return repo_dir(self.repo) / "snapshots" / self.commit

    @property
    def bytes_all(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    def missing(self) -> tuple[RemoteFile, ...]:
        """Return the files that are not here with their size."""
        return tuple(file for file in self.files if size_of(self.folder / file.path) != file.bytes)


def repo_dir(repo: str) -> Path:
    """Return the folder that the hub's cache layout gives a repository."""
    return hub_dir() / f"models--{repo.replace('/', '--')}"


def size_of(path: Path) -> int:
    """Return the size of a file; -1: it is not there."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def new_pin(model: HubModel, listing: Listing, earlier: Pin | None) -> Pin:
    """Return the pin of a model at what the hub lists now."""
    commits = (*earlier.earlier, earlier.commit) if earlier is not None else ()
    return Pin(
        repo=model.repo,
        commit=listing.commit,
        license=listing.license,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        files=tuple(file for file in listing.files if model.wants(file.path)),
        earlier=tuple(dict.fromkeys(one for one in commits if one != listing.commit)),
    )


def read_pin(model: HubModel) -> Pin | None:
    """Return what is remembered of a model; None: it was never asked for.

    Raises:
        WeightsError: The file of pins is damaged.
    """
    row = _read()["models"].get(model.name)
    if row is None or row.get("repo") != model.repo:
        return None
    try:
        files = tuple(RemoteFile(**file) for file in row["files"])
        pin = Pin(**{**row, "files": files, "earlier": tuple(row["earlier"])})
        if not all(re.fullmatch(r"[0-9a-f]{40}", one) for one in (pin.commit, *pin.earlier)):
            raise ValueError("a commit is none")
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(error) from error
    return pin


def write_pin(name: str, pin: Pin | None) -> None:
    """Remember a model's pin, or forget it if None.

    Raises:
        OutputError: The cache folder cannot be written.
        WeightsError: The file of pins is damaged.
    """

    def change(content: dict[str, Any]) -> None:
        if pin is None:
            content["models"].pop(name, None)
        else:
            content["models"][name] = asdict(pin)

    _change(change)


def read_adapter_path(reference: str) -> str | None:
    """Return which file a reference to a whole repository meant; None: it was never asked for.

    Raises:
        WeightsError: The file of pins is damaged.
    """
    path = _read()["adapters"].get(reference)
    return path if isinstance(path, str) else None


def write_adapter_path(reference: str, path: str) -> None:
    """Remember which file a reference to a whole repository meant.

    Raises:
        OutputError: The cache folder cannot be written.
        WeightsError: The file of pins is damaged.
    """
    _change(lambda content: content["adapters"].update({reference: path}))


def _read() -> dict[str, Any]:
    path = cache_dir() / _NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        content = {}
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(error) from error
    tables = {key: content.get(key, {}) for key in _TABLES} if isinstance(content, dict) else {}
    if not tables or not all(isinstance(table, dict) for table in tables.values()):
        raise _damaged(ValueError("it holds no tables"))
    return tables


def _change(change: Callable[[dict[str, Any]], None]) -> None:
    """Read, change and write the pins while no other process does."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    path = cache_dir() / _NAME
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.with_suffix(".lock")):
            content = _read()
            change(content)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".pins-")
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(content, stream, indent=1)
            os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}",
            hint="make it writable, or set DCGRID_CACHE_DIR to another folder",
        ) from error
    finally:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)


def _damaged(error: Exception) -> WeightsError:
    path = cache_dir() / _NAME
    return WeightsError(
        f"{path} cannot be read: {str(error)[:200]}",
        hint=f"remove it; what it remembers is asked for again at the next download: rm {path}",
    )
