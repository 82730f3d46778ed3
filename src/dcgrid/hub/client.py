"""Talking to the hub: its client, what its errors mean, and how long to try again.

huggingface_hub is imported inside functions, because nothing embedded in the package needs it.
"""

import errno
import json
import os
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from dcgrid.errors import DcgridError, NetworkError, OutputError, WeightsError
from dcgrid.hub.places import hub_dir, hub_dir_variable
from dcgrid.hub.reference import WeightReference

if TYPE_CHECKING:
    from huggingface_hub import HfApi

BytesReport = Callable[[str, int, int | None], None]
"""Called while bytes arrive: file name, bytes so far, bytes in all (None: not known)."""

LIBRARY = "dcgrid"
_TRIES = 5
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 120.0
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_T = TypeVar("_T")


def endpoint() -> str | None:
    """Return the address of the hub; None: its own default.

    Read here and not left to the hub's client, which reads it once, when it is imported.
    """
    return os.environ.get("HF_ENDPOINT") or None


def hub_api() -> "HfApi":
    """Return the hub's client; it takes its token from HF_TOKEN or `hf auth login`."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name=LIBRARY)


class Tries:
    """How often something that failed is tried again, and after how long.

    The waits double. Where the hub says how long to wait (Retry-After, RateLimit), that is done,
    unless it is longer than two minutes: then it is the user who has to wait.
    """

    def __init__(self) -> None:
        self._failed = 0

    def begin_again(self) -> None:
        """Forget the failures, because something has been achieved."""
        self._failed = 0

    def wait_s(self, error: Exception) -> float | None:
        """Return how many seconds to wait after an error; None: do not try again."""
        self._failed += 1
        if self._failed >= _TRIES or not is_passing(error):
            return None
        told = _told_wait_s(error)
        if told is None:
            return float(_FIRST_WAIT_S * 2 ** (self._failed - 1))
        return told if told <= _LONGEST_WAIT_S else None


def persist(asked: WeightReference, call: Callable[[], _T], stop: threading.Event) -> _T:
    """Call until it succeeds or there is no hope, and tell the hub's errors in our words.

    Args:
        asked: What the call is about, for errors.
        call: Asks the hub for something.
        stop: Ends the waiting when set.

    Raises:
        NetworkError: The hub cannot be reached, or does not give it to this user.
        WeightsError: The revision or file does not exist.
        OutputError: No space is left.
    """
    tries = Tries()
    while True:
        try:
            return call()
        except Exception as error:
            pause_s = tries.wait_s(error)
            if pause_s is None or stop.wait(pause_s):
                raise in_our_words(asked, error) from error


def in_our_words(
    asked: WeightReference, error: Exception, attempt: str = "download of"
) -> Exception:
    """Return the hub's failure as an error of ours; any other comes back as it is.

    Args:
        asked: What the hub was asked about.
        error: What was raised.
        attempt: What was tried, for errors of the connection.
    """
    if isinstance(error, DcgridError):
        return error
    told = _refused(asked, error) or _missing(asked, error)
    return told or _failed(asked, error, attempt) or error


def is_passing(error: Exception) -> bool:
    """Return True if the same request may well succeed a little later."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.HfHubHTTPError):
        return error.response.status_code in _PASSING
    return isinstance(error, (ConnectionError, TimeoutError, *_transport_errors()))


