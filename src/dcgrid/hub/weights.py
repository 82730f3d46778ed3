"""Single weight files: inside the package, in a hub repository, or a file of the user's.

Start at `fetch_weights`.
"""

import hashlib
import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dcgrid.errors import NetworkError, WeightsError
from dcgrid.hub.client import LIBRARY, BytesReport, endpoint, in_our_words
from dcgrid.hub.content import pickled_error, refuse_pickled_file
from dcgrid.hub.listing import is_pickled_name, only_adapter
from dcgrid.hub.pins import read_adapter_path, write_adapter_path
from dcgrid.hub.places import hub_dir, is_offline
from dcgrid.hub.reference import WeightReference, parse_reference

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
    return next((path for path in candidates if path.is_file()), None)


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
    try:
        from huggingface_hub import hf_hub_download

        found = hf_hub_download(**_download_arguments(_with_path(parsed)), dry_run=True)
    except Exception as error:
        translated = in_our_words(parsed, error)
        if isinstance(translated, WeightsError):
            raise translated from error
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

    A broken connection is taken up again where it broke (several tries); an interrupted download
    leaves no file that could be mistaken for a whole one.

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
    if path is None:
        path = _download(parsed, offline=offline or is_offline(), report=report)
    if parsed.source == "hub":
        _refuse_pickle(parsed, path)
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
        OutputError: No space is left for it.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    parsed = parse_reference(reference)
    parts = path.parts
    if parsed.source != "hub" or "snapshots" not in parts:
        return None
    start = len(parts) - parts[::-1].index("snapshots")
    inside = "/".join((*parts[start + 1 : -1], name))
    asked = replace(parsed, revision=parts[start], path=inside)
    known = try_to_load_from_cache(asked.repo, inside, cache_dir=hub_dir(), revision=asked.revision)
    if known is not None or offline or is_offline():
        # The client remembers, too, that a commit lacks a file.
        return Path(known) if isinstance(known, str) else None
    try:
        return _download(asked, offline=False, report=None)
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


def _download_arguments(parsed: WeightReference) -> dict[str, Any]:
    return {
        "repo_id": parsed.repo,
        "filename": parsed.path,
        "revision": parsed.revision,
        "library_name": LIBRARY,
        "endpoint": endpoint(),
        "cache_dir": hub_dir(),
    }


def _with_known_path(parsed: WeightReference) -> WeightReference:
    """Return a reference with the file that it meant before, where it names none."""
    if parsed.path:
        return parsed
    return replace(parsed, path=read_adapter_path(str(parsed)) or "")


def _with_path(parsed: WeightReference) -> WeightReference:
    """Return a reference that names a file; the hub is asked which, and the answer kept.

    Raises:
        NetworkError: The hub cannot be reached, or does not give it.
        WeightsError: The repository does not hold one safetensors file.
    """
    known = _with_known_path(parsed)
    if known.path:
        return known
    path = only_adapter(parsed)
    write_adapter_path(str(parsed), path)
    return replace(parsed, path=path)


def _cached_download(parsed: WeightReference) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(
            parsed.repo, parsed.path, cache_dir=hub_dir(), revision=parsed.revision
        )
    except HFValidationError as error:
        raise in_our_words(parsed, error) from error
    return Path(found) if isinstance(found, str) else None


def _download(parsed: WeightReference, *, offline: bool, report: BytesReport | None) -> Path:
    if offline:
        raise NetworkError(
            f"{parsed} is not in the cache and the network is off",
            hint="run once without --offline (and without HF_HUB_OFFLINE) to download it",
        )
    from huggingface_hub import hf_hub_download

    # Its retry warnings would tear the progress bar; what matters comes back as an exception.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    parsed = _with_path(parsed)
    try:
        path = hf_hub_download(
            **_download_arguments(parsed), tqdm_class=_progress_class(parsed.path, report)
        )
    except Exception as error:
        raise in_our_words(parsed, error) from error
    return Path(path)


def _refuse_pickle(parsed: WeightReference, path: Path) -> None:
    """Refuse a download that is a pickle inside, and take it out of the cache."""
    try:
        refuse_pickled_file(path, str(parsed))
    except WeightsError:
        _remove_from_cache(path)
        raise


def _remove_from_cache(path: Path) -> None:
    for bad in {path, path.resolve()}:
        with suppress(OSError):
            bad.unlink()


def _check_hash(parsed: WeightReference, path: Path, expected: str) -> None:
    actual = file_sha256(path)
    if actual == expected.lower():
        return
    hint = "the file is damaged or another version; get it again"
    if parsed.source == "hub":
        # Otherwise the cache would hand out the damaged file for ever.
        _remove_from_cache(path)
        hint = "the damaged copy was removed from the cache; run the same command again"
    raise WeightsError(
        f"{path} has SHA-256 {actual[:16]}..., expected {expected[:16]}... ({parsed})", hint=hint
    )


def _progress_class(name: str, report: BytesReport | None) -> type:
    """Return a class that looks like a tqdm bar to the hub and passes bytes on to `report`."""

    class Bar:
        def __init__(self, *_: object, **options: Any) -> None:  # noqa: ANN401 - tqdm's options
            self.total: int | None = options.get("total")
            self.n: int = options.get("initial") or 0

        def update(self, amount: float | None = 1) -> None:
            self.n += int(amount or 0)
            if report is not None:
                report(name, self.n, self.total)

        def close(self) -> None: ...

        def refresh(self, *_: object, **__: object) -> None: ...

        def set_description(self, *_: object, **__: object) -> None: ...

        def set_postfix_str(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            self.close()

    return Bar
