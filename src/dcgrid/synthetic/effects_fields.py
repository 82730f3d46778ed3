"""Building blocks of the rendered effects: positions and tone.

Letters: C channels, T H W pixel frames/height/width. All lengths are in *units* of the
short side of the picture, so that a rain streak or a puff of smoke covers the same share of the
scene at every resolution. `scale` says how many times a cell's size a picture is: what averages
neighbours first averages down to a cell, so that it finds the same at any size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from dcgrid.flow.noise import draw_moving
from dcgrid.models.drift import BLOCK, RATE, REACH, STRIDE_T
from dcgrid.models.native.config import MOVING_NOISE

LUMA_WEIGHTS = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What an effect is rendered on."""

    clip_CTHW: torch.Tensor
    """RGB in [0, 1]."""
    seconds_T: torch.Tensor
    """Time of its frames."""
    scale: float = 1.0
    """Pixels of it for each pixel of a cell."""
    matte_1THW: torch.Tensor | None = None
    """Opacity of the subject in [0, 1]; None: not known."""

    @property
    def behind(self) -> torch.Tensor:
        """How much of each pixel is behind the subject, 1THW; all of it where none is known."""
        if self.matte_1THW is None:
            return torch.ones_like(self.clip_CTHW[:1])
        return 1 - self.matte_1THW


def luma(clip_CTHW: torch.Tensor) -> torch.Tensor:
    """Return the brightness of an RGB clip, shape 1THW."""
    red, green, blue = LUMA_WEIGHTS
    return (clip_CTHW[0] * red + clip_CTHW[1] * green + clip_CTHW[2] * blue)[None]


