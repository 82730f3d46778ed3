"""Effects of light and grade: pure functions of the pixels, smooth enough for a small network.

Every renderer takes a scene and returns a clip of its shape, not yet clamped. Nothing here is
random.
"""

import math

import torch
from torch.nn import functional

from dcgrid.models.particles import ramp
from dcgrid.synthetic.effects_fields import (
    Scene,
    colour,
    desaturate,
    distance,
    extent,
    heights,
    luma,
    mix,
    screen,
    soften,
    vignette,
    widths,
)

RIM_ROWS = 64
"""Rows on which rims of light are found: a rim is then about 1.5 % of the short side wide."""


def night(scene: Scene) -> torch.Tensor:
    """Moonlit night: dark, blue, highlights compressed, corners darker."""
    clip_CTHW = scene.clip_CTHW
    grey = desaturate(clip_CTHW, 0.55)
    dim = grey**1.25 / (1 + 0.9 * grey)
    lit = dim * colour((0.40, 0.56, 0.92), clip_CTHW) + colour((0.008, 0.016, 0.045), clip_CTHW)
    return lit * vignette(clip_CTHW, 0.55)


def violet_night(scene: Scene) -> torch.Tensor:
    """Night under violet sky light: dark, shadows lifted to violet, pink on the right."""
    clip_CTHW = scene.clip_CTHW
    grey = desaturate(clip_CTHW, 0.6)
    dim = grey**1.15 / (1 + 0.5 * grey)
    sky = ramp(distance(clip_CTHW, 0.1, 0.9), 1.3, 0.0)
    ambient = dim * colour((0.36, 0.20, 0.74), clip_CTHW) + colour((0.045, 0.015, 0.115), clip_CTHW)
    key = dim * colour((0.46, 0.10, 0.30), clip_CTHW) + colour((0.07, 0.01, 0.08), clip_CTHW)
    return (ambient + key * sky) * vignette(clip_CTHW, 0.45)


def noir(scene: Scene) -> torch.Tensor:
    """Film noir: black and white, strong contrast, dark corners."""
    clip_CTHW = scene.clip_CTHW
    bright = luma(clip_CTHW)
    curve = torch.sigmoid((bright - 0.45) * 8)
    low, high = 1 / (1 + math.exp(0.45 * 8)), 1 / (1 + math.exp(-0.55 * 8))
    toned = (curve - low) / (high - low)
    return (toned * vignette(clip_CTHW, 0.6)).expand_as(clip_CTHW)


def blue_light(scene: Scene) -> torch.Tensor:
    """Blue stage light from the left."""
    clip_CTHW = scene.clip_CTHW
    return _stage_light(clip_CTHW, (0.10, 0.38, 1.15), (0.01, 0.015, 0.07), from_right=False)


def red_light(scene: Scene) -> torch.Tensor:
    """Red stage light from the right."""
    clip_CTHW = scene.clip_CTHW
    return _stage_light(clip_CTHW, (1.15, 0.14, 0.10), (0.06, 0.006, 0.012), from_right=True)


def _stage_light(
    clip_CTHW: torch.Tensor,
    light: tuple[float, float, float],
    shadow: tuple[float, float, float],
    *,
    from_right: bool,
) -> torch.Tensor:
    """Light the scene with one coloured lamp: highlights go paler, the far side falls dark."""
    across = widths(clip_CTHW) if from_right else 1 - widths(clip_CTHW)
    power = 0.35 + 0.85 * ramp(across - 0.25 * (heights(clip_CTHW) - 0.5), 0.0, 1.0)
    bright = mix(luma(clip_CTHW), clip_CTHW, 0.2)
    lit = bright**1.2 * power
    hot = lit**3 * 0.35
    return lit * colour(light, clip_CTHW) + hot + colour(shadow, clip_CTHW)


def golden_hour(scene: Scene) -> torch.Tensor:
    """Low warm sun from the right: golden highlights, long soft gradient, brownish shadows."""
    clip_CTHW = scene.clip_CTHW
    away = distance(clip_CTHW, 0.3, 1.05)
    sun = torch.exp(-((away / 0.75) ** 2))
    warm = desaturate(clip_CTHW, 0.25)
    toned = warm**1.1 * colour((1.06, 0.80, 0.50), clip_CTHW)
    lit = toned * (0.72 + 0.55 * sun) + colour((0.05, 0.025, 0.015), clip_CTHW)
    gleam = luma(clip_CTHW) ** 2 * colour((0.22, 0.13, 0.0), clip_CTHW)
    return screen(screen(lit, gleam), sun * colour((0.62, 0.38, 0.10), clip_CTHW))


