"""Rain, snow and smoke: random, moving, and lit as part of the scene.

Every renderer takes an RGB clip of shape CTHW in [0, 1] and the luck of that clip, and returns a
clip of the same shape, not yet clamped.
"""

import torch
from torch.nn import functional

from dcgrid.train.world.effects_fields import (
    colour,
    desaturate,
    distance,
    heights,
    luma,
    mix,
    ramp,
    screen,
    soften,
)
from dcgrid.train.world.luck import (
    FALL,
    FALL_FAST,
    FALL_SLOW,
    SMOOTH,
    SMOOTH_FINE,
    Luck,
    PointLook,
)

# Streaks about two pixels wide in a picture of 96 rows: thinner ones do not survive a codec.
RAIN = PointLook(share=0.055, radius=0.11, length=3.2, lean=0.09, opacity=0.6)
FAR_FLAKES = PointLook(share=0.10, radius=0.14, opacity=0.85)
NEAR_FLAKES = PointLook(share=0.035, radius=0.24, opacity=1.0)


def rain(clip_CTHW: torch.Tensor, luck: Luck) -> torch.Tensor:
    """Rain under an overcast sky: dull cool light, wet ground, slanted falling streaks, mist."""
    down = heights(clip_CTHW)
    dull = desaturate(clip_CTHW, 0.5) * colour((0.56, 0.62, 0.68), clip_CTHW)
    dull = dull + colour((0.05, 0.06, 0.075), clip_CTHW)
    wet = ramp(down, 0.55, 1.0)
    sheen = soften(luma(clip_CTHW), 8, luck.scale) ** 1.5
    ground = dull * (1 - 0.28 * wet) + 0.20 * wet * sheen * colour((0.8, 0.9, 1.0), clip_CTHW)
    mist = ramp(luck.smooth(SMOOTH), -2.0, 2.0) * ramp(down, 1.2, 0.0)
    misty = mix(ground, colour((0.52, 0.56, 0.60), clip_CTHW), 0.35 * mist)
    streaks = luck.points(FALL_FAST, RAIN).clamp(max=0.8)
    return mix(misty, colour((0.86, 0.91, 0.97), clip_CTHW), streaks)


def snow(clip_CTHW: torch.Tensor, luck: Luck) -> torch.Tensor:
    """Snowfall at dusk: cool dim light, haze, whitened ground and tops, flakes far and near."""
    down = heights(clip_CTHW)
    cool = desaturate(clip_CTHW, 0.5) * colour((0.46, 0.52, 0.60), clip_CTHW)
    cool = cool + colour((0.045, 0.055, 0.07), clip_CTHW)
    hazy = mix(cool, colour((0.44, 0.49, 0.56), clip_CTHW), 0.12 + 0.12 * (1 - down))
    smooth = soften(luma(clip_CTHW), 32, luck.scale)
    tops = (ramp(smooth, 0.3, 0.9) * 0.35 + _upward(smooth) * 0.6) * (0.3 + 0.7 * down)
    cover = (tops + 0.55 * ramp(down, 0.72, 1.0) * (0.5 + 0.5 * smooth)).clamp(max=0.85)
    white = mix(hazy, colour((0.76, 0.81, 0.89), clip_CTHW), 0.8 * cover)
    flakes = luck.points(FALL_SLOW, FAR_FLAKES) + luck.points(FALL, NEAR_FLAKES)
    return mix(white, colour((0.98, 0.99, 1.0), clip_CTHW), flakes.clamp(max=0.95))


def _upward(smooth_1THW: torch.Tensor) -> torch.Tensor:
    """Return where brightness rises downwards: the upper edges of things, in [0, 1]."""
    gap = max(1, round(min(smooth_1THW.shape[-2:]) * 0.03))
    padded = functional.pad(smooth_1THW, (0, 0, gap, 0), mode="replicate")
    return ramp(smooth_1THW - padded[..., :-gap, :], 0.02, 0.25)


def smoke(clip_CTHW: torch.Tensor, luck: Luck) -> torch.Tensor:
    """Warm grey smoke that rises and drifts, densest near the ground, hiding the scene softly."""
    density, light = _puffs(clip_CTHW, luck, lowest=0.25)
    dull = desaturate(clip_CTHW, 0.35) * colour((0.74, 0.71, 0.68), clip_CTHW)
    body = mix(colour((0.22, 0.21, 0.205), clip_CTHW), colour((0.84, 0.81, 0.77), clip_CTHW), light)
    return mix(dull, body, density)


def purple_smoke(clip_CTHW: torch.Tensor, luck: Luck) -> torch.Tensor:
    """Purple lamp from the left and violet smoke that drifts through its light."""
    near_lamp = ramp(distance(clip_CTHW, 0.4, 0.0), 1.3, 0.0)
    bright = mix(luma(clip_CTHW), clip_CTHW, 0.4)
    ambient = bright * colour((0.40, 0.24, 0.52), clip_CTHW) + colour((0.03, 0.0, 0.05), clip_CTHW)
    lit = ambient + bright * near_lamp * colour((0.75, 0.12, 0.66), clip_CTHW)
    density, light = _puffs(clip_CTHW, luck, lowest=0.15)
    body = mix(colour((0.22, 0.07, 0.34), clip_CTHW), colour((0.88, 0.48, 0.96), clip_CTHW), light)
    return screen(mix(lit, body * (0.65 + 0.45 * near_lamp), 0.9 * density), 0.06 * near_lamp)


def _puffs(
    clip_CTHW: torch.Tensor, luck: Luck, *, lowest: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Render smoke: opacity and brightness, THW each; `lowest` is the opacity left at the top."""
    noise = 0.5 + 0.13 * luck.smooth(SMOOTH) + 0.06 * luck.smooth(SMOOTH_FINE)
    place = lowest + (1 - lowest) * ramp(heights(clip_CTHW), 0.05, 0.95)
    density = 0.84 * ramp(noise + 0.22 * (place - 0.5), 0.36, 0.62) * (0.4 + 0.6 * place)
    # Lit from above: a spot is bright where the smoke just above it is thinner.
    gap = max(1, round(min(clip_CTHW.shape[-2:]) * 0.05))
    above = functional.pad(noise[None], (0, 0, gap, 0), mode="replicate")[0, :, :-gap]
    light = (0.60 + 3.0 * (noise - above) + 0.5 * (noise - 0.5)).clamp(0, 1)
    return density, light
