"""Whole base models from the hub: where they are, what they would cost to fetch, fetching them.

Start at `fetch_model`. A name means the commit that its branch stood at when it was first asked
for (pins.py), until an update is asked for.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from dcgrid.errors import NetworkError, OutputError, WeightsError
from dcgrid.hub.client import BytesReport
from dcgrid.hub.listing import Listing, RemoteFile, is_pickled_name, list_repo
from dcgrid.hub.pins import Pin, new_pin, read_pin, repo_dir, size_of, write_pin
from dcgrid.hub.places import hub_dir, hub_dir_variable, is_offline
from dcgrid.hub.reference import WeightReference
from dcgrid.hub.table import HubModel, hub_model
from dcgrid.hub.transfer import Tally, blob_path, fetch_file, part_path

_INDEX_ENDING = ".safetensors.index.json"
_SPARE_BYTES = 1 << 24
"""What is left free beside the files themselves, for links, locks and the file system."""


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
    pin = read_pin(hub_model(name))
    return pin.folder if pin is not None and not pin.missing() else None


def model_download(name: str) -> ModelDownload:
    """Return what `fetch_model` would download; the hub is asked only if the table does not know.

    Raises:
        UsageError: The table has no such model.
        WeightsError: What is remembered of models is damaged, or the hub has no such revision.
    """
    model = hub_model(name)
    try:
        pin = read_pin(model) if model.sizes else look_up_model(name)
    except NetworkError:
        pin = None
    if pin is None:
        return ModelDownload(
            bytes_left=model.bytes_expected,
            bytes_all=model.bytes_expected,
            files=len(model.sizes) or None,
            license=model.license,
        )
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

    Files arrive side by side, each taken up where it broke, also by a later run. Every one is
    checked against the hub's hash before it gets its name. Several processes may do this at once:
    each file is downloaded by one of them.

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
    if held is not None and not update and not held.missing():
        return held.folder
    if offline or is_offline():
        raise NetworkError(
            f"{name} is not here whole and the network is off"
            if not update or held is None
            else f"{name} cannot be updated while the network is off",
            hint=f"run `dcgrid models pull {name}` with the network on",
        )
    stop = threading.Event()
    pin = held if held is not None and not update else _ask(model, held, stop)
    # A first pin is kept at once, so that half a download is gone on with at the same commit. An
    # update replaces the earlier pin when it is whole: until then the earlier one can be used.
    if held is None:
        write_pin(name, pin)
    _fetch(name, pin, report, workers, stop)
    if pin != held:
        write_pin(name, pin)
    _write_ref(model, pin)
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
    if pin is not None or is_offline():
        return pin
    return _ask(model, None, threading.Event())


def bytes_left(pin: Pin) -> int:
    """Return how many bytes of a snapshot are still to be downloaded."""
    left = 0
    for file in pin.missing():
        if size_of(blob_path(pin, file)) != file.bytes:
            left += file.bytes - min(file.bytes, max(0, size_of(part_path(pin, file))))
    return left


def _ask(model: HubModel, held: Pin | None, stop: threading.Event) -> Pin:
    """Ask the hub what a model's branch stands at now.

    Raises:
        NetworkError: The hub cannot be reached, or does not give it.
        WeightsError: There is no such revision, or the repository holds no such model.
    """
    asked = WeightReference(source="hub", repo=model.repo, revision=model.revision, path="")
    listing = list_repo(asked, stop)
    pin = new_pin(model, listing, held)
    if not model.is_scorer:
        _require_model(asked, listing, pin)
    _require_files(asked, model, pin)
    return pin


def _require_files(asked: WeightReference, model: HubModel, pin: Pin) -> None:
    """Refuse a repository that lacks a file that the table names, or has another one there."""
    digests = {file.path: file.digest for file in pin.files}
    required = model.patterns if model.is_scorer else model.sizes
    lacking = [path for path in required if path not in digests]
    if lacking:
        raise WeightsError(
            f"{asked} lacks {', '.join(lacking)}",
            hint=f"see the files at huggingface.co/{asked.repo}",
        )
    for path, known in model.sha256.items():
        if digests[path] != known:
            raise WeightsError(
                f"{path} of {asked} is not the file that {model.name} stands for: its SHA-256 is "
                f"{digests[path][:12]}, {known[:12]} is known",
                hint="results of another network would stand under a wrong name; if HF_ENDPOINT "
                "names a mirror, try without it",
            )


def _require_model(asked: WeightReference, listing: Listing, pin: Pin) -> None:
    """Refuse a repository in another layout, or with pickles alone."""
    taken = {file.path for file in pin.files}
    if "model_index.json" in taken and any(path.endswith(".safetensors") for path in taken):
        return
    pickled = [file.path for file in listing.files if is_pickled_name(file.path)]
    told = f"; {pickled[0]} is a pickle, which is never loaded" if pickled else ""
    raise WeightsError(
        f"{asked} holds no model in diffusers' layout with safetensors files{told}",
        hint=f"see the files at huggingface.co/{asked.repo}",
    )


def _fetch(
    name: str, pin: Pin, report: BytesReport | None, workers: int, stop: threading.Event
) -> None:
    """Bring all files of a snapshot, the small ones first: they say which large ones there are."""
    _require_space(name, bytes_left(pin))
    tally = Tally(name, pin.bytes_all, report)
    bring = partial(_side_by_side, pin, tally=tally, workers=workers, stop=stop)
    bring([file for file in pin.files if not file.path.endswith(".safetensors")])
    _require_shards(pin)
    bring([file for file in pin.files if file.path.endswith(".safetensors")])


def _side_by_side(
    pin: Pin,
    files: Iterable[RemoteFile],
    *,
    tally: Tally,
    workers: int,
    stop: threading.Event,
) -> None:
    with ThreadPoolExecutor(workers, thread_name_prefix="dcgrid-pull") as pool:
        waiting = [pool.submit(fetch_file, pin, file, tally, stop) for file in files]
        try:
            for one in as_completed(waiting):
                one.result()
        except BaseException:
            # Also Ctrl-C: what has arrived is kept for the next run.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _require_shards(pin: Pin) -> None:
    """Check that the repository has every shard that its indexes name.

    Raises:
        WeightsError: It lacks one, or an index is damaged.
    """
    there = {file.path for file in pin.files}
    for file in pin.files:
        if not file.path.endswith(_INDEX_ENDING):
            continue
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


def _write_ref(model: HubModel, pin: Pin) -> None:
    """Note the branch as the hub's own client does, so that it finds the snapshot offline."""
    path = repo_dir(pin.repo) / "refs" / model.revision
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(pin.commit, encoding="utf-8")
    temporary.replace(path)
