"""Where the files of a network for scores are: in a folder that the user names, or from the hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from dcgrid import hub
from dcgrid.errors import WeightsError

SCRFD_500M_BNKPS = "a3562ef62592bf387f6ef19151282ac127518e51c77696e62e0661bee95ba1ad"
_DETECTORS = MappingProxyType(
    {
        "det_10g.onnx": "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
        "det_500m.onnx": "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a",
        "scrfd_500m_bnkps.onnx": SCRFD_500M_BNKPS,
    }
)
"""Detectors of InsightFace, of which one does as well as another in a folder; hash by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFiles:
    """The files of a network."""

    name: str
    """Name in hub.SCORERS."""
    paths: Mapping[str, Path]
    """Where they are, by their names in the repository, folders left out."""
    label: str
    """The file that tells which network it is, with the start of its hash where none is known."""


def find_network(name: str, weights_dir: Path | None, *, offline: bool) -> NetworkFiles:
    """Return the files of a network.

    A folder of the user's is looked in first, for `NAME/FILE` and, since their names tell what they
    are, for `FILE.onnx`. Then the hub's cache; then, unless `offline`, the hub. A network whose
    licence restricts its use is never downloaded unasked: that takes `dcgrid models pull`.

    Args:
        name: Name in hub.SCORERS.
        weights_dir: The user's folder; None: there is none.
        offline: True forbids downloads.

    Raises:
        WeightsError: It is not here, or a file under its name is another one.
        NetworkError: The download failed.
    """
    model = hub.hub_model(name)
    paths = _in_folder(model, weights_dir) if weights_dir is not None else None
    if paths is None:
        folder = hub.locate_model(name)
        if folder is None:
            folder = _download(model, weights_dir, offline=offline)
        paths = {PurePosixPath(pattern).name: folder / pattern for pattern in model.patterns}
    return NetworkFiles(name=name, paths=paths, label=_label(model, paths))


def _download(model: hub.HubModel, weights_dir: Path | None, *, offline: bool) -> Path:
    if offline or hub.is_offline() or "non-commercial" in model.license:
        raise WeightsError(
            f"{model.name} is not here{_lacking(model, weights_dir)}",
            hint=f"dcgrid models pull {model.name}",
        )
    return hub.fetch_model(model.name)


def _lacking(model: hub.HubModel, folder: Path | None) -> str:
    """Return what to say of a user's folder that was looked in."""
    if folder is None or not (own := folder / model.name).is_dir():
        return f" or in {folder}" if folder is not None else ""
    names = [PurePosixPath(pattern).name for pattern in model.patterns]
    return f"; {own} lacks {', '.join(name for name in names if not (own / name).is_file())}"


def _in_folder(model: hub.HubModel, folder: Path) -> dict[str, Path] | None:
    """Return the files of a network in a user's folder; None: it lacks one.

    Raises:
        WeightsError: A file has the right name and another hash.
    """
    known = {PurePosixPath(path).name: digest for path, digest in model.sha256.items()}
    found = {}
    for pattern in model.patterns:
        name = PurePosixPath(pattern).name
        others = _DETECTORS if name in _DETECTORS else {}
        for candidate in dict.fromkeys([name, *others]):
            path = _path(folder, model.name, candidate)
            if path is not None:
                _require_hash(path, others.get(candidate) or known.get(candidate))
                found[name] = path
                break
        else:
            return None
    return found


def _path(folder: Path, network: str, name: str) -> Path | None:
    places = [folder / network / name]
    if name.endswith(".onnx"):
        places.append(folder / name)
    return next((path for path in places if path.is_file()), None)


def _require_hash(path: Path, known: str | None) -> None:
    if known is None:
        return
    try:
        digest = hub.file_sha256(path)
    except OSError as error:
        raise WeightsError(
            f"cannot read {path}: {error.strerror}", hint="check its permissions"
        ) from error
    if digest != known:
        raise WeightsError(
            f"{path} is another file than the one known by its name: its SHA-256 is {digest[:12]}, "
            f"{known[:12]} is known",
            hint="take it out of the folder, or get the known one",
        )


def _label(model: hub.HubModel, paths: Mapping[str, Path]) -> str:
    """Return the name of the network and of the file that makes it what it is."""
    weights = [path for path in paths.values() if path.suffix in (".onnx", ".safetensors")]
    main = weights[0]
    if any(PurePosixPath(path).name == main.name for path in model.sha256):
        return main.stem if main.suffix == ".onnx" else model.name
    return f"{model.name} {hub.file_sha256(main)[:8]}"
