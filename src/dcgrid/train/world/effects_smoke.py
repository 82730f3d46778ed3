"""Smoke that drifts and folds, lit by its lamp, behind the subject and thinly before it.

Its density is the noise's two smooth fields and a fixed texture that they warp and carry along, so
that nothing in it is by chance but the noise. Renderers as in effects_weather.
"""

import torch

from dcgrid.models.drift import DriftingNoise
from dcgrid.models.particles import ramp
from dcgrid.models.particles import smoke as smoke_of
from dcgrid.train.world.effects_fields import (
    Scene,
    colour,
    desaturate,
    distance,
    heights,
    luma,
    mix,
    screen,
)


def smoke(scene: Scene, drift: DriftingNoise) -> torch.Tensor:
    """Warm grey smoke that rises and drifts, densest near the ground and behind the subject."""
    clip_CTHW = scene.clip_CTHW
    thickness, light = smoke_of(drift)
    density = _around(scene, thickness)
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
    thickness, light = smoke_of(drift)
    density = _around(scene, thickness)
    shade, shine = colour((0.13, 0.03, 0.22), clip_CTHW), colour((0.92, 0.50, 1.0), clip_CTHW)
    body = mix(shade, shine, light) * (0.45 + 0.75 * near_lamp)
    return screen(mix(lit, body, density), 0.05 * near_lamp)


def _around(scene: Scene, density_THW: torch.Tensor) -> torch.Tensor:
    """Return the opacity of smoke behind the subject and, thinner and low, before it."""
    if scene.matte_1THW is None:
        return 0.37 * density_THW
    before = 0.34 * density_THW * ramp(heights(scene.clip_CTHW), 0.15, 0.9)
    return mix(before, 0.92 * density_THW, scene.behind)[0]
