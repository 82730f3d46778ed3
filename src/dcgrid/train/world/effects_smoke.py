"""Smoke that drifts and folds, lit by its lamp, behind the subject and thinly before it.

Its density is the noise's two smooth fields and a fixed texture that they warp and carry along, so
that nothing in it is by chance but the noise. Renderers as in effects_weather.
"""

import torch
from torch.nn import functional

from dcgrid.models.drift import DriftingNoise
from dcgrid.models.particles import soft_fields
from dcgrid.train.world.effects_fields import (
    Scene,
    colour,
    desaturate,
    distance,
    heights,
    luma,
    mix,
    ramp,
    screen,
)


def smoke(scene: Scene, drift: DriftingNoise) -> torch.Tensor:
    """Warm grey smoke that rises and drifts, densest near the ground and behind the subject."""
    clip_CTHW = scene.clip_CTHW
    density, light = _folds(scene, drift, lowest=0.3, toward_lamp=(3, 0))
    dull = desaturate(clip_CTHW, 0.35) * colour((0.72, 0.69, 0.66), clip_CTHW)
    body = mix(colour((0.20, 0.19, 0.185), clip_CTHW), colour((0.88, 0.86, 0.82), clip_CTHW), light)
    return mix(dull, body, density)


def purple_smoke(scene: Scene, drift: DriftingNoise) -> torch.Tensor:
    """A dark room, a purple lamp from the left, and violet smoke that folds in its light."""
    clip_CTHW = scene.clip_CTHW
    near_lamp = ramp(distance(clip_CTHW, 0.35, 0.0), 1.35, 0.0)
    bright = mix(luma(clip_CTHW), clip_CTHW, 0.35)
    ambient = bright * colour((0.40, 0.27, 0.48), clip_CTHW) + colour((0.02, 0.0, 0.035), clip_CTHW)
    lit = ambient + bright * near_lamp * colour((0.55, 0.20, 0.56), clip_CTHW)
    density, light = _folds(scene, drift, lowest=0.35, toward_lamp=(1, 3))
    shade, shine = colour((0.13, 0.03, 0.22), clip_CTHW), colour((0.92, 0.50, 1.0), clip_CTHW)
    body = mix(shade, shine, light) * (0.45 + 0.75 * near_lamp)
    return screen(mix(lit, body, density), 0.05 * near_lamp)


def _folds(
    scene: Scene, drift: DriftingNoise, *, lowest: float, toward_lamp: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Render smoke: opacity and brightness, THW each.

    Args:
        scene: What it is in.
        drift: Where it is.
        lowest: Share of it that is left at the top.
        toward_lamp: Pixels of a cell up and to the left at which it would be in the way of light.
    """
    like = scene.clip_CTHW
    broad, fine, folds = soft_fields(drift)
    thickness = 0.5 + 0.11 * broad + 0.03 * fine + 0.13 * folds
    place = lowest + (1 - lowest) * ramp(heights(like), 0.05, 0.95)
    density = ramp(thickness + 0.20 * (place - 0.5), 0.12, 0.82) * (0.45 + 0.55 * place)
    up, left = (max(1, round(pixels * scene.scale)) if pixels else 0 for pixels in toward_lamp)
    padded = functional.pad(thickness[None], (left, 0, up, 0), mode="replicate")[0]
    rows, columns = like.shape[-2:]
    shade = padded[:, :rows, :columns]
    light = (0.54 + 1.5 * (thickness - shade) + 0.9 * (thickness - 0.45)).clamp(0, 1)
    behind, before = 0.92 * density, 0.34 * density * ramp(heights(like), 0.15, 0.9)
    if scene.matte_1THW is None:
        return 0.37 * density, light
    return (mix(before, behind, scene.behind))[0], light
