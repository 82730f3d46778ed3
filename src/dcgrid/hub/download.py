"""One file of the hub into its cache, through its own client, and checked against its own hash.

The client keeps whole files. Within a run it goes on after a broken connection where it broke; what
a kill cuts off starts anew in the next run.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from threading import Event
from typing import Any, Self

from dcgrid.errors import NetworkError, WeightsError
from dcgrid.hub.client import LIBRARY, endpoint, hub_errors, persist
from dcgrid.hub.known_models import PICKLED_SUFFIXES
from dcgrid.hub.places import hub_dir
from dcgrid.hub.weight_reference import WeightReference

Seen = Callable[[int, int | None], None]
"""Called with bytes so far and in all while a file arrives."""
_OLD_S = 3600.0


def client_arguments(ref: WeightReference) -> dict[str, Any]:
    """Return what the client's functions about one file take."""
    return {
        "repo_id": ref.repo,
        "filename": ref.path,
        "revision": ref.revision,
        "library_name": LIBRARY,
        "endpoint": endpoint(),
        "cache_dir": hub_dir(),
    }


def fetch_file(
    ref: WeightReference, seen: Seen, *, digest: str = "", stop: Event | None = None
) -> Path:
    """Return a file of the cache that has the hub's hash, downloaded if it is not there.

    Args:
        ref: The file.
        seen: See `Seen`.
        digest: The hash; empty: the hub's answer tells it.
        stop: Ends the download when set.

    Raises:
        NetworkError: See `client.hub_errors`; or it was stopped.
        WeightsError: See `client.hub_errors` and `check_file`.
        OutputError: See `client.hub_errors`.
    """
    from huggingface_hub import hf_hub_download

    stop = stop or Event()
    bar = _bar_class(ref, seen, stop)

    with hub_errors(ref):
        for last in (False, True):
            path = persist(
                ref,
                lambda: Path(hf_hub_download(**client_arguments(ref), tqdm_class=bar)),
                stop,
            )
            try:
                check_file(path, str(ref), digest or hub_digest(path) or _asked_digest(ref))
            except WeightsError:
                remove_from_cache(path)
                # Where nothing was downloaded, another program has left a damaged file.
                if last or bar.made:
                    raise
            else:
                return path
    raise AssertionError("the second try returns or raises")


def _bar_class(ref: WeightReference, seen: Seen, stop: Event) -> Any:  # noqa: ANN401 - a class
    """Return a progress bar in the manner of tqdm that shows nothing and passes on its numbers."""

    def nothing(*_: object, **__: object) -> None: ...

    class Bar:
        made = False
        """True once something is downloaded."""
        # Xet counts bytes from the network beside those that are written; there is one bar here.
        update_transfer = set_transfer_postfix_str = staticmethod(nothing)
        close = refresh = set_postfix_str = set_description = __exit__ = staticmethod(nothing)

        def __init__(self, *_: object, **options: Any) -> None:  # noqa: ANN401 - tqdm's options
            type(self).made = True
            self.total: int | None = options.get("total")
            self.n: int = options.get("initial") or 0

        def __enter__(self) -> Self:
            return self

        def update(self, amount: float | None = 1) -> None:
            if stop.is_set():
                raise NetworkError(f"the download of {ref} was given up")
            self.n += int(amount or 0)
            seen(self.n, self.total)

    return Bar


def hub_digest(path: Path) -> str:
    """Return the hash that the hub has of a file of its cache; empty: it is not known.

    A snapshot links to blobs that are named by the hash, where links can be made.
    """
    name = PurePosixPath(os.readlink(path).replace(os.sep, "/")).name if path.is_symlink() else ""
    return name if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) else ""


def _asked_digest(ref: WeightReference) -> str:
    """Return the hash that the hub has of a file whose place in the cache does not tell it.

    Raises:
        WeightsError: It has none.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(ref.repo, ref.path, revision=ref.revision, endpoint=endpoint())
    digest = get_hf_file_metadata(url, endpoint=endpoint(), library_name=LIBRARY).etag or ""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest):
        raise WeightsError(
            f"the hub names no hash for {ref}, so that it cannot be checked",
            hint="if HF_ENDPOINT names a mirror, try without it",
        )
    return digest


def check_file(path: Path, name: str, digest: str) -> None:
    """Check a file of the cache; one that is damaged or a pickle is removed.

    Args:
        path: The file.
        name: What to call it in errors.
        digest: The hub's hash: SHA-256 (64 hex digits) or git's blob id (40); empty: not checked.

    Raises:
        WeightsError: It has another hash, or it is a pickle inside.
    """
    with path.open("rb") as stream:
        head, size = stream.read(9), path.stat().st_size
        stream.seek(0)
        # Not for safety: it is how git names a file. Some mirrors give the SHA-1 of the bytes.
        starts = (f"blob {size}\0".encode(), b"") if len(digest) == 40 else (b"",)
        kind = hashlib.sha1 if len(digest) == 40 else hashlib.sha256
        sums = [kind(start, usedforsecurity=False) for start in starts if digest]
        while sums and (chunk := stream.read(1 << 20)):
            for one in sums:
                one.update(chunk)
    found = [one.hexdigest() for one in sums]
    if digest and digest not in found:
        remove_from_cache(path)
        raise WeightsError(
            f"{name} is damaged: its {'SHA-256' if len(digest) == 64 else 'git hash'} is "
            f"{found[0][:16]}..., the hub says {digest[:16]}...",
            hint="the damaged copy was removed; run the same command again",
        )
    zipped = head.startswith(b"PK\x03\x04")
    pickled = len(head) > 1 and head[0] == 0x80 and 1 <= head[1] <= 5
    # The length of a safetensors header, say 640, can begin like a pickle of protocol 2.
    if (zipped or pickled) and not is_safetensors(head, size):
        remove_from_cache(path)
        raise pickled_error(name)


def is_safetensors(head: bytes, size: int) -> bool:
    """Return True if a file of so many bytes that begins so can be a safetensors file."""
    return len(head) > 8 and 8 + int.from_bytes(head[:8], "little") <= size and head[8:9] == b"{"


def is_pickled_name(path: str) -> bool:
    """Return True for the names of files that run code when they are loaded."""
    return PurePosixPath(path).suffix.lower() in PICKLED_SUFFIXES


def pickled_error(name: str) -> WeightsError:
    """Return the error for a pickle."""
    return WeightsError(
        f"{name} is a pickle inside, which can run code and is never loaded",
        hint="get it as safetensors from its maker",
    )


def remove_from_cache(path: Path) -> None:
    """Remove a file of a snapshot with the blob that it links to."""
    linked = [path.parent / os.readlink(path)] if path.is_symlink() else []
    for bad in (path.resolve(), *linked, path):
        with suppress(OSError):
            bad.unlink()


def remove_parts(blobs: Path, older_than_s: float = _OLD_S) -> None:
    """Remove what killed downloads left among blobs; the client never takes it up again."""
    for part in blobs.glob("*.incomplete"):
        with suppress(OSError):
            # A download that is under way writes to its file all the time.
            if time.time() - part.stat().st_mtime >= older_than_s:
                part.unlink()
