"""Rain and snow: in layers of depth, moving, and lit as part of the scene.

Every renderer takes a scene and its drifting noise, and returns a clip of the same shape, not yet
clamped. Near drops are few, long and blurred; far ones are many, thin and faint.
"""

import torch
from torch.nn import functional

from dcgrid.models import particles
from dcgrid.models.drift import SMOOTH, DriftingNoise
from dcgrid.models.particles import ramp
from dcgrid.train.world.effects_fields import (
    Scene,
    colour,
    desaturate,
    heights,
    luma,
    mirrored,
    mix,
    soften,
)


def rain(scene: Scene, drift: DriftingNoise) -> torch.Tensor:
    """Rain under an overcast sky: dull cool light, wet ground, streaks near and far, splashes."""
    clip_CTHW, down = scene.clip_CTHW, heights(scene.clip_CTHW)
    dull = desaturate(clip_CTHW, 0.45) * colour((0.60, 0.66, 0.72), clip_CTHW)
    dull = dull + colour((0.025, 0.032, 0.042), clip_CTHW)
    far = soften(clip_CTHW, 14, scene.scale)
    wet = ramp(down, 0.62, 0.95) * scene.behind
    sheen = mirrored(far, 0.66) * colour((0.62, 0.70, 0.78), clip_CTHW)
    ground = mix(dull, 0.62 * dull + 0.62 * sheen * luma(sheen).sqrt(), 0.85 * wet)
    mist = (0.5 + 0.5 * ramp(drift.smooth(SMOOTH), -2.0, 2.0)) * ramp(down, 1.1, 0.0)
    mist = mist * (0.15 + 0.85 * scene.behind)
    misty = mix(ground, colour((0.56, 0.60, 0.64), clip_CTHW), 0.26 * mist)
    shine = 0.5 * desaturate(far, 0.7) + colour((0.40, 0.43, 0.46), clip_CTHW)
    behind = particles.far_rain(drift).clamp(max=0.8) * (0.35 + 0.65 * scene.behind)
    before = particles.rain(drift).clamp(max=0.85)
    rained = mix(mix(misty, 0.9 * shine, behind), shine, before)
    bursts = particles.splashes(drift) * ramp(down, 0.70, 0.80) * scene.behind
    return mix(rained, 0.6 * shine + 0.35, bursts.clamp(max=0.8))


def snow(scene: Scene, drift: DriftingNoise) -> torch.Tensor:
    """Snowfall on a grey day: pale haze, whitened ground and tops, flakes far and near."""
    clip_CTHW, down = scene.clip_CTHW, heights(scene.clip_CTHW)
    cool = desaturate(clip_CTHW, 0.5) * colour((0.60, 0.655, 0.72), clip_CTHW)
    cool = cool + colour((0.045, 0.052, 0.065), clip_CTHW)
    haze = (0.07 + 0.13 * (1 - down)) * (0.4 + 0.9 * scene.behind)
    hazy = mix(cool, colour((0.62, 0.66, 0.72), clip_CTHW), haze)
    smooth = soften(luma(clip_CTHW), 32, scene.scale)
    tops = (ramp(smooth, 0.3, 0.9) * 0.35 + _upward(smooth) * 0.6) * (0.3 + 0.7 * down)
    cover = (tops + 0.62 * ramp(down, 0.72, 1.0) * (0.5 + 0.5 * smooth)).clamp(max=0.85)
    cover = cover * (0.25 + 0.75 * scene.behind)
    white = mix(hazy, colour((0.84, 0.88, 0.94), clip_CTHW), 0.8 * cover)
    flake = colour((0.95, 0.97, 1.0), clip_CTHW)
    far = particles.far_flakes(drift).clamp(max=0.85) * (0.3 + 0.7 * scene.behind)
    near = particles.flakes(drift)
    return mix(mix(white, 0.93 * flake, far), flake, near.clamp(max=0.95))


def _upward(smooth_1THW: torch.Tensor) -> torch.Tensor:
    """Return where brightness rises downwards: the upper edges of things, in [0, 1]."""
    gap = max(1, round(min(smooth_1THW.shape[-2:]) * 0.03))
    padded = functional.pad(smooth_1THW, (0, 0, gap, 0), mode="replicate")
    return ramp(smooth_1THW - padded[..., :-gap, :], 0.02, 0.25)
