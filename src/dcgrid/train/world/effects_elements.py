"""Water, fire and sparks: random, moving, and lit as part of the scene.

Every renderer takes an RGB clip of shape CTHW in [0, 1] and the luck of that clip, and returns a
clip of the same shape, not yet clamped.
"""

import torch
from torch.nn import functional

from dcgrid.train.world.effects_fields import (
    colour,
    desaturate,
    distance,
    enlarge,
    extent,
    heights,
    luma,
    mix,
    ramp,
    screen,
    shrink,
    widths,
)
from dcgrid.train.world.luck import RISE, SMOOTH, SMOOTH_FINE, Luck, PointLook

WATERLINE = 0.55
"""Where the water begins, as a share of the height."""
EMBERS = PointLook(share=0.027, radius=0.11, length=0.5, opacity=1.0)
SPARKS = PointLook(share=0.055, radius=0.11, length=1.1, lean=-0.25, opacity=1.0)


def water(clip_CTHW: torch.Tensor, luck: Luck) -> torch.Tensor:
    """Clear water up to about the middle: bent picture, blue-green tint, caustics, bright line."""
    tall, wide = extent(clip_CTHW)
    time = luck.seconds_T[:, None, None]
    x = widths(clip_CTHW) * wide
    wave = 0.022 * torch.sin(7 * x + 2.6 * time)
    wave = wave + 0.012 * torch.sin(15 * x - 3.6 * time + 1.0)
    depth = heights(clip_CTHW) * tall - (WATERLINE * tall + wave)
    below = ramp(depth, -0.006, 0.012)
    bent = _refract(clip_CTHW, depth, time)
    deep = ramp(depth, 0.0, 0.5 * tall)
    tinted = bent * colour((0.42, 0.84, 0.88), clip_CTHW)
    tinted = mix(tinted, colour((0.02, 0.36, 0.44), clip_CTHW), 0.24 + 0.22 * deep)
    net = caustics(luck, 0.25, 0.25) * (1 - 0.5 * deep)
    tinted = screen(
        tinted, net * (0.35 + 0.65 * luma(bent)) * colour((0.50, 0.70, 0.62), clip_CTHW)
    )
    line = torch.exp(-0.5 * ((depth - 0.005) / 0.008) ** 2)
    shadow = torch.exp(-0.5 * ((depth - 0.040) / 0.018) ** 2)
    wet = mix(clip_CTHW * 0.94, tinted * (1 - 0.3 * shadow), below)
    return mix(wet, colour((0.90, 0.99, 1.0), clip_CTHW), 0.8 * line)


def _refract(clip_CTHW: torch.Tensor, depth_THW: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """Bend the picture below the surface: ripples sway it sideways and a little up and down."""
    tall, wide = extent(clip_CTHW)
    reach = ramp(depth_THW, 0.0, 0.10)
    x, y = widths(clip_CTHW) * wide, heights(clip_CTHW) * tall
    shift_x = 0.022 * torch.sin(20 * y - 3.0 * time + 4 * x) * reach
    shift_y = 0.012 * torch.sin(13 * x + 2.2 * time + 6 * y + 2.0) * reach
    place_x = (x + shift_x) / wide * 2 - 1
    place_y = (y + shift_y) / tall * 2 - 1
    bent = functional.grid_sample(
        clip_CTHW.transpose(0, 1),
        torch.stack((place_x, place_y), dim=-1),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    return bent.transpose(0, 1)


def caustics(luck: Luck, soft: float, dim: float) -> torch.Tensor:
    """Return a moving net of light, THW in [0, 1]: ridges of soft noise.

    Args:
        luck: Says where the ridges are.
        soft: Part of the light that falls off slowly beside a ridge.
        dim: Strength where the net is weakest.
    """
    ridge = (1 - luck.smooth(SMOOTH_FINE).abs() / 0.9).clamp(0, 1)
    strength = ramp(luck.smooth(SMOOTH), -1.2, 1.2)
    return (soft * ridge + (1 - soft) * ridge**3) * (dim + (1 - dim) * strength)


def fire_glow(clip_CTHW: torch.Tensor, luck: Luck) -> torch.Tensor:
    """Flickering firelight from below: orange near the ground, dark above, a few embers rise."""
    time = luck.seconds_T[:, None, None]
    flicker = 1 + 0.10 * torch.sin(9 * time) + 0.08 * torch.sin(17 * time)
    uneven = 0.5 + 0.15 * luck.smooth(SMOOTH) + 0.07 * luck.smooth(SMOOTH_FINE)
    height = heights(clip_CTHW)
    glow = ramp(height + 0.35 * (uneven - 0.5), 0.05, 1.1) * flicker
    bright = mix(luma(clip_CTHW), clip_CTHW, 0.45)
    ambient = bright * colour((0.26, 0.17, 0.14), clip_CTHW) + 0.01
    lit = ambient + bright * glow * colour((1.15, 0.52, 0.14), clip_CTHW)
    flame = ramp(height + 0.4 * (uneven - 0.5), 0.72, 1.12) * flicker
    lit = screen(lit, flame.clamp(0, 1) * colour((0.90, 0.40, 0.06), clip_CTHW))
    embers = luck.points(RISE, EMBERS) * ramp(height, 0.1, 0.8)
    return screen(lit, embers.clamp(max=1) * colour((1.0, 0.62, 0.20), clip_CTHW))


def sparks(clip_CTHW: torch.Tensor, luck: Luck) -> torch.Tensor:
    """A shower of golden sparks that flies up through a darkened scene and lights it."""
    spill = torch.exp(-((distance(clip_CTHW, 0.8, 0.5) / 0.6) ** 2))
    dark = desaturate(clip_CTHW, 0.3) * colour((0.36, 0.34, 0.38), clip_CTHW)
    lit = dark + clip_CTHW * spill * colour((0.55, 0.36, 0.12), clip_CTHW)
    near = 0.35 + 0.65 * torch.exp(-((distance(clip_CTHW, 0.8, 0.5) / 0.75) ** 2))
    trails = luck.points(RISE, SPARKS) * near
    glow = enlarge(shrink(trails[None], 2 * luck.scale), clip_CTHW)
    gold = trails * colour((1.0, 0.80, 0.36), clip_CTHW)
    gold = gold + (trails - 0.7).clamp(min=0) * colour((0.0, 0.3, 0.7), clip_CTHW)
    return screen(lit, (gold + 0.25 * glow * colour((1.0, 0.5, 0.1), clip_CTHW)).clamp(max=1))
