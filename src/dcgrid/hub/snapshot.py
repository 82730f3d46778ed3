"""Whole base models from the hub: where they are, what fetching them costs, fetching, removing.

Start at `fetch_model`. A name means the commit that its branch stood at when it was first asked
for (pins.py), until an update is asked for. The hub's own client downloads and keeps the files, so
a model that another program fetched at that commit is found, too.
"""

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

from dcgrid.errors import NetworkError, OutputError, WeightsError
from dcgrid.hub.client import BytesReport, RemoteFile, hub_errors, list_repo
from dcgrid.hub.download import (
    fetch_file,
    is_pickled_name,
    is_safetensors,
    remove_from_cache,
    remove_parts,
)
from dcgrid.hub.known_models import HubModel, hub_model
from dcgrid.hub.pins import Pin, read_pin, repo_dir, size_of, table_pin, write_pin
from dcgrid.hub.places import hub_dir, hub_dir_variable, is_offline
from dcgrid.hub.weight_reference import WeightReference
from dcgrid.io.atomic import write_whole

if TYPE_CHECKING:
    from huggingface_hub import DeleteCacheStrategy


_Seen = Callable[[RemoteFile, int], None]
"""Called with a file and how many of its bytes are here."""
_INDEX_ENDING = ".safetensors.index.json"
_SPARE_BYTES = 1 << 24
"""What is left free beside the files themselves, for links, locks and the file system."""
_STOP_S = 3.0
"""How long downloads under way may take to stop; the process need not wait for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDownload:
    """What fetching a model would bring."""

    bytes_left: int | None
    """Bytes still to download, 0 if it is here; None: not known without the network."""
    bytes_all: int | None
    """Size of all its files; None: not known without the network."""
    files: int | None
    """How many files it has; None: not known without the network."""
    license: str
    """What the repository's card says, or else what the table knows."""


def locate_model(name: str) -> Path | None:
    """Return the folder of a model that is here whole, every file with its size; else None.

    Raises:
        UsageError: The table has no such model.
        WeightsError: What is remembered of models is damaged.
    """
    model = hub_model(name)
    pin = read_pin(model) or table_pin(model)
    return pin.folder if pin is not None and pin.checked and not pin.missing() else None


def model_download(name: str) -> ModelDownload:
    """Return what `fetch_model` would download; the hub is asked only if the table does not know.

    Raises:
        UsageError: The table has no such model.
        WeightsError: What is remembered of models is damaged, or the hub has no such revision.
    """
    model = hub_model(name)
    try:
        pin = (read_pin(model) or table_pin(model)) if model.sizes else look_up_model(name)
    except NetworkError:
        pin = None
    if pin is None:
        return ModelDownload(bytes_left=None, bytes_all=None, files=None, license=model.license)
    return ModelDownload(
        bytes_left=bytes_left(pin),
        bytes_all=pin.bytes_all,
        files=len(pin.files),
        license=pin.license or model.license,
    )


def fetch_model(
    name: str,
    *,
    offline: bool = False,
    report: BytesReport | None = None,
    update: bool = False,
    workers: int = 4,
) -> Path:
    """Return the folder of a model, downloading what is not here.

    Files arrive side by side and every one is checked against the hub's hash; those that are here
    already, from a run that was killed or from another program, are checked, too. Several processes
    may do this at once: each file is downloaded by one of them.

    Args:
        name: Name of the model in the table.
        offline: True forbids the network, as HF_HUB_OFFLINE=1 does.
        report: Told about bytes of all files together, under the model's name, from any thread,
            one call at a time.
        update: True asks the hub again which commit the table's revision is.
        workers: Files that arrive at the same time, 1 or more.

    Raises:
        UsageError: The table has no such model.
        NetworkError: The download failed, or the network is off and the model is not here.
        WeightsError: The repository lacks a file, a file is damaged, or it is a pickle.
        OutputError: The disk has too little space, or the cache cannot be written.
    """
    model = hub_model(name)
    held = read_pin(model)
    if not update and (folder := locate_model(name)) is not None:
        return folder
    if offline or is_offline():
        raise NetworkError(
            f"{name} is not here whole and the network is off"
            if not update or held is None
            else f"{name} cannot be updated while the network is off",
            hint=f"run `dcgrid models pull {name}` with the network on",
        )
    pin = held if held is not None and not update else _ask(model, held)
    # A first pin is kept at once, so that half a download is gone on with at the same commit. An
    # update replaces the earlier pin when it is whole: until then the earlier one can be used.
    if held is None:
        write_pin(name, pin)
    remove_parts(repo_dir(pin.repo) / "blobs")
    _require_space(name, bytes_left(pin))
    seen = _summed(name, pin, report)
    # The small ones first: they say which large ones there are.
    _fetch(pin, [one for one in pin.files if not _is_large(one)], seen, workers)
    _require_shards(pin)
    _fetch(pin, [one for one in pin.files if _is_large(one)], seen, workers)
    write_pin(name, replace(pin, checked=True))
    # As the client does for a branch, so that programs find the snapshot offline; a branch that
    # another program has noted stays where it is.
    ref = repo_dir(pin.repo) / "refs" / model.revision
    if model.revision != pin.commit and not ref.exists():
        write_whole(ref, pin.commit)
    return pin.folder


def look_up_model(name: str) -> Pin | None:
    """Return the commit and files of a model, as remembered or as the hub says now.

    Nothing is remembered by it. None: it was never downloaded and the network is off.

    Raises:
        UsageError: The table has no such model.
        NetworkError: The hub cannot be reached, or does not give it.
        WeightsError: What is remembered is damaged, or the repository holds no such model.
    """
    model = hub_model(name)
    pin = read_pin(model)
    return pin if pin is not None or is_offline() else _ask(model, None)


