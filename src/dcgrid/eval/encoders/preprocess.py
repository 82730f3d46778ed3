"""Frames as networks take them.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.video.pixels import unit_of

CHUNK = 16
"""Frames that a network is given at once: what bounds memory on long clips."""


def chunks(frames_THWC: Tensor, size: int = CHUNK) -> Iterator[Tensor]:
    """Yield frames in pieces of at most `size`."""
    for start in range(0, len(frames_THWC), size):
        yield frames_THWC[start : start + size]


def resize(frames_THWC: Tensor, height: int, width: int, mode: str = "bicubic") -> Tensor:
    """Return frames at another size, uint8; what gets smaller is filtered, as Pillow does.

    Args:
        frames_THWC: Frames, uint8.
        height: Pixels.
        width: Pixels.
        mode: "bicubic" or "bilinear".
    """
    if frames_THWC.shape[1:3] == (height, width):
        return frames_THWC
    floats_TCHW = frames_THWC.permute(0, 3, 1, 2).float()
    sized_TCHW = F.interpolate(
        floats_TCHW, size=(height, width), mode=mode, antialias=True, align_corners=False
    )
    return sized_TCHW.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def square(frames_THWC: Tensor, short: int, side: int) -> Tensor:
    """Return the middle square of frames, TCHW, uint8.

    Args:
        frames_THWC: Frames, uint8.
        short: What their shorter side is scaled to, in pixels.
        side: Side of the square, in pixels, at most `short`.
    """
    height, width = frames_THWC.shape[1:3]
    # The longer side is cut down, not rounded, as CLIP's and torchvision's own do.
    scaled = [max(short, edge * short // min(height, width)) for edge in (height, width)]
    sized_THWC = resize(frames_THWC, scaled[0], scaled[1])
    top, left = ((edge - side) // 2 for edge in scaled)
    return sized_THWC[:, top : top + side, left : left + side].permute(0, 3, 1, 2)


def normalised(
    pixels_TCHW: Tensor, mean: tuple[float, ...], spread: tuple[float, ...], device: torch.device
) -> Tensor:
    """Return uint8 pixels as floats around 0.

    Args:
        pixels_TCHW: RGB, uint8.
        mean: Of each colour, of values 0..1.
        spread: Standard deviation of each colour.
        device: Where the result lies.
    """
    shift, scale = (torch.tensor(one, device=device).view(3, 1, 1) for one in (mean, spread))
    floats: Tensor = (unit_of(pixels_TCHW.to(device)) - shift) / scale
    return floats
