"""What a repository of the hub holds, with the hashes that the hub itself keeps."""

import re
from dataclasses import dataclass
from typing import Any

from dcgrid.errors import NetworkError
from dcgrid.hub.client import hub_api, persist
from dcgrid.hub.reference import WeightReference, is_inside


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A repository at a commit."""

    commit: str
    """40 hex digits."""
    license: str
    """What its card says, e.g. "apache-2.0"; empty: nothing."""
    files: tuple[RemoteFile, ...]
    """All of its files, in the hub's order."""


def list_repo(asked: WeightReference) -> Listing:
    """Ask the hub what a repository holds at a revision.

    Raises:
        NetworkError: The hub cannot be reached, does not give it, or its answer makes no sense.
        WeightsError: There is no such revision.
    """

    def ask() -> Listing:
        info = hub_api().model_info(asked.repo, revision=asked.revision, files_metadata=True)
        said = info.card_data.get("license") if info.card_data is not None else None
        files = tuple(_remote_file(asked, one) for one in info.siblings or ())
        commit = _checked(asked, info.sha, r"[0-9a-f]{40}")
        return Listing(commit=commit, license=str(said or ""), files=files)

    return persist(asked, ask)


def _remote_file(asked: WeightReference, sibling: Any) -> RemoteFile:  # noqa: ANN401 - the client's
    path = str(sibling.rfilename)
    if not is_inside(path):
        raise NetworkError(f"the hub names a file {path[:100]!r} in {asked}", hint="tell its owner")
    size, digest, form = sibling.size, sibling.blob_id, r"[0-9a-f]{40}"
    if sibling.lfs is not None:
        size, digest, form = sibling.lfs.size, sibling.lfs.sha256, r"[0-9a-f]{64}"
    _checked(asked, str(size or 0), r"[0-9]{1,15}")
    return RemoteFile(path=path, bytes=int(size or 0), digest=_checked(asked, digest, form))


def _checked(asked: WeightReference, value: str | None, form: str) -> str:
    """Return a hash or a size of the hub's answer if it is one; hashes become names of files."""
    if value is None or not re.fullmatch(form, value):
        raise NetworkError(
            f"the hub's answer about {asked} has {str(value)[:80]!r} where a hash or size belongs",
            hint="check HF_ENDPOINT, or try again later",
        )
    return value
