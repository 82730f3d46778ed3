"""Taking a downloaded model out of the cache again."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dcgrid.errors import OutputError
from dcgrid.hub.download import remove_parts
from dcgrid.hub.pins import read_pin, repo_dir, write_pin
from dcgrid.hub.places import hub_dir
from dcgrid.hub.table import hub_model

if TYPE_CHECKING:
    from huggingface_hub import DeleteCacheStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedModel:
    """What removing a model would free."""

    folder: Path
    """The repository's folder in the cache."""
    bytes: int
    """Size of the files that no other snapshot links to."""
    strategy: "DeleteCacheStrategy"
    """What the hub's client would remove."""


def cached_model(name: str) -> CachedModel | None:
    """Return what of a model is in the cache and belongs to it alone; None: nothing.

    Snapshots that another program brought, and what they share with this one, do not count.

    Raises:
        UsageError: The table has no such model.
        WeightsError: What is remembered of models is damaged.
    """
    from huggingface_hub import scan_cache_dir

    pin = read_pin(hub_model(name))
    if pin is None or not repo_dir(pin.repo).is_dir():
        return None
    cache = scan_cache_dir(hub_dir())
    repos = (one for one in cache.repos if (one.repo_type, one.repo_id) == ("model", pin.repo))
    there = {one.commit_hash for repo in repos for one in repo.revisions}
    if not (mine := there & {pin.commit, *pin.earlier}):
        return None
    strategy = cache.delete_revisions(*mine)
    freed = strategy.expected_freed_size
    return CachedModel(folder=repo_dir(pin.repo), bytes=freed, strategy=strategy)


def remove_model(name: str) -> int:
    """Take a model out of the cache and forget its commit.

    Returns:
        Bytes that are free now; 0: it was not there.

    Raises:
        UsageError: The table has no such model.
        WeightsError: What is remembered of models is damaged.
        OutputError: A file cannot be removed.
    """
    cached, pin = cached_model(name), read_pin(hub_model(name))
    if pin is not None:
        remove_parts(repo_dir(pin.repo) / "blobs", older_than_s=0)
    if cached is not None:
        # The client only warns of what it cannot remove.
        cached.strategy.execute()
        removed = (*cached.strategy.repos, *cached.strategy.snapshots, *cached.strategy.blobs)
        left = [path for path in removed if path.exists() or path.is_symlink()]
        if left:
            raise OutputError(f"cannot remove {left[0]}", hint="check its permissions")
    if pin is not None:
        write_pin(name, None)
    return cached.bytes if cached is not None else 0
