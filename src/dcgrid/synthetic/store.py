"""The store: all pictures of the procedural world, shrunk, in five safetensors files.

    photos.safetensors    name -> uint8 C H W, short side 512
    sprites.safetensors   name -> uint8 T 4 112 112 (RGBA, 12 fps), name as people say it
    footage.safetensors   name -> uint8 C T H W, 12 fps, short side about 176
    details.safetensors   name -> uint8 C T H W, 5 frames at 12 fps, short side about 400
    mattes.safetensors    name in footage or details -> uint8 T H W, of clips with people

Built once by `build_store`, read by `WorldStore`. Only building needs Pillow (extra `train`); the
panoramas need OpenEXR, the mattes ai-edge-litert, and are left out without it.
"""

import base64
import io
import re
import unicodedata
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dcgrid.errors import InputVideoError, UsageError, WeightsError
from dcgrid.io.atomic import write_whole
from dcgrid.synthetic.mattes import Matting, can_run, find_network
from dcgrid.synthetic.sources import SOURCES, TRAINING_CLIPS, source_dir
from dcgrid.video.clip import ClipRules
from dcgrid.video.pixels import pixels_of_unit, unit_of
from dcgrid.video.read import read_clip

PHOTO_SIDE = 512
"""Enough for pictures of four times a cell's size, which stage `upsampler` has as truth."""
SPRITE_SIDE = 112
FPS = 12.0
DETAIL_FRAMES = 5
"""Frames of a stretch of `details`."""
DETAIL_SOURCE = 240
"""Shortest side, as filmed, of a clip that has details to keep."""
OPTIONAL = ("footage", "details", "mattes")
"""Kinds that training can do without: they need a folder of clips."""
PANORAMA = "panorama-"
"""What the names of panoramas begin with."""
STILL_SPRITE = 0.012
"""Mean change a frame (of 1) under which a sprite counts as still and is left out."""


def build_store(
    raw_dir: Path, clips_dir: Path, store_dir: Path, report: Callable[[str], None]
) -> None:
    """Shrink everything fetched into the store; files already there are kept.

    Args:
        raw_dir: Folder that `fetch_sources` filled.
        clips_dir: Folder of the training clips; those that are missing are reported and left out.
        store_dir: Folder of the five files.
        report: Called with what was kept and what was left out.

    Raises:
        UsageError: Pillow is not installed.
        WeightsError: Nothing was fetched for a kind that training cannot do without.
        OutputError: A file cannot be written.
    """
    if find_spec("PIL") is None:
        raise UsageError(
            "building the world's pictures needs Pillow", hint="pip install 'dcgrid[train]'"
        )
    if find_spec("OpenEXR") is None:
        report("OpenEXR is not installed: panoramas are left out (pip install OpenEXR)")
    if not can_run():
        report(
            "ai-edge-litert is not installed: footage has no mattes (pip install ai-edge-litert)"
        )
    store_dir.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "photos": lambda: dict(_photos(raw_dir)),
        "sprites": lambda: dict(_sprites(raw_dir)),
        "footage": lambda: dict(_footage(clips_dir, report)),
        "details": lambda: dict(_details(clips_dir, report)),
        "mattes": lambda: dict(_mattes(raw_dir, store_dir)),
    }
    for name, make in makers.items():
        path = store_dir / f"{name}.safetensors"
        if path.exists():
            continue
        tensors = make()
        if not tensors and name not in OPTIONAL:
            raise WeightsError(
                f"no {name} were found below {raw_dir}", hint="dcgrid train --fetch-world"
            )
        if tensors:
            write_whole(path, save(tensors), hint="free some space, or use another --world")
        report(f"{name}: {len(tensors)} kept")


