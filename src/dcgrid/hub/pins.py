"""Which commit a name meant when it was first downloaded: `pins.json` in the cache folder.

{"models": {NAME: {"repo", "commit", "license", "date", "earlier": [COMMIT], "checked",
                   "files": [{"path", "bytes", "digest"}]}},
 "adapters": {REFERENCE: PATH}}
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcgrid.errors import OutputError, WeightsError
from dcgrid.hub.client import RemoteFile
from dcgrid.hub.download import hub_digest
from dcgrid.hub.known_models import HubModel
from dcgrid.hub.places import cache_dir, hub_dir
from dcgrid.io.atomic import write_whole

_NAME = "pins.json"
_COMMIT = r"[0-9a-f]{40}"


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
    checked: bool = True
    """True: every file arrived and had the hub's hash. False: they are being downloaded."""

    @property
    def folder(self) -> Path:
        """Where the snapshot is or will be."""
        return repo_dir(self.repo) / "snapshots" / self.commit

    @property
    def bytes_all(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    def missing(self) -> tuple[RemoteFile, ...]:
        """Return the files that are not here with their size, or are another file."""
        return tuple(file for file in self.files if not self._has(file))

    def _has(self, file: RemoteFile) -> bool:
        path = self.folder / file.path
        known = hub_digest(path) if file.digest else ""
        return size_of(path) == file.bytes and known in ("", file.digest)


def repo_dir(repo: str) -> Path:
    """Return the folder that the hub's cache layout gives a repository."""
    return hub_dir() / f"models--{repo.replace('/', '--')}"


def size_of(path: Path) -> int:
    """Return the size of a file; -1: it is not there."""
    return os.path.getsize(path) if os.path.isfile(path) else -1


def table_pin(model: HubModel) -> Pin | None:
    """Return the pin of a model whose commit and files the table knows; None: it does not.

    So a model is found that another program downloaded. Its large files are taken for what the
    names of their blobs say.
    """
    if not model.sizes or not re.fullmatch(_COMMIT, model.revision):
        return None
    files = (
        RemoteFile(path=path, bytes=size, digest=model.sha256.get(path, ""))
        for path, size in model.sizes.items()
    )
    return Pin(
        repo=model.repo,
        commit=model.revision,
        license=model.license,
        date="",
        files=tuple(files),
    )


def read_pin(model: HubModel) -> Pin | None:
    """Return what is remembered of a model; None: it was never asked for.

    Raises:
        WeightsError: The file of pins is damaged.
    """
    row = _read()["models"].get(model.name)
    try:
        if row is None or row["repo"] != model.repo:
            return None
        files = tuple(RemoteFile(**file) for file in row["files"])
        pin = Pin(**{**row, "files": files, "earlier": tuple(row["earlier"])})
        if not all(re.fullmatch(_COMMIT, one) for one in (pin.commit, *pin.earlier)):
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

    def change(models: dict[str, Any]) -> None:
        models.pop(name, None)
        if pin is not None:
            models[name] = asdict(pin)

    _change("models", change)


def read_adapter_path(reference: str) -> str:
    """Return which file a reference to a whole repository meant; empty: it was never asked for.

    Raises:
        WeightsError: The file of pins is damaged.
    """
    return str(_read()["adapters"].get(reference, ""))


def write_adapter_path(reference: str, path: str) -> None:
    """Remember which file a reference to a whole repository meant.

    Raises:
        OutputError: The cache folder cannot be written.
        WeightsError: The file of pins is damaged.
    """
    _change("adapters", lambda adapters: adapters.update({reference: path}))


def _read() -> dict[str, dict[str, Any]]:
    try:
        content = json.loads((cache_dir() / _NAME).read_bytes())
        tables = {key: content.get(key, {}) for key in ("models", "adapters")}
        if not all(isinstance(table, dict) for table in tables.values()):
            raise ValueError("it holds no tables")
    except FileNotFoundError:
        return {"models": {}, "adapters": {}}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise _damaged(error) from error
    return tables


def _change(table: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Read, change and write a table while no other process does."""
    from filelock import FileLock

    path = cache_dir() / _NAME
    hint = "make it writable, or set DCGRID_CACHE_DIR to another folder"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            content = _read()
            change(content[table])
            write_whole(path, json.dumps(content, indent=1), hint=hint)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", hint=hint) from error


def _damaged(error: Exception) -> WeightsError:
    path = cache_dir() / _NAME
    return WeightsError(
        f"{path} cannot be read: {str(error)[:200]}",
        hint=f"remove it; what it remembers is asked for again at the next download: rm {path}",
    )
