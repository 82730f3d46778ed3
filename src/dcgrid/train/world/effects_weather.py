"""Rain, snow and smoke: random, moving, and lit as part of the scene.

Every renderer takes an RGB clip of shape CTHW in [0, 1], the time of its frames in seconds and the
only source of chance, and returns a clip of the same shape, not yet clamped.
"""

from dataclasses import dataclass

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
    soften,
    splat,
    uniform,
    widths,
)

GOLDEN_STEP = 0.618034
"""A drop that leaves at the bottom comes back this share of the width further on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RainLayer:
    """Streaks at one distance; lengths in units, speed in units per second."""

    density: int
    speed: float
    length: float
    radius: float
    opacity: float


# Far, middle and near; a radius of 0.006 units is a streak about 1.4 pixels wide at 96 pixels.
_RAIN = (
    _RainLayer(density=130, speed=1.1, length=0.085, radius=0.0056, opacity=0.30),
    _RainLayer(density=62, speed=1.6, length=0.17, radius=0.0060, opacity=0.44),
    _RainLayer(density=18, speed=2.1, length=0.32, radius=0.0072, opacity=0.58),
)


def rain(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Rain under an overcast sky: dull cool light, wet ground, slanted falling streaks, mist."""
    down = heights(clip_CTHW)
    dull = desaturate(clip_CTHW, 0.5) * colour((0.56, 0.62, 0.68), clip_CTHW)
    dull = dull + colour((0.05, 0.06, 0.075), clip_CTHW)
    wet = ramp(down, 0.55, 1.0)
    sheen = soften(luma(clip_CTHW), 8) ** 1.5
    ground = dull * (1 - 0.28 * wet) + 0.20 * wet * sheen * colour((0.8, 0.9, 1.0), clip_CTHW)
    mist_drift = Drift(scale=2.0, velocity=(0.1, 0.1), churn=0.4, octaves=2)
    mist = drifting_noise(generator, seconds_T, clip_CTHW, mist_drift) * ramp(down, 1.2, 0.0)
    misty = mix(ground, colour((0.52, 0.56, 0.60), clip_CTHW), 0.35 * mist)
    streaks = _streaks(clip_CTHW, seconds_T, generator).clamp(max=0.8)
    return mix(misty, colour((0.86, 0.91, 0.97), clip_CTHW), streaks)


