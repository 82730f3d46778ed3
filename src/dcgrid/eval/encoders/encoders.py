"""All networks of a run: each loaded when it is first needed, each reason remembered.

The files of a network are in a folder that the user names, or come from the hub (`find_network`).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from dcgrid import hub
from dcgrid.errors import DcgridError, WeightsError
from dcgrid.eval.columns import METRICS, Slot
from dcgrid.eval.encoders import clip_vit, dino
from dcgrid.eval.encoders.faces import ArcFaceReader, SFaceReader
from dcgrid.eval.encoders.flow import FlowReader
from dcgrid.eval.encoders.lpips import LpipsNetwork
from dcgrid.eval.results import MetricColumn
from dcgrid.runtime.install import MissingPackageError

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


Made = TypeVar("Made")
_KEPT_BYTES = 1 << 28
"""Embeddings and flows that are kept; the oldest are dropped beyond that."""


class Encoders:
    """The networks that scores are measured with. Not for several threads.

    Args:
        weights_dir: A folder of the user's with files of networks; None: there is none.
        device: Where torch's networks run, "cpu" or "cuda"; those of faces run on the CPU.
        offline: False downloads what is missing and may be downloaded unasked, see
            `dcgrid.eval.encoders.encoders.find_network`.
    """

    def __init__(
        self, weights_dir: Path | None = None, device: str = "cpu", *, offline: bool = True
    ) -> None:
        self._weights_dir = weights_dir
        self._device = torch.device(device)
        self._offline = offline
        self._loaded: dict[Slot, tuple[Any, str] | DcgridError] = {}
        self._kept: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()

    def get(self, slot: Slot) -> Any:  # noqa: ANN401 - a network of another kind each
        """Return the network of a slot.

        Raises:
            DcgridError: It cannot be had; the same error every time.
        """
        if slot not in self._loaded:
            try:
                self._loaded[slot] = self._load(slot)
            except DcgridError as error:
                self._loaded[slot] = error
        found = self._loaded[slot]
        if isinstance(found, DcgridError):
            raise found
        return found[0]

    def unavailable(self, slot: Slot | None) -> str:
        """Return why a slot is empty and the command to fill it; empty: it is not."""
        if slot is None:
            return ""
        try:
            self.get(slot)
        except DcgridError as error:
            return f"{error.message} ({error.hint})" if error.hint else error.message
        return ""

    def lacks_package(self, slot: Slot | None) -> bool:
        """Return True if a slot is empty since a package of dcgrid[eval] is not installed."""
        return bool(self.unavailable(slot)) and isinstance(
            self._loaded.get(slot) if slot else None, MissingPackageError
        )

    def label(self, slot: Slot | None) -> str:
        """Return which network and file fill a slot; empty: none does."""
        if slot is None or self.unavailable(slot):
            return ""
        found = self._loaded[slot]
        return "" if isinstance(found, DcgridError) else found[1]

    def columns(self, keys: Sequence[str]) -> tuple[MetricColumn, ...]:
        """Return the columns of metrics; a blank one says why it is.

        Args:
            keys: Keys of METRICS.

        Raises:
            KeyError: There is no such metric: a caller's bug.
        """
        return tuple(
            MetricColumn(
                key=metric.key,
                label=metric.label,
                title=metric.title,
                better=metric.better,
                digits=metric.digits,
                encoder=self.label(metric.slot),
                unavailable=self.unavailable(metric.slot),
            )
            for metric in (METRICS[key] for key in keys)
        )

    def remembered(self, what: str, frames_THWC: Tensor, make: Callable[[Tensor], Made]) -> Made:
        """Return what is made of frames, from memory if it was made of the same ones before.

        So the source of many results is encoded once.

        Args:
            what: What is made, e.g. "dino".
            frames_THWC: Frames, uint8; identified by their content.
            make: Makes it of the frames.
        """
        digest = hashlib.blake2b(str(tuple(frames_THWC.shape)).encode(), digest_size=16)
        content: Any = frames_THWC.cpu().contiguous().numpy()
        digest.update(content)
        key = (what, digest.hexdigest())
        if key in self._kept:
            self._kept.move_to_end(key)
            made: Made = self._kept[key][0]
            return made
        made = make(frames_THWC)
        self._kept[key] = (made, _bytes(made))
        while sum(size for _, size in self._kept.values()) > _KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return made

    def _load(self, slot: Slot) -> tuple[Any, str]:
        """Load a network; return it with the name that it is shown under.

        Raises:
            DcgridError: It cannot be had.
        """
        if slot == "flow":
            return FlowReader(), "optical flow (DIS)"
        if slot == "faces":
            if self.unavailable("arcface") and not self.unavailable("sface"):
                return self.get("sface"), self.label("sface")
            return self.get("arcface"), self.label("arcface")
        if slot == "arcface":
            return self._arcface()
        if slot == "sface":
            recognizer, detector = self._find("sface"), self._find("yunet")
            reader = SFaceReader(_only(detector.paths), _only(recognizer.paths))
            return reader, f"SFace ({recognizer.label}, faces by {detector.label})"
        return self._torch_network(slot)

    def _torch_network(self, slot: Slot) -> tuple[Any, str]:
        if slot == "clip":
            files = self._find("clip-vit-l14")
            folder = files.paths["model.safetensors"].parent
            return clip_vit.ClipEncoder(
                folder, self._device, clip_vit.VIT_L14
            ), f"CLIP ({files.label})"
        if slot == "dino":
            files = self._find("dino-vits16")
            network = dino.DinoEncoder(_only(files.paths), self._device, dino.VIT_S16)
            return network, f"DINO ({files.label})"
        files = self._find("lpips-vgg")
        return LpipsNetwork(_only(files.paths), self._device), f"LPIPS ({files.label})"

    def _arcface(self) -> tuple[Any, str]:
        """Load the large ArcFace, or the small one where only that is here."""
        try:
            files = self._find("arcface-r50")
        except DcgridError as missing:
            try:
                files = self._find("arcface-mbf")
            except DcgridError as error:
                # A damaged file is worth more words than one that is not here.
                raise (error if "another file" in error.message else missing) from error
        recognizer, detector = files.paths.values()
        label = f"ArcFace ({recognizer.stem}, faces by {detector.stem})"
        return ArcFaceReader(detector, recognizer), label

    def _find(self, name: str) -> Any:  # noqa: ANN401 - NetworkFiles
        return find_network(name, self._weights_dir, offline=self._offline)


def _only(paths: Any) -> Path:  # noqa: ANN401 - a mapping to one path
    (path,) = paths.values()
    return Path(path)


def _bytes(made: Any) -> int:  # noqa: ANN401 - a tensor, or faces
    """Return about how much memory something takes."""
    if isinstance(made, Tensor):
        return made.nbytes
    return sum(one.embeddings_NE.nbytes + one.boxes_N4.nbytes for one in made)