def colour(rgb: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Return a colour as a tensor of shape (3, 1, 1, 1) beside `like`."""
    return torch.tensor(rgb, dtype=like.dtype, device=like.device)[:, None, None, None]


def mix(first: torch.Tensor, second: torch.Tensor, share: torch.Tensor | float) -> torch.Tensor:
    """Blend two pictures; share 0 is the first, 1 the second."""
    return first + (second - first) * share


def desaturate(clip_CTHW: torch.Tensor, share: float) -> torch.Tensor:
    """Move colours towards grey; share 1 is black and white."""
    return mix(clip_CTHW, luma(clip_CTHW), share)


def screen(clip_CTHW: torch.Tensor, light: torch.Tensor) -> torch.Tensor:
    """Add light without burning out: both brighten, white stays the limit."""
    return clip_CTHW + light * (1 - clip_CTHW)


def heights(like: torch.Tensor) -> torch.Tensor:
    """Return the row positions, 0 at the top edge and 1 at the bottom edge, shape (H, 1)."""
    rows = like.shape[-2]
    return ((torch.arange(rows, device=like.device, dtype=like.dtype) + 0.5) / rows)[:, None]


def widths(like: torch.Tensor) -> torch.Tensor:
    """Return the column positions, 0 at the left edge and 1 at the right edge, shape (1, W)."""
    columns = like.shape[-1]
    return ((torch.arange(columns, device=like.device, dtype=like.dtype) + 0.5) / columns)[None]


def extent(like: torch.Tensor) -> tuple[float, float]:
    """Return height and width of the picture in units (the short side is 1)."""
    rows, columns = like.shape[-2:]
    short = min(rows, columns)
    return rows / short, columns / short


def distance(like: torch.Tensor, y: float, x: float | torch.Tensor) -> torch.Tensor:
    """Return every pixel's distance in units to a point given as shares of height and width.

    A point that moves sideways has an x of shape (T, 1, 1).
    """
    tall, wide = extent(like)
    return torch.hypot((heights(like) - y) * tall, (widths(like) - x) * wide)


def vignette(like: torch.Tensor, strength: float) -> torch.Tensor:
    """Return a factor of shape HW that is 1 in the middle and 1 - strength in the corners."""
    square = ((heights(like) - 0.5) ** 2 + (widths(like) - 0.5) ** 2) * 2
    return 1 - strength * square


def shrink(clip_CTHW: torch.Tensor, scale: float) -> torch.Tensor:
    """Average a picture of `scale` times a cell's size down to that size."""
    if scale == 1:
        return clip_CTHW
    size = [max(1, round(side / scale)) for side in clip_CTHW.shape[-2:]]
    return functional.interpolate(clip_CTHW, size=size, mode="area")


def enlarge(small_CTHW: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Draw a small soft picture at the size of another one."""
    size = like.shape[-2:]
    return functional.interpolate(small_CTHW, size=size, mode="bilinear", align_corners=False)


def soften(clip_CTHW: torch.Tensor, details: int, scale: float = 1.0) -> torch.Tensor:
    """Blur each frame to about `details` details along the short side, the same at any scale."""
    cell_CTHW = shrink(clip_CTHW, scale)
    rows, columns = cell_CTHW.shape[-2:]
    tall, wide = extent(cell_CTHW)
    small = (min(rows, round(details * tall)), min(columns, round(details * wide)))
    coarse = functional.interpolate(cell_CTHW, size=small, mode="area")
    coarse = functional.avg_pool2d(coarse, 3, stride=1, padding=1, count_include_pad=False)
    return enlarge(coarse, clip_CTHW)


def shading(scene: Scene, *, up: float, left: float) -> torch.Tensor:
    """Return how much a surface faces a light, 1THW in [0, 1], 0.5 where that is not known.

    The subject is taken as a pillow that bulges out of its matte; besides, what is brighter on one
    side than on the other bulges.

    Args:
        scene: Clip and matte.
        up: Share of the way to the light that goes up; negative: down.
        left: Share that goes left.
    """
    bulge = 0.8 * soften(luma(scene.clip_CTHW), 12, scene.scale)
    if scene.matte_1THW is not None:
        bulge = bulge + 1.4 * soften(scene.matte_1THW, 9, scene.scale)
    gap = max(1, round(4 * scene.scale))
    padded = functional.pad(bulge, (gap,) * 4, mode="replicate")
    rows, columns = bulge.shape[-2:]
    across = padded[..., gap : gap + rows, 2 * gap :] - padded[..., gap : gap + rows, :columns]
    down = padded[..., 2 * gap :, gap : gap + columns] - padded[..., :rows, gap : gap + columns]
    return torch.sigmoid(9 * (left * across + up * down))


def mirrored(clip_CTHW: torch.Tensor, level: float) -> torch.Tensor:
    """Turn a picture upside down about a height in it, as still water at that height shows it."""
    rows = clip_CTHW.shape[-2]
    source = (2 * level - heights(clip_CTHW)[:, 0]).clamp(0, 1) * rows - 0.5
    low = source.floor().clamp(0, rows - 2).long()
    share = (source - low).clamp(0, 1)[:, None]
    return mix(clip_CTHW[..., low, :], clip_CTHW[..., low + 1, :], share)


def uniform(
    generator: torch.Generator, shape: Sequence[int], like: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """Draw from [low, high) with the generator and bring the numbers to `like`'s device."""
    drawn = torch.rand(tuple(shape), generator=generator, device=generator.device)
    return (low + (high - low) * drawn).to(device=like.device, dtype=like.dtype)


CELL_SIDE = 126
"""Side of a square with about as many pixels as a cell of `mini` (96x160, 128x128)."""


def draw_drift(
    clip_CTHW: torch.Tensor,
    seconds_T: torch.Tensor,
    generator: torch.Generator,
    scale: float = 1.0,
) -> torch.Tensor:
    """Draw the moving noise for a clip of `scale` pixels a pixel of a cell, MFYX on its device."""
    frames = math.ceil(float(seconds_T[-1]) * RATE / STRIDE_T - 1e-4) + 1
    # Mirroring at the edges needs more blocks than it reaches.
    rows, columns = (
        max(REACH + 1, math.ceil(side / (BLOCK * scale) - 1e-4)) for side in clip_CTHW.shape[-2:]
    )
    drawn = draw_moving((frames, rows, columns), MOVING_NOISE, generator)
    return drawn.to(clip_CTHW.device)


def cell_scale(like: torch.Tensor) -> float:
    """Return how many times a cell's size a picture H, W is; at least 1, a whole number."""
    rows, columns = like.shape[-2:]
    return float(max(1, round(math.sqrt(rows * columns) / CELL_SIDE)))
