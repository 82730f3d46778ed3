"""Single weight files: inside the package, in a hub repository, or a file of the user's.

Start at `fetch_weights`.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from dcgrid.errors import NetworkError, OutputError, WeightsError
from dcgrid.hub.client import BytesReport, hub_errors, list_repo
from dcgrid.hub.download import (
    check_file,
    client_arguments,
    fetch_file,
    hub_digest,
    is_pickled_name,
    pickled_error,
    remove_from_cache,
)
from dcgrid.hub.pins import read_adapter_path, write_adapter_path
from dcgrid.hub.places import hub_dir, is_offline
from dcgrid.hub.weight_reference import WeightReference, parse_reference

_PACKAGE_WEIGHTS = Path(__file__).parents[1] / "models" / "weights"


def locate_weights(reference: str, *, weights_dir: Path | None = None) -> Path | None:
    """Return where a file lies on this machine, or None if it would have to be downloaded.

    Args:
        reference: See `parse_reference`.
        weights_dir: Looked in before the package's own weights folder.

    Raises:
        WeightsError: The reference is malformed.
    """
    parsed = parse_reference(reference)
    if parsed.source == "hub":
        known = _with_known_path(parsed)
        return _cached_download(known) if known.path else None
    if parsed.source == "file":
        candidates = [Path(parsed.path).expanduser()]
    else:
        folders = [weights_dir, _PACKAGE_WEIGHTS] if weights_dir else [_PACKAGE_WEIGHTS]
        candidates = [folder / parsed.path for folder in folders]
    return next((path for path in candidates if os.path.isfile(path)), None)


def download_bytes(reference: str) -> int | None:
    """Return how much `fetch_weights` would download: 0 if the file is here, None if unknown.

    Asks the hub for the size unless the network is off or does not answer.

    Raises:
        WeightsError: The reference is malformed or names a file the repository does not have.
    """
    parsed = parse_reference(reference)
    if parsed.source != "hub" or locate_weights(reference) is not None:
        return 0
    if is_offline():
        return None
    from huggingface_hub import hf_hub_download

    try:
        with hub_errors(parsed):
            found = hf_hub_download(**client_arguments(_with_path(parsed)), dry_run=True)
    except (NetworkError, OutputError):
        return None
    return int(found.file_size) if found.file_size is not None else None


def fetch_weights(
    reference: str,
    *,
    sha256: str = "",
    offline: bool = False,
    weights_dir: Path | None = None,
    report: BytesReport | None = None,
) -> Path:
    """Return the path of a weight file, downloading it into the cache if it is not here.

    A file of the hub is checked against the hub's own hash each time, and removed if it is damaged.

    Args:
        reference: See `parse_reference`.
        sha256: Expected hash in hex; empty: not checked.
        offline: True forbids the network, as HF_HUB_OFFLINE=1 does.
        weights_dir: Looked in before the package's own weights folder.
        report: Told about bytes as they arrive.

    Returns:
        The path of the file, checked against `sha256`.

    Raises:
        WeightsError: The file is missing, the reference malformed, the hash differs, the file is a
            pickle, or a repository named without a file does not hold one safetensors file.
        NetworkError: The download failed, or the network is off and the file is not in the cache.
        OutputError: No space is left for the download.
    """
    parsed = parse_reference(reference)
    path = locate_weights(reference, weights_dir=weights_dir)
    if path is None and parsed.source != "hub":
        place = _PACKAGE_WEIGHTS if parsed.source == "package" else Path.cwd()
        raise WeightsError(
            f"weights {reference!r} do not exist (looked in {weights_dir or place})",
            hint="run `dcgrid doctor` to see which models are here",
        )
    if is_pickled_name(parsed.path):
        raise pickled_error(str(parsed))
    if parsed.source == "hub":
        path = _fetched(parsed, path, offline=offline or is_offline(), report=report)
    assert path is not None
    if sha256:
        _check_hash(parsed, path, sha256)
    return path


def fetch_beside(path: Path, reference: str, name: str, *, offline: bool = False) -> Path | None:
    """Return a small file of the folder in which a repository holds a weight file.

    Args:
        path: What `fetch_weights` returned.
        reference: What it was asked for; only an `hf:` one has files beside it here.
        name: Name of the other file.
        offline: True forbids the network, as HF_HUB_OFFLINE=1 does.

    Returns:
        Its path; None: the repository has none at that commit, or it cannot be asked.

    Raises:
        NetworkError: The download failed.
        WeightsError: It is damaged.
        OutputError: No space is left for it.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    parsed = parse_reference(reference)
    # The client resolves links of the cache's folder when it downloads, not when it looks up.
    folder, root = path.parent.resolve(), hub_dir().resolve()
    if parsed.source != "hub" or not folder.is_relative_to(root):
        return None
    _, _, commit, *folders = folder.relative_to(root).parts
    named = replace(parsed, revision=commit, path="/".join((*folders, name)))
    known = try_to_load_from_cache(named.repo, named.path, cache_dir=hub_dir(), revision=commit)
    if known is not None and not isinstance(known, str):
        # The client remembers that a commit lacks a file.
        return None
    offline = offline or is_offline()
    if known is None and offline:
        return None
    try:
        return _fetched(named, Path(known) if known else None, offline=offline)
    except WeightsError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            return None
        raise


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _with_known_path(parsed: WeightReference) -> WeightReference:
    """Return a reference with the file that it meant before, where it names none."""
    return parsed if parsed.path else replace(parsed, path=read_adapter_path(str(parsed)))


