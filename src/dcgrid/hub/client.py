"""Talking to the hub through its own client: errors in our words, waits that end, safe names.

Everything that is asked of the hub is asked inside `hub_errors`; `list_repo` asks what a repository
holds. huggingface_hub is imported inside functions, because nothing embedded in the package needs
it.
"""

import errno
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from dcgrid.errors import DcgridError, NetworkError, OutputError, WeightsError
from dcgrid.hub.places import hub_dir, hub_dir_variable
from dcgrid.hub.weight_reference import WeightReference, is_inside

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError


BytesReport = Callable[[str, int, int | None], None]
"""Called while bytes arrive: file name, bytes so far, bytes in all (None: not known)."""

LIBRARY = "dcgrid"
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_TRIES = 5
_FIRST_WAIT_S = 0.5
"""How long to wait after the first error that the client does not repeat itself; then doubled."""
_LONGEST_WAIT_S = 120.0
_ETAG = r'(W/)?"?[A-Za-z0-9_=+-][A-Za-z0-9._=+-]{0,199}"?'
_NAMES = {"X-Repo-Commit": r"[0-9a-f]{40}", "X-Linked-ETag": _ETAG, "ETag": _ETAG}
"""Headers that the client names files by, and what they may be."""
_T = TypeVar("_T")
_REF: ContextVar[WeightReference | None] = ContextVar("ref", default=None)
"""What this thread asks the hub about; None: the client is used by another part of the process."""


def endpoint() -> str | None:
    """Return the address of the hub; None: its own default.

    Read here and not left to the hub's client, which reads it once, when it is imported.
    """
    return os.environ.get("HF_ENDPOINT") or None


def hub_api() -> "HfApi":
    """Return the hub's client; it takes its token from HF_TOKEN or `hf auth login`."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name=LIBRARY)


@contextmanager
def hub_errors(ref: WeightReference, attempt: str = "download of") -> Iterator[None]:
    """Turn whatever the hub's client raises into an error of ours, and check what the hub answers.

    Args:
        ref: What the hub is asked about.
        attempt: What is tried, for errors of the connection.

    Raises:
        NetworkError: The hub cannot be reached, does not give it to this user, asks to wait longer
            than two minutes, or answers what makes no sense.
        WeightsError: The name, revision or file does not exist.
        OutputError: No space is left, or the cache cannot be written.
    """
    _check_answers()
    before = _REF.set(ref)
    try:
        yield
    except DcgridError:
        raise
    except Exception as error:
        raise in_our_words(ref, error, attempt) from error
    finally:
        _REF.reset(before)


def persist(ref: WeightReference, call: Callable[[], _T], stop: Event | None = None) -> _T:
    """Call inside `hub_errors`, up to five times where it may well succeed a little later.

    Args:
        ref: What the call is about.
        call: Asks the hub for something.
        stop: Ends the waiting when set.

    Raises:
        DcgridError: See `hub_errors`.
    """
    stop, pause_s = stop or Event(), _FIRST_WAIT_S
    with hub_errors(ref):
        from huggingface_hub.errors import HfHubHTTPError

        # The base error of the client's HTTP library, which has changed more than once.
        transport = next(one for one in HfHubHTTPError.__mro__ if one.__name__ == "HTTPError")
        for _ in range(_TRIES - 1):
            try:
                return call()
            except transport as error:  # type: ignore[misc]
                response = getattr(error, "response", None)
                if response is not None and response.status_code not in _PASSING:
                    raise
                requested_s = None if response is None else _requested_wait_s(response)
                if stop.wait(pause_s if requested_s is None else requested_s):
                    raise
                pause_s *= 2
        return call()


@cache
def _check_answers() -> None:
    """Let every HTTP client that huggingface_hub makes from now on pass answers to `_check`."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    # The user's program may have set a factory of its own; there is no public way to ask for it.
    make = _http._GLOBAL_CLIENT_FACTORY

    def make_checked() -> Any:  # noqa: ANN401 - the class depends on the client's version
        client = make()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": [*hooks["response"], _check]}
        return client

    set_client_factory(make_checked)
    # Its warnings about retries would tear the progress bar; what matters is raised.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _check(response: Any) -> None:  # noqa: ANN401 - the class depends on the client's version
    """Refuse an answer that the client would sleep for too long after, or name files by.

    The client sleeps as long as Retry-After says, and takes ETag and X-Repo-Commit of the answer to
    HEAD as names of files without looking at them.

    Raises:
        NetworkError: It is refused.
    """
    ref = _REF.get()
    if ref is None:
        return
    requested_s = _requested_wait_s(response)
    if requested_s is not None and requested_s > _LONGEST_WAIT_S:
        raise _busy(ref, requested_s)
    for name, form in _NAMES.items() if response.request.method == "HEAD" else ():
        value = response.headers.get(name)
        if value is not None and not re.fullmatch(form, value):
            raise NetworkError(
                f"the hub's answer about {ref} has {value[:60]!r} as {name}",
                hint="check HF_ENDPOINT, or try again later",
            )


def _requested_wait_s(response: Any) -> float | None:  # noqa: ANN401 - see `_check`
    """Return how many seconds the hub asks to wait; None: it does not say."""
    status, headers = response.status_code, response.headers
    after = re.fullmatch(r"\s*([0-9]+)\s*", headers.get("retry-after", ""))
    until_reset = re.search(r"\bt=([0-9]+)", headers.get("ratelimit", ""))
    found = (until_reset or after) if status == 429 else after
    return float(found[1]) if found and status in _PASSING else None