class WorldStore:
    """Read access to the store; tensors are memory-mapped, nothing is held.

    Args:
        store_dir: Folder of its files.
        detailed: Only pictures with detail: footage is the short stretches of `details`, near the
            size of the clips, and photos are no panoramas.

    Raises:
        WeightsError: Photos or sprites are missing, empty or damaged. The rest may be missing.
    """

    def __init__(self, store_dir: Path, *, detailed: bool = False) -> None:
        self._files: dict[str, Any] = {}
        self.names: dict[str, list[str]] = {kind: [] for kind in OPTIONAL}
        for kind in ("photos", "sprites", *OPTIONAL):
            path = store_dir / f"{kind}.safetensors"
            if not path.exists() and kind in OPTIONAL:
                continue
            try:
                file: Any = _open(path)
            except FileNotFoundError as error:
                raise WeightsError(
                    f"the world's pictures are not in {store_dir} ({path.name} is missing)",
                    hint="make world   # fetches and builds them; or name their folder: --world",
                ) from error
            except (SafetensorError, OSError) as error:
                raise WeightsError(
                    f"{path} is damaged: {error}",
                    hint=f"remove it and run `dcgrid train --fetch-world --world {store_dir}`",
                ) from error
            self._files[kind], self.names[kind] = file, sorted(file.keys())
            if kind not in OPTIONAL and not self.names[kind]:
                raise WeightsError(f"{path} is empty", hint="remove it and run `make world`")
        if detailed:
            self.names["footage"] = self.names["details"]
            # Environment maps are small: enlarged to the size of photos they have no detail.
            photos = [name for name in self.names["photos"] if not name.startswith(PANORAMA)]
            self.names["photos"] = photos
            self._files["footage"] = self._files.get("details")
        # A file of mattes has those of footage and of details: the ones of what is shown count.
        shown = set(self.names["footage"])
        self.names["mattes"] = [name for name in self.names["mattes"] if name in shown]

    @classmethod
    def empty(cls) -> "WorldStore":
        """Return a store without pictures, for runs that draw no clip."""
        store = cls.__new__(cls)
        kinds = ("photos", "sprites", *OPTIONAL)
        store._files, store.names = {}, {kind: [] for kind in kinds}
        return store

    def get(self, kind: str, name: str) -> torch.Tensor:
        """Return one uint8 tensor of the store."""
        tensor: torch.Tensor = self._files[kind].get_tensor(name)
        return tensor


def _open(path: Path) -> Any:  # noqa: ANN401 - safetensors names no type for an open file
    return safe_open(path, "pt")


def _pictures(raw_dir: Path, kind: str, endings: tuple[str, ...]) -> Iterator[Path]:
    for source in SOURCES:
        if source.kind == kind:
            folder = source_dir(raw_dir, source)
            yield from (p for p in sorted(folder.rglob("*")) if p.name.endswith(endings))


