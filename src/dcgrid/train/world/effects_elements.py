"""Water, fire and sparks: random, moving, and lit as part of the scene.

Every renderer takes an RGB clip of shape CTHW in [0, 1], the time of its frames in seconds and the
only source of chance, and returns a clip of the same shape, not yet clamped.
"""

import math

import torch
from torch.nn import functional

from dcgrid.train.world.effects_fields import (
    Drift,
    colour,
    desaturate,
    distance,
    drifting_noise,
    extent,
    heights,
    luma,
    mix,
    ramp,
    screen,
    splat,
    uniform,
    widths,
)

WATERLINE = 0.55
"""Where the water begins, as a share of the height."""
TRAIL_DOTS = 6
"""Dots that make up the trail of one spark."""


def water(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Clear water up to about the middle: bent picture, blue-green tint, caustics, bright line."""
    tall, wide = extent(clip_CTHW)
    phase = uniform(generator, (4,), clip_CTHW, 0, 2 * math.pi)
    time = seconds_T[:, None, None]
    x = widths(clip_CTHW) * wide
    wave = 0.022 * torch.sin(7 * x + 2.6 * time + phase[0])
    wave = wave + 0.012 * torch.sin(15 * x - 3.6 * time + phase[1])
    depth = heights(clip_CTHW) * tall - (WATERLINE * tall + wave)
    below = ramp(depth, -0.006, 0.012)
    bent = _refract(clip_CTHW, depth, time, phase)
    deep = ramp(depth, 0.0, 0.5 * tall)
    tinted = bent * colour((0.42, 0.84, 0.88), clip_CTHW)
    tinted = mix(tinted, colour((0.02, 0.36, 0.44), clip_CTHW), 0.24 + 0.22 * deep)
    caustics = _caustics(clip_CTHW, seconds_T, generator) * (1 - 0.5 * deep)
    tinted = screen(
        tinted, caustics * (0.35 + 0.65 * luma(bent)) * colour((0.50, 0.70, 0.62), clip_CTHW)
    )
    line = torch.exp(-0.5 * ((depth - 0.005) / 0.008) ** 2)
    shadow = torch.exp(-0.5 * ((depth - 0.040) / 0.018) ** 2)
    wet = mix(clip_CTHW * 0.94, tinted * (1 - 0.3 * shadow), below)
    return mix(wet, colour((0.90, 0.99, 1.0), clip_CTHW), 0.8 * line)


def _refract(
    clip_CTHW: torch.Tensor, depth_THW: torch.Tensor, time: torch.Tensor, phase: torch.Tensor
) -> torch.Tensor:
    """Bend the picture below the surface: ripples sway it sideways and a little up and down."""
    tall, wide = extent(clip_CTHW)
    reach = ramp(depth_THW, 0.0, 0.10)
    x, y = widths(clip_CTHW) * wide, heights(clip_CTHW) * tall
    shift_x = 0.022 * torch.sin(20 * y - 3.0 * time + 4 * x + phase[2]) * reach
    shift_y = 0.012 * torch.sin(13 * x + 2.2 * time + 6 * y + phase[3]) * reach
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


def _caustics(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Return a moving net of light, THW in [0, 1]: ridges of soft noise."""
    drift = Drift(scale=7.0, velocity=(0.03, 0.06), churn=1.1, octaves=2, warp=0.12)
    noise = drifting_noise(generator, seconds_T, clip_CTHW, drift)
    patches = Drift(scale=2.5, velocity=(0.0, 0.1), churn=0.6, octaves=1)
    strength = drifting_noise(generator, seconds_T, clip_CTHW, patches)
    ridge = (1 - (noise - 0.5).abs() / 0.26).clamp(0, 1)
    return (0.25 * ridge + 0.75 * ridge**4) * (0.25 + 0.75 * ramp(strength, 0.25, 0.75))


def fire_glow(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Flickering firelight from below: orange near the ground, dark above, a few embers rise."""
    phase = uniform(generator, (3,), clip_CTHW, 0, 2 * math.pi)
    time = seconds_T[:, None, None]
    flicker = 1 + 0.10 * torch.sin(9 * time + phase[0]) + 0.08 * torch.sin(17 * time + phase[1])
    licks = Drift(scale=2.0, velocity=(-0.5, 0.0), churn=1.5, octaves=2)
    uneven = drifting_noise(generator, seconds_T, clip_CTHW, licks)
    height = heights(clip_CTHW)
    glow = ramp(height + 0.35 * (uneven - 0.5), 0.05, 1.1) * flicker
    bright = mix(luma(clip_CTHW), clip_CTHW, 0.45)
    ambient = bright * colour((0.26, 0.17, 0.14), clip_CTHW) + 0.01
    lit = ambient + bright * glow * colour((1.15, 0.52, 0.14), clip_CTHW)
    flame = ramp(height + 0.4 * (uneven - 0.5), 0.72, 1.12) * flicker
    lit = screen(lit, flame.clamp(0, 1) * colour((0.90, 0.40, 0.06), clip_CTHW))
    embers = _embers(clip_CTHW, seconds_T, generator).clamp(max=1)
    return screen(lit, embers * colour((1.0, 0.62, 0.20), clip_CTHW))


def _embers(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Draw glowing dots that rise from the fire and go out on the way, brightness THW."""
    tall, wide = extent(clip_CTHW)
    count = round(26 * wide)
    phase_N, start_N, vary_N, sway_N = uniform(generator, (4, count), clip_CTHW, 0, 1)
    time = seconds_T[:, None]
    life_TN = phase_N + time * (0.25 + 0.3 * vary_N)
    age_TN = life_TN.frac()
    y_TN = tall * (1.02 - 0.85 * age_TN)
    x_TN = (start_N + 0.618034 * life_TN.floor()).frac() * wide
    x_TN = x_TN + 0.05 * torch.sin(6.28 * (sway_N + 0.8 * time * (0.5 + vary_N)))
    weight_TN = (1 - age_TN) ** 0.7 * (0.6 + 0.4 * vary_N)
    return splat(y_TN, x_TN, weight_TN, 0.0065 + 0.004 * vary_N, clip_CTHW)


def sparks(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """A shower of golden sparks thrown out from the middle of a darkened scene they light."""
    spill = torch.exp(-((distance(clip_CTHW, 0.5, 0.5) / 0.48) ** 2))
    dark = desaturate(clip_CTHW, 0.3) * colour((0.36, 0.34, 0.38), clip_CTHW)
    lit = dark + clip_CTHW * spill * colour((0.55, 0.36, 0.12), clip_CTHW)
    trails = _trails(clip_CTHW, seconds_T, generator)
    glow = functional.avg_pool2d(trails[None], 2, ceil_mode=True, count_include_pad=False)
    glow = functional.interpolate(
        glow, size=clip_CTHW.shape[-2:], mode="bilinear", align_corners=False
    )
    gold = trails * colour((1.0, 0.80, 0.36), clip_CTHW)
    gold = gold + (trails - 0.7).clamp(min=0) * colour((0.0, 0.3, 0.7), clip_CTHW)
    return screen(lit, (gold + 0.25 * glow * colour((1.0, 0.5, 0.1), clip_CTHW)).clamp(max=1))


def _trails(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Draw flying sparks with trails, brightness THW: each is a row of dots at earlier moments."""
    tall, wide = extent(clip_CTHW)
    count = round(70 * (tall * wide) ** 0.5)
    phase_N, angle_N, speed_N, vary_N, size_N = uniform(generator, (5, count), clip_CTHW, 0, 1)
    earlier_D = torch.arange(TRAIL_DOTS, device=clip_CTHW.device) / TRAIL_DOTS
    life_TN = phase_N + seconds_T[:, None] * (0.9 + 0.6 * vary_N)
    cycle_TN, age_TN = life_TN.floor(), life_TN.frac()
    moment_TND = (age_TN[..., None] - 0.10 * earlier_D).clamp(min=0)
    angle_TN = 2 * math.pi * (angle_N + 0.618034 * cycle_TN)
    reach_N = 0.35 + 0.6 * speed_N
    flown_TND = 0.05 + 0.10 * size_N[:, None] + reach_N[:, None] * (1 - (1 - moment_TND) ** 1.6)
    y_TND = 0.5 * tall + flown_TND * torch.sin(angle_TN)[..., None] + 0.30 * moment_TND**2
    x_TND = 0.5 * wide + flown_TND * torch.cos(angle_TN)[..., None]
    fade_TN = (1 - age_TN) ** 0.6 * (0.55 + 0.45 * vary_N)
    weight_TND = fade_TN[..., None] * (1 - 0.8 * earlier_D)
    radius_ND = (0.0062 + 0.006 * size_N)[:, None].expand(count, TRAIL_DOTS)
    return splat(
        y_TND.flatten(1), x_TND.flatten(1), weight_TND.flatten(1), radius_ND.flatten(), clip_CTHW
    )
