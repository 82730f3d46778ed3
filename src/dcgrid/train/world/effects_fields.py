"""Building blocks of the rendered effects: positions, tone, soft noise, particles.

Letters: C channels, T H W pixel frames/height/width, N particles. All lengths are in *units* of the
short side of the picture, so that a rain streak or a puff of smoke covers the same share of the
scene at every resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
NOISE_ROWS = 48
"""Samples of a noise field along the short side; noise is soft, so few are enough."""


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


def ramp(position: torch.Tensor, start: float, stop: float) -> torch.Tensor:
    """Rise smoothly from 0 at `start` to 1 at `stop` (which may be below start)."""
    share = ((position - start) / (stop - start)).clamp(0, 1)
    return share * share * (3 - 2 * share)


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


def distance(like: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """Return every pixel's distance in units to a point given as shares of height and width."""
    tall, wide = extent(like)
    return torch.hypot((heights(like) - y) * tall, (widths(like) - x) * wide)


def vignette(like: torch.Tensor, strength: float) -> torch.Tensor:
    """Return a factor of shape HW that is 1 in the middle and 1 - strength in the corners."""
    square = ((heights(like) - 0.5) ** 2 + (widths(like) - 0.5) ** 2) * 2
    return 1 - strength * square


def soften(clip_CTHW: torch.Tensor, cells: int) -> torch.Tensor:
    """Blur each frame to about `cells` details along the short side, the same at any size."""
    rows, columns = clip_CTHW.shape[-2:]
    tall, wide = extent(clip_CTHW)
    small = (min(rows, round(cells * tall)), min(columns, round(cells * wide)))
    coarse = functional.interpolate(clip_CTHW, size=small, mode="area")
    coarse = functional.avg_pool2d(coarse, 3, stride=1, padding=1, count_include_pad=False)
    return functional.interpolate(
        coarse, size=(rows, columns), mode="bilinear", align_corners=False
    )


def uniform(
    generator: torch.Generator, shape: Sequence[int], like: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """Draw from [low, high) with the generator and bring the numbers to `like`'s device."""
    drawn = torch.rand(tuple(shape), generator=generator, device=generator.device)
    return (low + (high - low) * drawn).to(device=like.device, dtype=like.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How a noise field looks and moves."""

    scale: float
    """Blobs of the coarsest octave along the short side."""
    velocity: tuple[float, float]
    """Down and right, in units per second."""
    churn: float
    """How many times a second the pattern renews itself."""
    octaves: int = 3
    """Each octave has twice the detail and half the weight."""
    warp: float = 0.0
    """How far, in units, the coarsest blobs pull the finer ones into wisps."""


def drifting_noise(
    generator: torch.Generator, seconds_T: torch.Tensor, like: torch.Tensor, drift: Drift
) -> torch.Tensor:
    """Render animated fractal noise of shape THW with values around 0.5, within [0, 1]."""
    tall, wide = extent(like)
    rows, columns = round(NOISE_ROWS * tall), round(NOISE_ROWS * wide)
    y = torch.linspace(0, tall, rows, device=like.device)[None, :, None]
    x = torch.linspace(0, wide, columns, device=like.device)[None, None, :]
    time = seconds_T[:, None, None]
    y, x = y - drift.velocity[0] * time, x - drift.velocity[1] * time
    total, weight_sum = torch.zeros((), device=like.device), 0.0
    for octave in range(drift.octaves):
        detail, weight = drift.scale * 2**octave, 0.55**octave
        shape = (y + x).shape
        coordinates = torch.stack(
            ((x * detail).expand(shape), (y * detail).expand(shape),
             (time * drift.churn * 1.5**octave).expand(shape)), dim=-1)  # fmt: skip
        layer = _value_noise(generator, coordinates)
        if octave == 0 and drift.warp:
            pull = _value_noise(generator, coordinates)
            y, x = y + (layer - 0.5) * drift.warp, x + (pull - 0.5) * drift.warp
        total, weight_sum = total + layer * weight, weight_sum + weight
    fine = functional.interpolate(
        (total / weight_sum)[None], size=like.shape[-2:], mode="bilinear", align_corners=False
    )
    return fine[0]


def _value_noise(generator: torch.Generator, coordinates_THW3: torch.Tensor) -> torch.Tensor:
    """Sample random lattice values, smoothly interpolated, at (x, y, time) in lattice steps."""
    shifted = coordinates_THW3 - coordinates_THW3.amin(dim=(0, 1, 2))
    cell = shifted.floor()
    part = shifted - cell
    smooth = cell + part * part * (3 - 2 * part)
    steps = [int(edge) + 2 for edge in shifted.amax(dim=(0, 1, 2)).tolist()]
    lattice = uniform(generator, (1, 1, steps[2], steps[1], steps[0]), coordinates_THW3, 0, 1)
    last = torch.tensor([step - 1 for step in steps], device=smooth.device)
    place = 2 * smooth / last - 1
    return functional.grid_sample(lattice, place[None], mode="bilinear", align_corners=True)[0, 0]


def splat(
    y_TN: torch.Tensor,
    x_TN: torch.Tensor,
    weight_TN: torch.Tensor,
    radius_N: torch.Tensor,
    like: torch.Tensor,
) -> torch.Tensor:
    """Draw N soft round dots on each frame and return their sum, shape THW.

    Positions and radii (one standard deviation) are in units. A round Gaussian is the product of
    one along y and one along x, so that a frame is a matrix product over the dots.
    """
    tall, wide = extent(like)
    y_H, x_W = heights(like)[:, 0] * tall, widths(like)[0] * wide
    rows_THN = torch.exp(-0.5 * ((y_H[None, :, None] - y_TN[:, None]) / radius_N) ** 2)
    columns_TNW = torch.exp(-0.5 * ((x_W - x_TN[..., None]) / radius_N[:, None]) ** 2)
    return (rows_THN * weight_TN[:, None]) @ columns_TNW