def bytes_left(pin: Pin) -> int:
    """Return how many bytes of a snapshot are still to be downloaded."""
    blobs = repo_dir(pin.repo) / "blobs"
    lacking = [one for one in pin.missing() if size_of(blobs / one.digest) != one.bytes]
    return sum(one.bytes for one in lacking)


def _is_large(file: RemoteFile) -> bool:
    return file.path.endswith(".safetensors")


def _ask(model: HubModel, held: Pin | None) -> Pin:
    """Ask the hub what a model's branch stands at now, and whether that is the model.

    Raises:
        NetworkError: The hub cannot be reached, or does not give it.
        WeightsError: There is no such revision, a file that the table names is lacking or another
            one, or the repository has another layout or pickles alone.
    """
    ref = WeightReference(source="hub", repo=model.repo, revision=model.revision, path="")
    listing = list_repo(ref)
    files = tuple(file for file in listing.files if model.wants(file.path))
    digests = {file.path: file.digest for file in files}
    see = f"see the files at huggingface.co/{ref.repo}"
    if not (model.is_scorer or ("model_index.json" in digests and any(map(_is_large, files)))):
        pickled = [file.path for file in listing.files if is_pickled_name(file.path)]
        pickle_note = f"; {pickled[0]} is a pickle, which is never loaded" if pickled else ""
        raise WeightsError(
            f"{ref} holds no model in diffusers' layout with safetensors files{pickle_note}",
            hint=see,
        )
    required = model.patterns if model.is_scorer else model.sizes
    if lacking := [path for path in required if path not in digests]:
        raise WeightsError(f"{ref} lacks {', '.join(lacking)}", hint=see)
    for path, known in model.sha256.items():
        if digests[path] != known:
            raise WeightsError(
                f"{path} of {ref} is not the file that {model.name} stands for: its SHA-256 is "
                f"{digests[path][:12]}, {known[:12]} is known",
                hint="results of another network would stand under a wrong name; if HF_ENDPOINT "
                "names a mirror, try without it",
            )
    commits = (*held.earlier, held.commit) if held is not None else ()
    return Pin(
        repo=model.repo,
        commit=listing.commit,
        license=listing.license,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        files=files,
        earlier=tuple(dict.fromkeys(one for one in commits if one != listing.commit)),
        checked=False,
    )


def _summed(name: str, pin: Pin, report: BytesReport | None) -> _Seen:
    """Return what reports the bytes of all files of a download together as they arrive."""
    here: dict[str, int] = {}
    lock = Lock()

    def seen(file: RemoteFile, count: int) -> None:
        with lock:
            here[file.path] = count
            if report is not None:
                report(name, sum(here.values()), pin.bytes_all)

    return seen


def _fetch(pin: Pin, files: Iterable[RemoteFile], seen: _Seen, workers: int) -> None:
    """Download and check files side by side; after a failure those under way still arrive.

    The client's `snapshot_download` does not end at Ctrl-C before the files do that are arriving,
    nor while another process holds their locks; threads of our own can be left behind.
    """
    waiting, failures, stop = deque(files), deque[BaseException](), Event()

    def work() -> None:
        with suppress(IndexError):
            while not (failures or stop.is_set()):
                file = waiting.popleft()
                try:
                    _fetch_file(pin, file, seen, stop)
                except BaseException as error:
                    failures.append(error)

    threads = [Thread(target=work, daemon=True) for _ in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.1)
    finally:
        stop.set()
        for thread in threads:
            thread.join(_STOP_S / workers)
    if failures:
        raise failures[0]


def _fetch_file(pin: Pin, file: RemoteFile, seen: _Seen, stop: Event) -> None:
    ref = WeightReference(source="hub", repo=pin.repo, revision=pin.commit, path=file.path)
    with hub_errors(ref):
        path = fetch_file(ref, lambda n, _: seen(file, n), digest=file.digest, stop=stop)
        with path.open("rb") as stream:
            head = stream.read(9)
        if _is_large(file) and not is_safetensors(head, file.bytes):
            remove_from_cache(path)
            raise WeightsError(
                f"{ref} is no safetensors file: it begins with {head[:8]!r}",
                hint="tell the maker of the repository",
            )
    seen(file, file.bytes)


def _require_shards(pin: Pin) -> None:
    """Check that the repository has every shard that its indexes name.

    Raises:
        WeightsError: It lacks one, or an index is damaged.
    """
    there = {file.path for file in pin.files}
    for file in (one for one in pin.files if one.path.endswith(_INDEX_ENDING)):
        try:
            content = json.loads((pin.folder / file.path).read_bytes())
            shards = {str(shard) for shard in content["weight_map"].values()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise WeightsError(
                f"{pin.repo}@{pin.commit[:12]}: {file.path} is no index of shards",
                hint=f"see the files at huggingface.co/{pin.repo}",
            ) from error
        folder = PurePosixPath(file.path).parent
        lacking = sorted(shard for shard in shards if str(folder / shard) not in there)
        if lacking:
            raise WeightsError(
                f"{pin.repo}@{pin.commit[:12]} lacks {len(lacking)} of {len(shards)} shards that "
                f"{file.path} names, such as {lacking[0][:200]}",
                hint="its maker may be uploading it: try later with `dcgrid models pull NAME "
                "--update`",
            )


def _require_space(name: str, needed: int) -> None:
    """Check the disk before the first byte.

    Raises:
        OutputError: It has too little space.
    """
    place = hub_dir()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed and needed + _SPARE_BYTES > free:
        raise OutputError(
            f"{name} needs {needed / 1e9:.1f} GB more in {hub_dir()}, {free / 1e9:.1f} GB are free",
            hint=f"free some space, or set {hub_dir_variable()} to a folder on a larger disk",
        )


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
