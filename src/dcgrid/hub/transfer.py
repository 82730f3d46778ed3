"""One file of a repository into the hub's cache: taken up where it broke, checked, then named.

    blobs/<digest>.part       what has arrived; survives a kill and is taken up by the next run
    blobs/<digest>            a whole file whose hash is the hub's
    snapshots/<commit>/PATH   a link to it

The layout is the hub's own, so other programs find what is here. Its client is not used for the
bytes themselves: it starts a file from nothing in every run, and checks sizes only.
"""

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from dcgrid.errors import NetworkError, WeightsError
from dcgrid.hub.client import LIBRARY, BytesReport, Tries, endpoint, in_our_words
from dcgrid.hub.content import HEAD_BYTES, is_pickled, is_safetensors, pickled_error
from dcgrid.hub.listing import RemoteFile
from dcgrid.hub.pins import Pin, repo_dir, size_of
from dcgrid.hub.places import hub_dir
from dcgrid.hub.reference import WeightReference

_CHUNK = 1 << 18
_LOCK_POLL_S = 0.2


class Tally:
    """Bytes of all files of a download together, told as they arrive."""

    def __init__(self, name: str, total: int, report: BytesReport | None) -> None:
        self._name, self._total, self._report = name, total, report
        self._bytes: dict[str, int] = {}
        self._lock = threading.Lock()

    def at(self, path: str, count: int) -> None:
        """Note that so many bytes of a file are here."""
        with self._lock:
            self._bytes[path] = count
            if self._report is not None:
                self._report(self._name, sum(self._bytes.values()), self._total)


def blob_path(pin: Pin, file: RemoteFile) -> Path:
    """Return where the bytes of a file belong."""
    return repo_dir(pin.repo) / "blobs" / file.digest


def part_path(pin: Pin, file: RemoteFile) -> Path:
    """Return where a file is while it arrives."""
    return blob_path(pin, file).with_suffix(".part")


def fetch_file(pin: Pin, file: RemoteFile, tally: Tally, stop: threading.Event) -> None:
    """Bring a file into the snapshot of a pin, unless it is there and whole.

    Args:
        pin: The snapshot.
        file: One of its files.
        tally: Told of the bytes.
        stop: Set when the download is given up.

    Raises:
        NetworkError: The download failed.
        WeightsError: The hub does not have it, its hash is wrong, or it is a pickle.
        OutputError: No space is left, or the cache cannot be written.
    """
    asked = WeightReference(source="hub", repo=pin.repo, revision=pin.commit, path=file.path)
    blob, pointer = blob_path(pin, file), pin.folder / file.path
    try:
        with _blob_lock(pin, file, tally, stop):
            # Where links cannot be made the file itself stands in the snapshot.
            held = next((one for one in (blob, pointer) if size_of(one) == file.bytes), None)
            if held is None or not _is_whole(held, file):
                _download(asked, part_path(pin, file), file, tally, stop)
                os.replace(part_path(pin, file), blob)
                held = blob
            if held is blob:
                _link(blob, pointer)
            tally.at(file.path, file.bytes)
    except Exception as error:
        raise in_our_words(asked, error) from error


def _is_whole(path: Path, file: RemoteFile) -> bool:
    """Return True if a file of the right size is right, which another program may have put there.

    One that is not is removed.

    Raises:
        WeightsError: It is what the hub has, and a pickle.
    """
    digest = _hash_of(file)
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != file.digest:
        path.unlink()
        return False
    _refuse_wrong_kind(file, head)
    return True