def in_our_words(ref: WeightReference, error: Exception, attempt: str) -> DcgridError:
    """Return what the hub's client raised as an error of ours; see `hub_errors`."""
    from huggingface_hub import errors as hub

    # The client raises these around what happened, when nothing is cached that could stand in.
    wrapped = isinstance(error, (hub.LocalEntryNotFoundError, RuntimeError, ValueError))
    if wrapped and isinstance(error.__cause__, Exception):
        return in_our_words(ref, error.__cause__, attempt)
    if isinstance(error, DcgridError):
        return error
    if isinstance(error, hub.HfHubHTTPError):
        return _answered(ref, error, attempt)
    if isinstance(error, hub.HFValidationError):
        return WeightsError(
            f"{ref.repo!r} is not a repository name: {first_line(error)}",
            hint="write hf:OWNER/REPO@REVISION/FILE",
        )
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        hint = f"free some space or set {hub_dir_variable()} to a larger disk"
        return OutputError(f"no space left in {hub_dir()} for {ref}", hint=hint)
    if isinstance(error, OSError) and error.filename is not None and number is not None:
        hint = f"make it writable, or set {hub_dir_variable()} to another folder"
        return OutputError(f"cannot write {error.filename}: {error.strerror}", hint=hint)
    if isinstance(error, (json.JSONDecodeError, hub.FileMetadataError)):
        hint = "check HF_ENDPOINT, and that no login page or proxy stands in between"
        return NetworkError(f"{attempt} {ref} failed: what answers is not the hub", hint=hint)
    hint = "check the connection and run the same command again"
    return NetworkError(f"{attempt} {ref} failed: {first_line(error)}", hint=hint)


def _answered(ref: WeightReference, error: "HfHubHTTPError", attempt: str) -> DcgridError:
    """Return the error for an answer of the hub's that is none of the expected ones."""
    from huggingface_hub import errors as hub

    status, repo, page = (
        error.response.status_code,
        ref.repo,
        f"huggingface.co/{ref.repo}",
    )
    login = "run `hf auth login`, or set HF_TOKEN"
    if isinstance(error, hub.GatedRepoError):
        hint = f"accept the licence at {page}, then {login}"
        return NetworkError(f"{ref} needs an account that may read it", hint=hint)
    if isinstance(error, hub.DisabledRepoError):
        hint = f"{page} may say why"
        return NetworkError(f"the hub has disabled the repository {repo!r}", hint=hint)
    if isinstance(error, hub.RepositoryNotFoundError):
        hint = "check the spelling; it may be deleted, renamed, or private (`hf auth login`)"
        return NetworkError(
            f"the hub has no repository {repo!r}"
            + (" that can be used without a token (401)" if status == 401 else ""),
            hint=f"check the spelling; for a private or gated one {login}"
            if status == 401
            else hint,
        )
    if isinstance(error, hub.RevisionNotFoundError):
        hint = "use main; `dcgrid models pull MODEL --update` takes a model's newest commit"
        return WeightsError(f"{repo} has no revision {ref.revision!r}", hint=hint)
    if isinstance(error, hub.RemoteEntryNotFoundError):
        return WeightsError(
            f"{repo}@{ref.revision} has no file {ref.path!r}",
            hint=f"see the files at {page}",
        )
    if status == 401:
        hint = f"the token is wrong or has expired: {login}"
        return NetworkError(f"the hub does not accept the token for {ref} (401)", hint=hint)
    if status == 403:
        hint = f"use a token with that right: {login}"
        return NetworkError(f"the token does not have the right to use {ref} (403)", hint=hint)
    if requested_s := _requested_wait_s(error.response):
        return _busy(ref, requested_s)
    return NetworkError(
        f"{attempt} {ref} failed: {first_line(error)}",
        hint="check the connection and run the same command again",
    )


def _busy(ref: WeightReference, requested_s: float) -> NetworkError:
    wait = f"{requested_s:.0f} s" if requested_s < 1e6 else "weeks"
    return NetworkError(
        f"the hub is busy and asks to wait {wait} before {ref} is asked for again",
        hint="run the same command later; files that have arrived are kept",
    )


def first_line(error: Exception) -> str:
    """Return what an exception says, without the paragraphs that the hub's client adds."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


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


def list_repo(ref: WeightReference) -> Listing:
    """Ask the hub what a repository holds at a revision.

    Raises:
        NetworkError: The hub cannot be reached, does not give it, or its answer makes no sense.
        WeightsError: There is no such revision.
    """

    def ask() -> Listing:
        info = hub_api().model_info(ref.repo, revision=ref.revision, files_metadata=True)
        said = info.card_data.get("license") if info.card_data is not None else None
        files = tuple(_remote_file(ref, one) for one in info.siblings or ())
        commit = _checked(ref, info.sha, r"[0-9a-f]{40}")
        return Listing(commit=commit, license=str(said or ""), files=files)

    return persist(ref, ask)


def _remote_file(ref: WeightReference, sibling: Any) -> RemoteFile:  # noqa: ANN401 - the client's
    path = str(sibling.rfilename)
    if not is_inside(path):
        raise NetworkError(f"the hub names a file {path[:100]!r} in {ref}", hint="tell its owner")
    size, digest, form = sibling.size, sibling.blob_id, r"[0-9a-f]{40}"
    if sibling.lfs is not None:
        size, digest, form = sibling.lfs.size, sibling.lfs.sha256, r"[0-9a-f]{64}"
    _checked(ref, str(size or 0), r"[0-9]{1,15}")
    return RemoteFile(path=path, bytes=int(size or 0), digest=_checked(ref, digest, form))


def _checked(ref: WeightReference, value: str | None, form: str) -> str:
    """Return a hash or a size of the hub's answer if it is one; hashes become names of files."""
    if value is None or not re.fullmatch(form, value):
        raise NetworkError(
            f"the hub's answer about {ref} has {str(value)[:80]!r} where a hash or size belongs",
            hint="check HF_ENDPOINT, or try again later",
        )
    return value
