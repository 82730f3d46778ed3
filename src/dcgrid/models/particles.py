"""Rain, snow, sparks and smoke as planes: what the noise says of where they are and how large.

Renderers of the truth draw with them, and so does the guided upsampler (docs/decisions/0024): cells
are too small to hold a drop, but the noise that a cell was generated from says where each one is.

Letters: N planes, T frames, H W height/width.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import torch
from torch.nn import functional

from dcgrid.models.drift import (
    BLOCK,
    FALL,
    FALL_FAST,
    FALL_SLOW,
    RISE,
    SMOOTH,
    SMOOTH_FINE,
    DriftingNoise,
    PointLook,
)

RAIN = PointLook(
    share=0.02, radius=0.02, length=1.9, lean=0.05, fan=0.01, opacity=0.45, jitter=0.1, vary=0.4
)
MIDDLE_RAIN = PointLook(
    share=0.14, radius=0.013, length=1.1, lean=0.05, fan=0.01, opacity=0.38, copies=2, vary=0.4
)
FAR_RAIN = PointLook(share=0.4, radius=0.009, length=0.55, opacity=0.32, copies=5, vary=0.4)
SPLASHES = 0.07
"""Part of the places on the ground where a drop bursts within a third of a second."""
NEAR_FLAKES = PointLook(
    share=0.022, radius=0.085, length=0.12, opacity=0.75, jitter=0.1, vary=0.45, sway=0.1
)
MIDDLE_FLAKES = PointLook(
    share=0.10, radius=0.034, length=0.06, opacity=0.9, jitter=0.1, copies=2, vary=0.4, sway=0.15
)
FAR_FLAKES = PointLook(share=0.45, radius=0.016, opacity=0.6, copies=4, vary=0.4, sway=0.15)
EMBERS = PointLook(
    share=0.03, radius=0.03, length=0.35, fan=0.35, copies=2, vary=0.5, sway=0.2, tail=0.7
)
SPARKS = PointLook(share=0.03, radius=0.022, length=1.7, fan=0.2, jitter=0.1, vary=0.5, tail=0.97)
FINE_SPARKS = PointLook(share=0.2, radius=0.014, length=0.4, fan=0.3, copies=4, vary=0.7, tail=0.9)

RISE_SPEED = 3.0
"""Blocks a second at which folds of smoke rise: as the broader smooth field does."""
FOLD_BLOCKS = 16
"""Blocks after which the folds repeat."""
FOLD_TEXELS = 32
"""Pixels of a block of them."""


Plane: TypeAlias = Callable[[DriftingNoise], torch.Tensor]
"""Draws opacity, THW, not clamped."""


def _points(*shown: tuple[int, PointLook]) -> Plane:
    """Return a plane on which groups of points add up, each with its look."""

    def plane(noise: DriftingNoise) -> torch.Tensor:
        total = noise.points(*shown[0])
        for group, look in shown[1:]:
            total = total + noise.points(group, look)
        return total

    return plane


rain = _points((FALL_FAST, MIDDLE_RAIN), (FALL_FAST, RAIN))
far_rain = _points((FALL, FAR_RAIN))
flakes = _points((FALL_SLOW, MIDDLE_FLAKES), (FALL, NEAR_FLAKES))
far_flakes = _points((FALL_SLOW, FAR_FLAKES))
sparks = _points((RISE, SPARKS))
fine_sparks = _points((RISE, FINE_SPARKS))
embers = _points((RISE, EMBERS))


def splashes(noise: DriftingNoise) -> torch.Tensor:
    """Return rings where near drops end, opacity THW."""
    return noise.bursts(FALL_FAST, SPLASHES)


POINTS: tuple[Plane, ...] = (
    rain, far_rain, splashes, flakes, far_flakes, sparks, fine_sparks, embers,
)  # fmt: skip
"""The planes of points."""
PLANES = len(POINTS) + 2
"""What the guided upsampler may lay over a picture, in the order of its weights: the planes of
points, then smoke in its own shade and smoke in the light."""
FIELDS = 3
"""Planes of `soft_fields`."""


def draw_planes(noise: DriftingNoise, chosen: Sequence[int] = range(PLANES)) -> torch.Tensor:
    """Return some of the planes, NTHW in [0, 1]."""
    shade_light: tuple[torch.Tensor, ...] = ()
    if any(number >= len(POINTS) for number in chosen):
        density, light = smoke(noise)
        shade_light = density * (1 - light), density * light
    return torch.stack(
        [
            POINTS[n](noise).clamp(0, 1) if n < len(POINTS) else shade_light[n - len(POINTS)]
            for n in chosen
        ]
    )


def smoke(noise: DriftingNoise) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how thick smoke is and how much light falls on it, THW in [0, 1] each.

    It is thickest near the ground; its lamp stands above it on the left.
    """
    broad, fine, folded = soft_fields(noise)
    rows, columns = noise.like.shape[-2:]
    thickness = 0.5 + 0.11 * broad + 0.03 * fine + 0.13 * folded
    height_H1 = ((torch.arange(rows, device=broad.device) + 0.5) / rows)[:, None]
    place = 0.33 + 0.67 * ramp(height_H1, 0.05, 0.95)
    density = ramp(thickness + 0.20 * (place - 0.5), 0.12, 0.82) * (0.45 + 0.55 * place)
    step = max(1, round(2 * noise.scale))
    toward_lamp = functional.pad(thickness[None], (step, 0, step, 0), mode="replicate")[0]
    shade = toward_lamp[:, :rows, :columns]
    light = 0.54 + 1.5 * (thickness - shade) + 0.9 * (thickness - 0.45)
    return density, light.clamp(0, 1)


