"""What a repository of the hub holds, with the hashes that the hub itself keeps."""

import re
import threading
from dataclasses import dataclass
from pathlib import PurePosixPath

from dcgrid.errors import NetworkError, WeightsError
from dcgrid.hub.client import hub_api, persist
from dcgrid.hub.reference import WeightReference
from dcgrid.hub.table import PICKLED_SUFFIXES

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a repository."""

    path: str
    """Path inside the repository, with forward slashes."""
    bytes: int
    """Its size."""
    digest: str
    """SHA-256 of a large file, 64 hex digits, or the git blob id of a small one, 40; the cache
    names the file so."""

    @property
    def is_large(self) -> bool:
        """True if the hub keeps it outside of git."""
        return len(self.digest) == 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A repository at a commit."""

    commit: str
    """40 hex digits."""
    license: str
    """What its card says, e.g. "apache-2.0"; empty: nothing."""
    files: tuple[RemoteFile, ...]
    """All of its files, in the hub's order."""


def list_repo(asked: WeightReference, stop: threading.Event | None = None) -> Listing:
    """Ask the hub what a repository holds.

    Args:
        asked: Repository and revision.
        stop: Ends the waiting between tries when set.

    Raises:
        NetworkError: The hub cannot be reached, does not give it, or its answer makes no sense.
        WeightsError: There is no such revision.
    """

    def ask() -> Listing:
        info = hub_api().model_info(asked.repo, revision=asked.revision, files_metadata=True)
        card = info.card_data
        said = card.get("license") if card is not None else None
        return Listing(
            commit=_checked(asked, info.sha, _SHA1),
            license=str(said or ""),
            files=tuple(_remote_file(asked, one) for one in info.siblings or ()),
        )

    return persist(asked, ask, stop or threading.Event())


def only_adapter(asked: WeightReference) -> str:
    """Ask the hub for the path of the one safetensors file of a repository.

    Raises:
        NetworkError: The hub cannot be reached, or does not give it.
        WeightsError: There is none, or more than one.
    """
    paths = [one.path for one in list_repo(asked).files]
    found = [path for path in paths if path.endswith(".safetensors")]
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise WeightsError(
            f"{asked} holds {len(found)} adapters: {', '.join(found[:8])}{more}",
            hint=f"name one: {asked}/{found[0]}",
        )
    pickled = [path for path in paths if is_pickled_name(path)]
    told = f"; {pickled[0]} is a pickle, which is never loaded" if pickled else ""
    raise WeightsError(
        f"{asked} holds no safetensors file{told}",
        hint=f"see the files at huggingface.co/{asked.repo}",
    )


def is_pickled_name(path: str) -> bool:
    """Return True for the names of files that run code when they are loaded."""
    return PurePosixPath(path).suffix.lower() in PICKLED_SUFFIXES


def _remote_file(asked: WeightReference, sibling: object) -> RemoteFile:
    path = str(getattr(sibling, "rfilename", ""))
    if not path or path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise NetworkError(f"the hub names a file {path[:100]!r} in {asked}", hint="tell its owner")
    lfs = getattr(sibling, "lfs", None)
    if lfs is not None:
        return RemoteFile(
            path=path, bytes=int(lfs.size), digest=_checked(asked, lfs.sha256, _SHA256)
        )
    size = int(getattr(sibling, "size", None) or 0)
    digest = _checked(asked, getattr(sibling, "blob_id", None), _SHA1)
    return RemoteFile(path=path, bytes=size, digest=digest)


def _checked(asked: WeightReference, digest: str | None, form: re.Pattern[str]) -> str:
    """Return a hash if it is one: it becomes the name of a file."""
    if digest is None or not form.fullmatch(digest):
        raise NetworkError(
            f"the hub's answer about {asked} holds {digest!r} where a hash belongs",
            hint="check HF_ENDPOINT, or try again later",
        )
    return digest