def _with_path(parsed: WeightReference) -> WeightReference:
    """Return a reference that names a file; the hub is asked which, and the answer kept.

    Raises:
        NetworkError: The hub cannot be reached, or does not give it.
        WeightsError: The repository does not hold one safetensors file.
    """
    known = _with_known_path(parsed)
    if known.path:
        return known
    paths = [file.path for file in list_repo(parsed).files]
    found = [path for path in paths if path.endswith(".safetensors")]
    if not found:
        pickled = [path for path in paths if is_pickled_name(path)]
        pickle_note = f"; {pickled[0]} is a pickle, which is never loaded" if pickled else ""
        raise WeightsError(
            f"{parsed} holds no safetensors file{pickle_note}",
            hint=f"see the files at huggingface.co/{parsed.repo}",
        )
    if len(found) > 1:
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise WeightsError(
            f"{parsed} holds {len(found)} adapters: {', '.join(found[:8])}{more}",
            hint=f"name one: {parsed}/{found[0]}",
        )
    write_adapter_path(str(parsed), found[0])
    return replace(parsed, path=found[0])


def _cached_download(parsed: WeightReference) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    with hub_errors(parsed):
        found = try_to_load_from_cache(
            parsed.repo, parsed.path, cache_dir=hub_dir(), revision=parsed.revision
        )
    return Path(found) if isinstance(found, str) else None


def _fetched(
    parsed: WeightReference, path: Path | None, *, offline: bool, report: BytesReport | None = None
) -> Path:
    """Return a file of the cache that has the hub's hash, downloaded if it is not there."""
    if path is not None:
        try:
            check_file(path, str(parsed), hub_digest(path))
            return path
        except WeightsError:
            if offline:
                raise
    if offline:
        raise NetworkError(
            f"{parsed} is not in the cache and the network is off",
            hint="run once without --offline (and without HF_HUB_OFFLINE) to download it",
        )
    named = _with_path(parsed)
    return fetch_file(
        named, lambda done, total: report(named.path, done, total) if report else None
    )


def _check_hash(parsed: WeightReference, path: Path, expected: str) -> None:
    actual = file_sha256(path)
    if actual == expected.lower():
        return
    hint = "the file is damaged or another version; get it again"
    if parsed.source == "hub":
        # Otherwise the cache would hand out the damaged file for ever.
        remove_from_cache(path)
        hint = "the damaged copy was removed from the cache; run the same command again"
    raise WeightsError(
        f"{path} has SHA-256 {actual[:16]}..., expected {expected[:16]}... ({parsed})", hint=hint
    )