def ramp(position: torch.Tensor, start: float, stop: float) -> torch.Tensor:
    """Rise smoothly from 0 at `start` to 1 at `stop` (which may be below start)."""
    share = ((position - start) / (stop - start)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def soft_fields(noise: DriftingNoise) -> torch.Tensor:
    """Return what mist, smoke and caustics are made of: two smooth fields and folds, NTHW.

    Standard normal each.
    """
    broad, fine = noise.smooth(SMOOTH), noise.smooth(SMOOTH_FINE)
    return torch.stack([broad, fine, folds(noise, broad, fine)])


def folds(
    noise: DriftingNoise,
    broad_THW: torch.Tensor,
    fine_THW: torch.Tensor,
    *,
    speed: float = RISE_SPEED,
    stretch: float = 1.0,
) -> torch.Tensor:
    """Return the folds of smoke: a fixed texture that the two smooth fields warp, THW.

    Args:
        noise: The noise.
        broad_THW: Its broader smooth field.
        fine_THW: Its finer one.
        speed: Blocks a second at which they rise.
        stretch: How many times as high as wide they are; those of flames are higher.
    """
    rows, columns = noise.like.shape[-2:]
    device, block = broad_THW.device, noise.block
    x = (torch.arange(columns, device=device) + 0.5) / block
    y = (torch.arange(rows, device=device)[:, None] + 0.5) / block
    risen = speed * noise.seconds_T[:, None, None].to(device)
    places = torch.stack(
        (x + 0.6 * broad_THW + 0.20 * fine_THW, (y + risen) / stretch + 0.30 * fine_THW), dim=-1
    )
    texture = _fold_texture(noise.scale).to(device)
    side = texture.shape[-1] - 1
    wrapped = torch.remainder(places, FOLD_BLOCKS) / FOLD_BLOCKS
    found = functional.grid_sample(
        texture.expand(len(places), 1, side + 1, side + 1),
        wrapped * 2 - 1,
        mode="bilinear",
        align_corners=True,
    )
    return found[:, 0]


@lru_cache(maxsize=4)
def _fold_texture(scale: float) -> torch.Tensor:
    """Return folds of smoke that repeat, unit variance, averaged over pixels of this scale; YX.

    The first row and column stand once more at the end, so that sampling can wrap around.
    """
    side = FOLD_BLOCKS * FOLD_TEXELS
    generator = torch.Generator().manual_seed(16)
    waves_Y = torch.fft.fftfreq(side, 1 / FOLD_TEXELS)  # per block
    square = waves_Y[:, None] ** 2 + waves_Y**2
    total = torch.zeros(side, side)
    for octave in range(6):
        around = 0.22 * 2.0**octave
        distance_YX = square.clamp(min=1e-6).sqrt().log2() - math.log2(around)
        white = torch.fft.fft2(torch.randn(side, side, generator=generator))
        noise = torch.fft.ifft2(white * torch.exp(-(distance_YX**2))).real
        noise = noise / noise.std()
        # Puffs, with soft ridges where two layers of smoke meet.
        total += 0.5**octave * (0.9 * noise - 0.45 * (noise**2 + 0.05).sqrt())
    pixel = 1 / (BLOCK * scale)
    seen = torch.fft.fft2(total - total.mean()) * (
        torch.sinc(waves_Y * pixel)[:, None] * torch.sinc(waves_Y * pixel)
    )
    texture = torch.fft.ifft2(seen).real / total.std()
    return functional.pad(texture[None, None], (0, 1, 0, 1), mode="circular")[0, 0]