def _refused(asked: WeightReference, error: Exception) -> DcgridError | None:
    """Tell of requests that the hub understood and turned down because of who asks."""
    from huggingface_hub import errors as hub

    if not isinstance(error, hub.HfHubHTTPError):
        return None
    status = error.response.status_code
    login = "run `hf auth login`, or set HF_TOKEN"
    if isinstance(error, hub.GatedRepoError):
        hint = f"accept the licence at huggingface.co/{asked.repo}, then {login}"
        return NetworkError(f"{asked} needs an account that may read it", hint=hint)
    if isinstance(error, hub.DisabledRepoError):
        hint = f"huggingface.co/{asked.repo} may say why"
        return NetworkError(f"the hub has disabled the repository {asked.repo!r}", hint=hint)
    if isinstance(error, hub.RepositoryNotFoundError) and status != 401:
        hint = "check the spelling; it may be deleted, renamed, or private (`hf auth login`)"
        return NetworkError(f"the hub has no repository {asked.repo!r}", hint=hint)
    if isinstance(error, hub.RepositoryNotFoundError):
        return NetworkError(
            f"the hub has no repository {asked.repo!r} that can be used without a token (401)",
            hint=f"check the spelling; for a private or gated one {login}",
        )
    if status == 401:
        hint = f"the token is wrong or has expired: {login}"
        return NetworkError(f"the hub does not accept the token for {asked} (401)", hint=hint)
    if status == 403:
        hint = f"use a token with that right: {login}"
        return NetworkError(f"the token does not have the right to use {asked} (403)", hint=hint)
    return None


def _missing(asked: WeightReference, error: Exception) -> DcgridError | None:
    """Tell of what the hub does not have."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.HFValidationError):
        return WeightsError(
            f"{asked.repo!r} is not a repository name: {first_line(error)}",
            hint="write hf:OWNER/REPO@REVISION/FILE",
        )
    if isinstance(error, hub.RevisionNotFoundError):
        hint = "use main; `dcgrid models pull MODEL --update` takes a model's newest commit"
        return WeightsError(f"{asked.repo} has no revision {asked.revision!r}", hint=hint)
    # Also raised when the network is down and nothing is cached: that one is a FileNotFoundError.
    if isinstance(error, hub.EntryNotFoundError) and not isinstance(error, FileNotFoundError):
        hint = f"see the files at huggingface.co/{asked.repo}"
        return WeightsError(f"{asked.repo}@{asked.revision} has no file {asked.path!r}", hint=hint)
    return None


def _failed(asked: WeightReference, error: Exception, attempt: str) -> DcgridError | None:
    """Tell of disks and connections."""
    from huggingface_hub import errors as hub

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"free some space or set {hub_dir_variable()} to a larger disk"
        return OutputError(f"no space left in {hub_dir()} for {asked}", hint=hint)
    if isinstance(error, OSError) and error.filename is not None and error.errno is not None:
        hint = f"make it writable, or set {hub_dir_variable()} to another folder"
        return OutputError(f"cannot write {error.filename}: {error.strerror}", hint=hint)
    if isinstance(error, json.JSONDecodeError):
        hint = "check HF_ENDPOINT, and that no login page or proxy stands in between"
        return NetworkError(f"{attempt} {asked} failed: what answers is not the hub", hint=hint)
    told = _told_wait_s(error)
    if told is not None:
        return NetworkError(
            f"the hub is busy and asks to wait {told:.0f} s before {asked} is asked for again",
            hint="run the same command later; what has arrived is kept",
        )
    if isinstance(error, (OSError, hub.HfHubHTTPError, *_transport_errors())):
        hint = "check the connection and run the same command again"
        return NetworkError(f"{attempt} {asked} failed: {first_line(error)}", hint=hint)
    return None


def first_line(error: Exception) -> str:
    """Return what an exception says, without the paragraphs that the hub's client adds."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _transport_errors() -> tuple[type[BaseException], ...]:
    """Return the base error of the hub's HTTP library, which has changed more than once."""
    from huggingface_hub import errors as hub

    return tuple(base for base in hub.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def _told_wait_s(error: Exception) -> float | None:
    """Return how many seconds the hub asks to wait; None: it does not say."""
    from huggingface_hub import errors as hub

    if not isinstance(error, hub.HfHubHTTPError) or error.response.status_code not in _PASSING:
        return None
    headers = error.response.headers
    if (after := headers.get("retry-after", "").strip()).isdigit():
        return float(after)
    until_reset = re.search(r"\bt=(\d+)", headers.get("ratelimit", ""))
    if error.response.status_code == 429 and until_reset:
        return float(until_reset[1])
    return None