def backlight(scene: Scene) -> torch.Tensor:
    """A low sun behind the subject: rims along hair and shoulders, a dimmed front, warm haze."""
    clip_CTHW = scene.clip_CTHW
    sun = colour((1.0, 0.80, 0.50), clip_CTHW)
    # The same sun whether or not somebody stands before it: what a model can't know is then
    # only what stands in front, not where the light is.
    behind = scene.behind if scene.matte_1THW is not None else _far(scene)
    front = clip_CTHW**1.05 * colour((0.62, 0.54, 0.52), clip_CTHW)
    away = distance(clip_CTHW, 0.16, 0.5)
    halo = torch.exp(-((away / 0.75) ** 2))
    room = clip_CTHW * colour((0.95, 0.80, 0.62), clip_CTHW)
    room = screen(screen(room, (0.12 + 0.62 * halo) * sun), 0.35 * halo**3)
    rim = _outline(behind, scene) * (0.55 + 0.45 * halo)
    wrap = soften(behind, 12, scene.scale)
    subject = screen(front, 0.16 * wrap * halo * sun)
    subject = screen(subject, rim * colour((1.0, 0.88, 0.66), clip_CTHW))
    return mix(subject, room, behind)


def _far(scene: Scene) -> torch.Tensor:
    """Return how far from the camera each pixel is, 1THW in [0, 1], where no matte says it.

    What is low, in the middle and not bright is taken to be near.
    """
    clip_CTHW = scene.clip_CTHW
    across = ((widths(clip_CTHW) - 0.5) * extent(clip_CTHW)[1] / 0.6) ** 2
    near = torch.exp(-across) * ramp(heights(clip_CTHW), -0.4, 0.45)
    return 1 - near * ramp(soften(luma(clip_CTHW), 16, scene.scale), 1.1, 0.5)


def _outline(behind_1THW: torch.Tensor, scene: Scene) -> torch.Tensor:
    """Return the part of the subject that light from behind and above grazes, 1THW in [0, 1]."""
    open_1THW = soften(behind_1THW, 44, scene.scale)
    gap = max(1, round(2.5 * scene.scale))
    rows, columns = open_1THW.shape[-2:]
    padded = functional.pad(open_1THW, (gap, gap, gap, 0), mode="replicate")
    above = padded[..., :rows, gap : gap + columns]
    beside = torch.maximum(padded[..., gap:, :columns], padded[..., gap:, 2 * gap :])
    grazed = (0.75 * above + 0.5 * beside) * (0.6 + 0.8 * luma(scene.clip_CTHW))
    return ramp(grazed, 0.12, 0.95)


def fog(scene: Scene) -> torch.Tensor:
    """Pale fog: contrast and colour fade, more towards the top (far away), less at the middle."""
    clip_CTHW = scene.clip_CTHW
    tall = extent(clip_CTHW)[0]
    near = torch.exp(-((distance(clip_CTHW, 0.6, 0.5) / (0.45 * tall)) ** 2))
    depth = 0.46 + 0.34 * ramp(heights(clip_CTHW), 1.0, 0.0) - 0.14 * near
    veiled = mix(desaturate(clip_CTHW, 0.55), soften(clip_CTHW, 20, scene.scale), 0.35)
    haze = colour((0.80, 0.825, 0.84), clip_CTHW) - 0.05 * heights(clip_CTHW)
    return mix(veiled, haze, depth)


def underwater(scene: Scene) -> torch.Tensor:
    """The whole scene below water: red absorbed, deeper is darker, shafts of light sway."""
    clip_CTHW = scene.clip_CTHW
    depth = heights(clip_CTHW)
    absorbed = mix(clip_CTHW, soften(clip_CTHW, 24, scene.scale), 0.3) * colour(
        (0.30, 0.78, 0.86), clip_CTHW
    )
    body = mix(colour((0.10, 0.62, 0.68), clip_CTHW), colour((0.0, 0.16, 0.36), clip_CTHW), depth)
    murky = mix(absorbed * (1 - 0.35 * depth), body, 0.08 + 0.20 * depth)
    shafts = _shafts(clip_CTHW, scene.seconds_T) * ramp(depth, 1.0, 0.0) ** 1.2
    return screen(murky, shafts * colour((0.16, 0.34, 0.33), clip_CTHW))


def _shafts(clip_CTHW: torch.Tensor, seconds_T: torch.Tensor) -> torch.Tensor:
    """Return rays that fan out from above the top edge, brightness THW in [0, 1]."""
    tall, wide = extent(clip_CTHW)
    angle = torch.atan2((widths(clip_CTHW) - 0.4) * wide, heights(clip_CTHW) * tall + 0.45)
    time = seconds_T[:, None, None]
    waves = torch.sin(13 * angle + 0.9 * time) + torch.sin(8 * angle - 0.6 * time + 1.3)
    return (0.5 + 0.25 * waves) ** 2