@contextmanager
def _blob_lock(pin: Pin, file: RemoteFile, tally: Tally, stop: threading.Event) -> Iterator[None]:
    """Hold the lock under which the hub's own client downloads the same file."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    path = hub_dir() / ".locks" / repo_dir(pin.repo).name / f"{file.digest}.lock"
    for folder in (path.parent, blob_path(pin, file).parent):
        folder.mkdir(parents=True, exist_ok=True)
    while True:
        lock = WeakFileLock(path, timeout=_LOCK_POLL_S)
        try:
            lock.__enter__()
        except TimeoutError:
            tally.at(file.path, max(0, size_of(part_path(pin, file))))
            if stop.is_set():
                raise NetworkError(f"the download of {file.path} was given up") from None
            continue
        break
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _download(
    asked: WeightReference, path: Path, file: RemoteFile, tally: Tally, stop: threading.Event
) -> None:
    """Fill the part until it is whole, and check it.

    Raises:
        WeightsError: The hash is wrong, or it is a pickle; the part is gone.
        Exception: What the hub's client raises when there is no hope.
    """
    tries = Tries()
    with _Part(path, file) as part:
        while part.bytes < file.bytes:
            before = part.bytes
            try:
                _stream(asked, part, tally, stop)
            except Exception as error:
                if part.bytes > before:
                    tries.begin_again()
                pause_s = tries.wait_s(error)
                if pause_s is None or stop.wait(pause_s):
                    raise
        part.refuse_wrong_kind()
        actual = part.digest()
    if actual != file.digest or part.bytes != file.bytes:
        path.unlink()
        raise WeightsError(
            f"{asked} arrived with the hash {actual[:16]}..., the hub says {file.digest[:16]}...",
            hint="the damaged copy was removed; run the same command again",
        )


def _stream(asked: WeightReference, part: "_Part", tally: Tally, stop: threading.Event) -> None:
    """Append what the hub sends to a part, until the end or a fault."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
    )

    # Compressed answers could not be taken up in the middle.
    headers = {**build_hf_headers(library_name=LIBRARY), "Accept-Encoding": "identity"}
    if part.bytes:
        headers["Range"] = f"bytes={part.bytes}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", _url(asked), headers=headers, timeout=timeout) as response:
        if response.status_code == 416:
            part.begin_again()
        hf_raise_for_status(response)
        if part.bytes and not _continues(response.headers, response.status_code, part.bytes):
            part.begin_again()
        # As they arrive: collected into pieces of one size, the last would be lost at a cut.
        for chunk in response.iter_bytes():
            if stop.is_set():
                raise NetworkError(f"the download of {asked} was given up")
            part.append(chunk)
            tally.at(asked.path, part.bytes)
    if part.bytes < part.file.bytes:
        raise ConnectionError(f"the connection ended after {part.bytes} of {part.file.bytes} bytes")


def _continues(headers: Mapping[str, str], status: int, start: int) -> bool:
    return status == 206 and headers.get("content-range", "").startswith(f"bytes {start}-")


def _url(asked: WeightReference) -> str:
    from huggingface_hub import constants

    base = (endpoint() or constants.ENDPOINT).rstrip("/")
    return f"{base}/{asked.repo}/resolve/{asked.revision}/{quote(asked.path)}"


def _link(blob: Path, pointer: Path) -> None:
    """Make the snapshot's entry of a file."""
    if pointer.exists() and pointer.samefile(blob):
        return
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        # No links on this disk or for this user, as on Windows: the hub's layout moves the file.
        os.replace(blob, pointer)


def _hash_of(file: RemoteFile) -> "hashlib._Hash":
    """Return the beginning of a file's hash, of the kind that the hub has of it."""
    if file.is_large:
        return hashlib.sha256()
    # Not for safety: it is how git names a file.
    return hashlib.sha1(f"blob {file.bytes}\0".encode(), usedforsecurity=False)


def _refuse_wrong_kind(file: RemoteFile, head: bytes) -> None:
    """Refuse pickles, and what is called safetensors and is none.

    Raises:
        WeightsError: It is one.
    """
    if is_pickled(head, file.bytes):
        raise pickled_error(file.path)
    if file.path.endswith(".safetensors") and not is_safetensors(head, file.bytes):
        raise WeightsError(
            f"{file.path} is no safetensors file: it begins with {head[:8]!r}",
            hint="tell the maker of the repository",
        )


class _Part:
    """A file that is being written, and the hash of what is in it.

    Hashing goes along with the bytes, so that thirty gigabytes are not read again afterwards.
    """

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self.file = file
        self._path = path
        self._stream = path.open("a+b")
        self._begin_hash()
        self._stream.seek(0)
        while chunk := self._stream.read(_CHUNK):
            self._count(chunk)
        if self.bytes > file.bytes:
            self.begin_again()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        if kind is not None and not self.bytes:
            with suppress(OSError):
                self._path.unlink()

    def begin_again(self) -> None:
        """Forget what has arrived."""
        self._stream.truncate(0)
        self._begin_hash()

    def append(self, chunk: bytes) -> None:
        """Write bytes; the first ones are looked at, so that no pickle arrives whole."""
        self._stream.write(chunk)
        self._stream.flush()
        before = len(self.head)
        self._count(chunk)
        if before < HEAD_BYTES <= len(self.head):
            self.refuse_wrong_kind()
        if self.bytes > self.file.bytes:
            self.begin_again()
            raise WeightsError(
                f"{self.file.path} is larger than the hub says ({self.file.bytes} bytes)",
                hint="what arrived was removed; run the same command again",
            )

    def refuse_wrong_kind(self) -> None:
        """Refuse pickles, and what is called safetensors and is none.

        Raises:
            WeightsError: It is one; what has arrived is gone.
        """
        try:
            _refuse_wrong_kind(self.file, self.head)
        except WeightsError:
            self.begin_again()
            raise

    def digest(self) -> str:
        """Return the hash in the form that the hub has it in."""
        return self._hash.hexdigest()

    def _begin_hash(self) -> None:
        self.bytes, self.head, self._hash = 0, b"", _hash_of(self.file)

    def _count(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self.bytes += len(chunk)
        if len(self.head) < HEAD_BYTES:
            self.head = (self.head + chunk)[:HEAD_BYTES]
