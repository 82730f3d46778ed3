"""Taking a downloaded model out of the cache again."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dcgrid.errors import OutputError
from dcgrid.hub.pins import read_pin, repo_dir, size_of, write_pin
from dcgrid.hub.places import hub_dir
from dcgrid.hub.table import hub_model


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedModel:
    """What removing a model would free."""

    folder: Path
    """The repository's folder in the cache."""
    snapshots: tuple[Path, ...]
    """Snapshots that this program brought, updates included."""
    blobs: tuple[Path, ...]
    """Files that no other snapshot links to, those included that have arrived in part."""
    bytes: int
    """Their size."""


def cached_model(name: str) -> CachedModel | None:
    """Return what of a model is in the cache and belongs to it alone; None: nothing.

    Snapshots that another program brought, and what they share with this one, do not count.

    Raises:
        UsageError: The table has no such model.
        WeightsError: What is remembered of models is damaged.
    """
    model = hub_model(name)
    pin = read_pin(model)
    folder = repo_dir(model.repo)
    if pin is None or not folder.is_dir():
        return None
    commits = {pin.commit, *pin.earlier}
    every = sorted(one for one in (folder / "snapshots").glob("*") if one.is_dir())
    mine = tuple(one for one in every if one.name in commits)
    kept = {path.resolve() for one in every if one not in mine for path in one.rglob("*")}
    inside = {path.resolve() for one in mine for path in one.rglob("*") if path.is_file()}
    # Parts are named by their hash, so another program's snapshot may want them no more than we do.
    parts = set((folder / "blobs").glob("*.part"))
    blobs = tuple(sorted((inside | parts) - kept))
    if not (mine or blobs):
        return None
    return CachedModel(
        folder=folder,
        snapshots=mine,
        blobs=blobs,
        bytes=sum(max(0, size_of(blob)) for blob in blobs),
    )


def remove_model(name: str) -> int:
    """Take a model out of the cache and forget its commit.

    Returns:
        Bytes that are free now; 0: it was not there.

    Raises:
        UsageError: The table has no such model.
        WeightsError: What is remembered of models is damaged.
        OutputError: A file cannot be removed.
    """
    cached = cached_model(name)
    try:
        if cached is not None:
            _remove(cached)
    except OSError as error:
        raise OutputError(
            f"cannot remove {error.filename}: {error.strerror}", hint="check its permissions"
        ) from error
    if read_pin(hub_model(name)) is not None:
        write_pin(name, None)
    return cached.bytes if cached is not None else 0


def _remove(cached: CachedModel) -> None:
    # Links first: a snapshot that is there looks whole only if what it links to is.
    for snapshot in cached.snapshots:
        shutil.rmtree(snapshot)
    for blob in cached.blobs:
        blob.unlink(missing_ok=True)
    _remove_refs(cached)
    if any((cached.folder / "snapshots").glob("*")):
        return
    shutil.rmtree(cached.folder)
    with suppress(OSError):
        shutil.rmtree(hub_dir() / ".locks" / cached.folder.name)


def _remove_refs(cached: CachedModel) -> None:
    """Remove branches that point to what is gone."""
    gone = {snapshot.name for snapshot in cached.snapshots}
    for ref in (cached.folder / "refs").rglob("*"):
        if ref.is_file() and ref.read_text(encoding="utf-8").strip() in gone:
            ref.unlink()
