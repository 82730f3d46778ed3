"""Make the pictures of docs/: edits of real clips as contact sheets, small enough for a repository.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from benchmarks.clips import BenchClip
from benchmarks.edits import EditSettings, edit_clip
from benchmarks.progress import Silent
from dcgrid.errors import OutputError
from dcgrid.models.native.backbone import NativeBackbone
from dcgrid.video.sheet import write_contact_sheet
from dcgrid.video.write import whole_file

SHEET_EFFECTS = ("rain", "night", "smoke", "backlight")
"""Edits of a contact sheet, below the original."""
SHEET_FRAMES, SHEET_BYTES = 4, 300_000
PREVIEW_FRAMES, PREVIEW_BYTES = 3, 120_000
# Longest side of a frame to begin with, how far it shrinks when the file is too large, and where
# that ends.
_LARGEST, _SHRINK, _SMALLEST = 240, 0.92, 64


def write_sheet(
    path: Path,
    backbone: NativeBackbone,
    clip: BenchClip,
    effects: Sequence[str],
    settings: EditSettings,
) -> None:
    """Edit a clip and write the original and the edits below each other.

    Args:
        path: The PNG file; its folder is made.
        backbone: The model, adapter and all.
        clip: The clip.
        effects: Names of effects.
        settings: Seed and sampler values.

    Raises:
        OutputError: The file cannot be written.
    """
    edits = _edits(backbone, clip, effects, settings)
    rows = [clip.frames_THWC, *(edits[name] for name in effects)]
    write_small(path, rows, ["original", *effects], SHEET_FRAMES, SHEET_BYTES)


def write_previews(
    folder: Path,
    backbone: NativeBackbone,
    clip: BenchClip,
    effects: Sequence[str],
    settings: EditSettings,
) -> list[Path]:
    """Edit a clip with every effect and write one picture each: the original, then the edit.

    Args:
        folder: Where `<effect>.png` go; it is made.
        backbone: The model, adapter and all.
        clip: The clip.
        effects: Names of effects.
        settings: Seed and sampler values.

    Returns:
        The files.

    Raises:
        OutputError: A file cannot be written.
    """
    paths = []
    for name, edit_THWC in _edits(backbone, clip, effects, settings).items():
        rows = [clip.frames_THWC, edit_THWC]
        paths.append(folder / f"{name}.png")
        write_small(paths[-1], rows, ["original", name], PREVIEW_FRAMES, PREVIEW_BYTES)
    return paths


def write_page(path: Path, text: str) -> None:
    """Write a page, all or nothing; its folder is made.

    Raises:
        OutputError: The page cannot be written.
    """
    _make_folder(path.parent)
    with whole_file(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")


def _edits(
    backbone: NativeBackbone, clip: BenchClip, effects: Sequence[str], settings: EditSettings
) -> dict[str, Tensor]:
    made = edit_clip(backbone, clip.frames_THWC, effects, settings, backbone.device, Silent())
    return {name: edit.frames_THWC for name, edit in made.items()}


def write_small(
    path: Path, clips: Sequence[Tensor], labels: Sequence[str], frames: int, most_bytes: int
) -> None:
    """Write a contact sheet with frames as large as the file may be.

    Raises:
        OutputError: The file cannot be written.
    """
    _make_folder(path.parent)
    side = float(_LARGEST)
    # A picture that is too large must never be seen under the final name.
    with whole_file(path, overwrite=True) as part:
        while True:
            rows = [[_scaled(_spread(clip_THWC, frames), round(side))] for clip_THWC in clips]
            write_contact_sheet(part, rows, labels, frames_per_clip=frames, overwrite=True)
            if part.stat().st_size <= most_bytes or side * _SHRINK < _SMALLEST:
                return
            side *= _SHRINK


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise OutputError(
            f"the folder {folder} cannot be made ({reason})", hint="name another with --docs"
        ) from error


def _spread(clip_THWC: Tensor, count: int) -> Tensor:
    """Return frames at the middles of `count` equal parts: the first is rarely the best."""
    length = len(clip_THWC)
    return clip_THWC[[int((2 * part + 1) * length / (2 * count)) for part in range(count)]]


def _scaled(clip_THWC: Tensor, side: int) -> Tensor:
    """Scale a clip so that its longer side has `side` pixels."""
    height, width = clip_THWC.shape[1:3]
    factor = side / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    video_TCHW = rearrange(clip_THWC, "t h w c -> t c h w").float()
    scaled_TCHW = F.interpolate(video_TCHW, size, mode="bicubic", antialias=True)
    return rearrange(scaled_TCHW.round().clamp(0, 255).to(torch.uint8), "t c h w -> t h w c")