def _photos(raw_dir: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield photographs, near-duplicates and flat drawings left out."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    seen: set[bytes] = set()
    for path in _pictures(raw_dir, "photos", (".jpg", ".jpeg", ".png", ".webp")):
        if not path.is_file() or path.stat().st_size < 60_000:
            continue
        with Image.open(path) as image:
            picture = image.convert("RGB")
        scale = PHOTO_SIDE / min(picture.size)
        size = tuple(max(PHOTO_SIDE, round(side * scale)) for side in picture.size)
        small = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        fingerprint = bytes(v // 24 for v in picture.resize((6, 6)).tobytes())
        photo_CHW = _to_tensor(small)[:, :, : 2 * PHOTO_SIDE]
        if fingerprint in seen or _is_flat(photo_CHW):
            continue
        seen.add(fingerprint)
        yield f"{path.parent.name}-{path.name}", photo_CHW.contiguous()
    yield from _panoramas(raw_dir)


def _to_tensor(picture: object) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


def _is_flat(photo_CHW: torch.Tensor) -> bool:
    """True for drawings and plain desktops: over half of the picture without any texture."""
    luma = photo_CHW.float().mean(0)
    change = (luma[1:, 1:] - luma[:-1, 1:]).abs() + (luma[1:, 1:] - luma[1:, :-1]).abs()
    return bool((change < 0.7).float().mean() > 0.5)


def _panoramas(raw_dir: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield environment maps (EXR inside JavaScript), exposed and gamma coded."""
    try:
        import OpenEXR  # type: ignore[import-not-found]
    except ImportError:
        return
    for path in _pictures(raw_dir, "panoramas", (".exr.js",)):
        match = re.search(r"base64,([A-Za-z0-9+/=]+)", path.read_text())
        if match is None:
            continue
        temporary = path.with_suffix(".exr.tmp")
        temporary.write_bytes(base64.b64decode(match.group(1)))
        pixels = OpenEXR.File(str(temporary)).channels()["RGB"].pixels
        temporary.unlink()
        light = torch.from_numpy(pixels.astype("float32")).permute(2, 0, 1).clamp_min(0)
        exposed = (light / light.quantile(0.9).clamp_min(1e-3)).clamp(0, 1) ** (1 / 2.2)
        large = F.interpolate(exposed[None], size=(PHOTO_SIDE, 2 * PHOTO_SIDE), mode="bicubic")
        yield f"{PANORAMA}{path.name}", (large[0].clamp(0, 1) * 255).byte()


def _sprites(raw_dir: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield moving emoji as RGBA at 12 fps, named as people say them."""
    from PIL import Image, ImageSequence

    seen: set[str] = set()
    for path in _pictures(raw_dir, "sprites", (".webp",)):
        name = sprite_name(path.stem)
        if not name or name in seen:
            continue
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            frames = [
                _to_tensor(
                    f.convert("RGBA").resize((SPRITE_SIDE, SPRITE_SIDE), Image.Resampling.BOX)
                )
                for i, f in enumerate(ImageSequence.Iterator(image))
                if i % 2 == 0  # 24 fps to 12
            ]
        sprite_TCHW = torch.stack(frames[:36])
        moving = sprite_TCHW.float().diff(dim=0).abs().mean() / 255 if len(frames) > 8 else 0.0
        if moving < STILL_SPRITE:
            continue
        seen.add(name)
        yield name, sprite_TCHW.contiguous()


def sprite_name(code_points: str) -> str:
    """Return "dog face" for "1f436"; "" for flags, key caps and skin-tone variants."""
    try:
        characters = [chr(int(code, 16)) for code in code_points.split("-")]
    except (ValueError, OverflowError):
        return ""
    plain = [c for c in characters if c not in "\ufe0f\u200d"]
    if len(plain) != 1:
        return ""
    return unicodedata.name(plain[0], "").lower()


def _footage(clips_dir: Path, report: Callable[[str], None]) -> Iterator[tuple[str, torch.Tensor]]:
    rules = ClipRules(
        fps=FPS, stride=4, max_frames=97, cell_sizes=((176, 288), (288, 176), (208, 208))
    )
    yield from _clips(clips_dir, rules, report)


def _details(clips_dir: Path, report: Callable[[str], None]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield up to three stretches of each clip, near the size that it was filmed in."""
    rules = ClipRules(
        fps=FPS, stride=4, max_frames=97, cell_sizes=((400, 640), (640, 400), (480, 480))
    )
    for name, video_CTHW in _clips(clips_dir, rules, report, shortest=DETAIL_SOURCE):
        last = video_CTHW.shape[1] - DETAIL_FRAMES
        for number, start in enumerate(sorted({0, max(last, 0) // 2, max(last, 0)})):
            stretch_CTHW = video_CTHW[:, start : start + DETAIL_FRAMES].clone()
            yield f"{name}-{number}", stretch_CTHW


def _mattes(raw_dir: Path, store_dir: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield where people are in the clips of the store that have any."""
    network = find_network(raw_dir)
    if network is None or not can_run():
        return
    matting, store = Matting(network), WorldStore(store_dir)
    for kind in ("footage", "details"):
        for name in store.names[kind]:
            matte_THW = matting(unit_of(store.get(kind, name)))
            if matte_THW is not None:
                yield name, pixels_of_unit(matte_THW).contiguous()


def _clips(
    clips_dir: Path, rules: ClipRules, report: Callable[[str], None], shortest: int = 0
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the training clips, CTHW; those with a short side below `shortest` are left out."""
    for name in TRAINING_CLIPS:
        path = clips_dir / name
        if not path.exists():
            report(f"{name}: not in {clips_dir}, left out")
            continue
        try:
            clip, _ = read_clip(path, rules)
        except InputVideoError as error:
            report(f"{name}: {error.message}, left out")
            continue
        if min(clip.source.height, clip.source.width) >= shortest:
            yield name, clip.frames_THWC.permute(3, 0, 1, 2).contiguous()