def _streaks(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Draw all layers of rain as upright streaks, then lean them; opacity of shape THW."""
    tall, wide = extent(clip_CTHW)
    slant = float(uniform(generator, (1,), clip_CTHW, 0.12, 0.30))
    if float(uniform(generator, (1,), clip_CTHW, 0, 1)) < 0.5:
        slant = -slant
    spread = wide + abs(slant) * tall
    step = 1 / min(clip_CTHW.shape[-2:])
    columns = round(spread / step)
    across_U = (torch.arange(columns, device=clip_CTHW.device) + 0.5) * step
    down_H = heights(clip_CTHW)[:, 0] * tall
    upright = torch.zeros((), device=clip_CTHW.device)
    for layer in _RAIN:
        upright = upright + _rain_layer(layer, seconds_T, generator, down_H, across_U)
    # x on the picture -> x in the upright drawing: streaks drift sideways as they fall.
    offset = -slant * heights(clip_CTHW) * tall + max(slant, 0.0) * tall
    place_x = (widths(clip_CTHW) * wide + offset) / spread * 2 - 1
    place = torch.stack((place_x, (heights(clip_CTHW) * 2 - 1).expand_as(place_x)), dim=-1)
    leaning: torch.Tensor = functional.grid_sample(
        upright[None], place[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return leaning[0]


def _rain_layer(
    layer: _RainLayer,
    seconds_T: torch.Tensor,
    generator: torch.Generator,
    down_H: torch.Tensor,
    across_U: torch.Tensor,
) -> torch.Tensor:
    """Draw one layer of upright streaks, opacity of shape THU (a matrix product over drops)."""
    tall, spread = float(down_H[-1] + down_H[0]), float(across_U[-1] + across_U[0])
    count = max(1, round(layer.density * tall * spread))
    phase_N, start_N, vary_N, size_N = uniform(generator, (4, count), down_H, 0, 1)
    speed_N = layer.speed * (0.85 + 0.3 * vary_N)
    length_N = layer.length * (0.7 + 0.6 * size_N)
    radius_N = layer.radius * (0.9 + 0.35 * size_N)
    opacity_N = layer.opacity * (0.6 + 0.4 * vary_N)
    fallen_TN = phase_N + seconds_T[:, None] * speed_N / (tall + 2 * length_N)
    head_TN = fallen_TN.frac() * (tall + 2 * length_N)
    x_TN = ((start_N + GOLDEN_STEP * fallen_TN.floor()).frac()) * spread
    behind_THN = head_TN[:, None] - down_H[:, None]
    along_THN = (behind_THN / length_N).clamp(0, 1)
    streak_THN = (6.75 * along_THN * (1 - along_THN) ** 2) ** 0.6
    columns_TNU = torch.exp(-0.5 * ((across_U - x_TN[..., None]) / radius_N[:, None]) ** 2)
    streaks: torch.Tensor = (streak_THN * opacity_N) @ columns_TNU
    return streaks


def snow(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Snowfall: cool pale light, haze, whitened ground and bright tops, soft swaying flakes."""
    down = heights(clip_CTHW)
    cool = desaturate(clip_CTHW, 0.5) * colour((0.70, 0.76, 0.84), clip_CTHW)
    cool = cool + colour((0.10, 0.115, 0.13), clip_CTHW)
    hazy = mix(cool, colour((0.72, 0.77, 0.83), clip_CTHW), 0.16 + 0.14 * (1 - down))
    smooth = soften(luma(clip_CTHW), 32)
    tops = (ramp(smooth, 0.3, 0.9) * 0.35 + _upward(smooth) * 0.6) * (0.3 + 0.7 * down)
    cover = (tops + 0.55 * ramp(down, 0.72, 1.0) * (0.5 + 0.5 * smooth)).clamp(max=0.85)
    white = mix(hazy, colour((0.90, 0.94, 0.99), clip_CTHW), cover)
    flakes = _flakes(clip_CTHW, seconds_T, generator).clamp(max=0.95)
    return mix(white, colour((0.98, 0.99, 1.0), clip_CTHW), flakes)


def _upward(smooth_1THW: torch.Tensor) -> torch.Tensor:
    """Return where brightness rises downwards: the upper edges of things, in [0, 1]."""
    gap = max(1, round(min(smooth_1THW.shape[-2:]) * 0.03))
    padded = functional.pad(smooth_1THW, (0, 0, gap, 0), mode="replicate")
    return ramp(smooth_1THW - padded[..., :-gap, :], 0.02, 0.25)


def _flakes(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Draw falling flakes, opacity of shape THW: many small far ones, few large near ones."""
    tall, wide = extent(clip_CTHW)
    count = round(170 * tall * wide)
    phase_N, start_N, size_N, sway_N, vary_N = uniform(generator, (5, count), clip_CTHW, 0, 1)
    near_N = size_N**2.5
    radius_N = 0.0065 + 0.014 * near_N
    margin, time = 0.06, seconds_T[:, None]
    speed_N = (0.16 + 0.26 * near_N) * (0.85 + 0.3 * vary_N)
    fallen_TN = phase_N + time * speed_N / (tall + 2 * margin)
    y_TN = fallen_TN.frac() * (tall + 2 * margin) - margin
    wind = float(uniform(generator, (1,), clip_CTHW, -0.08, 0.08))
    swing_TN = 0.035 * torch.sin(6.28 * (sway_N + time * (0.25 + 0.35 * vary_N)))
    base_TN = start_N + GOLDEN_STEP * fallen_TN.floor() + wind * time / wide
    x_TN = (base_TN - base_TN.floor()) * (wide + 2 * margin) - margin + swing_TN
    weight_TN = (0.65 + 0.3 * vary_N).expand_as(y_TN)
    return splat(y_TN, x_TN, weight_TN, radius_N, clip_CTHW)


def smoke(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Warm grey smoke that rises and drifts, densest near the ground, hiding the scene softly."""
    density, light = _puffs(clip_CTHW, seconds_T, generator, lowest=0.25)
    dull = desaturate(clip_CTHW, 0.35) * colour((0.74, 0.71, 0.68), clip_CTHW)
    body = mix(colour((0.22, 0.21, 0.205), clip_CTHW), colour((0.84, 0.81, 0.77), clip_CTHW), light)
    return mix(dull, body, density)


def purple_smoke(
    clip_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Purple lamp from the left and violet smoke that drifts through its light."""
    near_lamp = ramp(distance(clip_CTHW, 0.4, 0.0), 1.3, 0.0)
    bright = mix(luma(clip_CTHW), clip_CTHW, 0.4)
    ambient = bright * colour((0.40, 0.24, 0.52), clip_CTHW) + colour((0.03, 0.0, 0.05), clip_CTHW)
    lit = ambient + bright * near_lamp * colour((0.75, 0.12, 0.66), clip_CTHW)
    density, light = _puffs(clip_CTHW, seconds_T, generator, lowest=0.15)
    body = mix(colour((0.22, 0.07, 0.34), clip_CTHW), colour((0.88, 0.48, 0.96), clip_CTHW), light)
    return screen(mix(lit, body * (0.65 + 0.45 * near_lamp), 0.9 * density), 0.06 * near_lamp)


def _puffs(
    clip_CTHW: torch.Tensor,
    seconds_T: torch.Tensor,
    generator: torch.Generator,
    *,
    lowest: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Render smoke: opacity and brightness, THW each; `lowest` is the opacity left at the top."""
    side = float(uniform(generator, (1,), clip_CTHW, -0.16, 0.16))
    drift = Drift(scale=2.3, velocity=(-0.14, side), churn=0.35, octaves=3, warp=0.45)
    noise = drifting_noise(generator, seconds_T, clip_CTHW, drift)
    place = lowest + (1 - lowest) * ramp(heights(clip_CTHW), 0.05, 0.95)
    density = 0.84 * ramp(noise + 0.22 * (place - 0.5), 0.36, 0.62) * (0.4 + 0.6 * place)
    # Lit from above: a spot is bright where the smoke just above it is thinner.
    gap = max(1, round(min(clip_CTHW.shape[-2:]) * 0.05))
    above = functional.pad(noise[None], (0, 0, gap, 0), mode="replicate")[0, :, :-gap]
    light = (0.60 + 3.0 * (noise - above) + 0.5 * (noise - 0.5)).clamp(0, 1)
    return density, light
