"""Where weights come from: inside the package, a hub repository, or a file of the user's.

Start at `fetch_weights`. This is the only module that may touch the network (through
huggingface_hub) or ask where the user's config and cache folders are. huggingface_hub is imported
inside the functions that need it, because nothing embedded ever does.
"""

import errno
import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

from dcgrid.errors import NetworkError, OutputError, WeightsError

BytesReport = Callable[[str, int, int | None], None]
"""Called while bytes arrive: file name, bytes so far, bytes in all (None: not known)."""

_PACKAGE_WEIGHTS = Path(__file__).parent / "models" / "weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightReference:
    """A parsed weight reference; `str()` gives back the text it came from."""

    source: Literal["package", "hub", "file"]
    """Who holds the file."""
    path: str
    """Path inside the package's weights folder or the repository, or of the local file."""
    repo: str = ""
    """Hub repository "owner/name"; empty unless `source` is "hub"."""
    revision: str = ""
    """Commit, tag or branch of `repo`."""

    def __str__(self) -> str:
        """Return the reference as a user writes it."""
        if self.source == "package":
            return f"package:{self.path}"
        return f"hf:{self.repo}@{self.revision}/{self.path}" if self.source == "hub" else self.path


def config_dir() -> Path:
    """Return the folder of the user's own recipes; it may not exist.

    DCGRID_CONFIG_DIR wins over the platform's usual place.
    """
    return _user_dir("DCGRID_CONFIG_DIR", "user_config_path")


def cache_dir() -> Path:
    """Return the folder of downloaded weights and other things that can be made again.

    DCGRID_CACHE_DIR wins over the platform's usual place. The folder may not exist.
    """
    return _user_dir("DCGRID_CACHE_DIR", "user_cache_path")


def go_offline() -> None:
    """Keep the network off for the rest of the process: the hub's own switch."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def is_offline() -> bool:
    """Return True if the environment forbids the network (HF_HUB_OFFLINE, as the hub has it)."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "TRUE", "YES", "ON"}


def parse_reference(text: str) -> WeightReference:
    """Read a weight reference: `package:NAME`, `hf:OWNER/REPO[@REVISION]/FILE`, or a path.

    Args:
        text: The reference as a user or a recipe writes it.

    Returns:
        The reference; an `hf:` one without a revision means the branch "main".

    Raises:
        WeightsError: The text starts like a reference but is incomplete.
    """
    if text.startswith("package:"):
        name = text.removeprefix("package:")
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            _raise_malformed(text)
        return WeightReference(source="package", path=name)
    if not text.startswith("hf:"):
        if not text:
            _raise_malformed(text)
        return WeightReference(source="file", path=text)
    owner, _, rest = text.removeprefix("hf:").partition("/")
    name, _, path = rest.partition("/")
    name, _, revision = name.partition("@")
    if not (owner and name and path):
        _raise_malformed(text)
    return WeightReference(
        source="hub", repo=f"{owner}/{name}", revision=revision or "main", path=path
    )


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
        return _cached_download(parsed)
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
    if parsed.source != "hub" or _cached_download(parsed) is not None:
        return 0
    if is_offline():
        return None
    try:
        from huggingface_hub import hf_hub_download

        found = hf_hub_download(**_download_arguments(parsed), dry_run=True)
    except NetworkError:
        return None
    except Exception as error:
        translated = _translated(parsed, error)
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
        WeightsError: The file is missing, the reference malformed, or the hash differs.
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
    if path is None:
        path = _download(parsed, offline=offline or is_offline(), report=report)
    if sha256:
        _check_hash(parsed, path, sha256)
    return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _user_dir(variable: str, function: str) -> Path:
    if override := os.environ.get(variable):
        return Path(override).expanduser()
    import platformdirs

    path: Path = getattr(platformdirs, function)("dcgrid", appauthor=False)
    return path


def _raise_malformed(text: str) -> NoReturn:
    raise WeightsError(
        f"weight reference {text!r} is incomplete",
        hint="write package:NAME, hf:OWNER/REPO@REVISION/FILE, or the path of a file",
    )


def _download_arguments(parsed: WeightReference) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "repo_id": parsed.repo,
        "filename": parsed.path,
        "revision": parsed.revision,
        "library_name": "dcgrid",
        # Read here and not left to the hub, which reads it once, when it is imported.
        "endpoint": os.environ.get("HF_ENDPOINT") or None,
    }
    if "HF_HUB_CACHE" not in os.environ and "HF_HOME" not in os.environ:
        arguments["cache_dir"] = cache_dir() / "hub"
    return arguments


def _cached_download(parsed: WeightReference) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = _download_arguments(parsed).get("cache_dir")
    try:
        found = try_to_load_from_cache(
            parsed.repo, parsed.path, cache_dir=folder, revision=parsed.revision
        )
    except HFValidationError as error:
        raise WeightsError(
            f"{parsed.repo!r} is not a repository name: {error}",
            hint="write hf:OWNER/REPO@REVISION/FILE",
        ) from error
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
    try:
        path = hf_hub_download(
            **_download_arguments(parsed), tqdm_class=_progress_class(parsed.path, report)
        )
    except Exception as error:
        translated = _translated(parsed, error)
        if translated is None:
            raise
        raise translated from error
    return Path(path)


def _translated(
    parsed: WeightReference, error: Exception
) -> NetworkError | WeightsError | OutputError | None:
    """Return the hub's failure in our words, or None if it is not the hub's."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        hint = f"accept the licence at huggingface.co/{parsed.repo}, then run `hf auth login`"
        return NetworkError(f"{parsed} needs an account that may read it", hint=hint)
    if isinstance(error, hub.RepositoryNotFoundError):
        hint = "check the spelling; for a private repository run `hf auth login`"
        return NetworkError(f"the hub has no repository {parsed.repo!r}", hint=hint)
    if isinstance(error, hub.RevisionNotFoundError):
        return WeightsError(f"{parsed.repo} has no revision {parsed.revision!r}", hint="use main")
    # Also raised when the network is down and nothing is cached: that one is a FileNotFoundError.
    if isinstance(error, hub.EntryNotFoundError) and not isinstance(error, FileNotFoundError):
        hint = f"see the files at huggingface.co/{parsed.repo}"
        return WeightsError(
            f"{parsed.repo}@{parsed.revision} has no file {parsed.path!r}", hint=hint
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        hint = "free some space or set DCGRID_CACHE_DIR to a larger disk"
        return OutputError(f"no space left in {cache_dir()} for {parsed}", hint=hint)
    # The hub's HTTP library has changed more than once; its base error is found, not imported.
    transport = tuple(base for base in hub.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    if isinstance(error, (OSError, hub.HfHubHTTPError, *transport)):
        hint = "check the connection and run the same command again"
        return NetworkError(f"download of {parsed} failed: {_first_line(error)}", hint=hint)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_hash(parsed: WeightReference, path: Path, expected: str) -> None:
    actual = file_sha256(path)
    if actual == expected.lower():
        return
    hint = "the file is damaged or another version; get it again"
    if parsed.source == "hub":
        # Otherwise the cache would hand out the damaged file for ever.
        for bad in {path, path.resolve()}:
            with suppress(OSError):
                bad.unlink()
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
