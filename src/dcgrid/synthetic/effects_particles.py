"""Rain, snow, smoke, water, fire and sparks: random, moving, and lit as part of the scene.

Every renderer takes a scene and its drifting noise, and returns a clip of the same shape, not yet
clamped. Near drops are few, long and blurred; far ones are many, thin and faint. The density of
smoke is the noise's two smooth fields and a fixed texture that they warp and carry along, so that
nothing in it is random but the noise.
"""

import torch
from torch.nn import functional

from dcgrid.models import particles
from dcgrid.models.drift import SMOOTH, SMOOTH_FINE, DriftingNoise
from dcgrid.models.particles import ramp
from dcgrid.models.particles import smoke as smoke_of
from dcgrid.synthetic.effects_fields import (
    Scene,
    colour,
    desaturate,
    distance,
    extent,
    heights,
    luma,
    mirrored,
    mix,
    screen,
    shading,
    soften,
    widths,
)

WATERLINE = 0.58
"""Where the water begins, as a share of the height."""


def water(scene: Scene, drift: DriftingNoise) -> torch.Tensor:
    """Clear water up to about the middle: a dark line of surface, bent picture below, caustics."""
    clip_CTHW = scene.clip_CTHW
    tall, _ = extent(clip_CTHW)
    depth = _depth(scene)
    below = ramp(depth, -0.004, 0.006)
    bent = _refract(scene, depth)
    deep = ramp(depth, 0.0, 0.55 * tall)
    murky = mix(bent, soften(bent, 20, scene.scale), 0.3 + 0.4 * deep)
    tinted = murky * colour((0.34, 0.80, 0.84), clip_CTHW)
    tinted = mix(tinted, colour((0.01, 0.27, 0.36), clip_CTHW), 0.20 + 0.38 * deep)
    net = caustics(drift, 0.15, 0.2) * (1 - 0.7 * deep)
    tinted = screen(
        tinted, net * (0.25 + 0.75 * luma(bent)) * colour((0.50, 0.74, 0.64), clip_CTHW)
    )
    # Seen from just above, the surface is a thick dark bow with the sky in its upper edge.
    under = torch.exp(-0.5 * ((depth - 0.022) / 0.012) ** 2)
    gleam = torch.exp(-0.5 * ((depth - 0.003) / 0.0045) ** 2)
    wet = mix(clip_CTHW * 0.97, tinted * (1 - 0.55 * under), below)
    sky = 0.55 + 0.45 * soften(clip_CTHW, 8, scene.scale)
    lit = mix(wet, sky * colour((0.90, 0.99, 1.0), clip_CTHW), 0.85 * gleam)
    above = ramp(depth, -0.22, 0.0) * (1 - below)
    return screen(lit, above * net * 0.16 * luma(clip_CTHW) * colour((0.9, 1.0, 0.95), clip_CTHW))


def _depth(scene: Scene) -> torch.Tensor:
    """Return how far below the waves of the surface a pixel is, in units, THW."""
    tall, wide = extent(scene.clip_CTHW)
    x, time = widths(scene.clip_CTHW) * wide, scene.seconds_T[:, None, None]
    wave = 0.016 * torch.sin(5.3 * x + 2.2 * time) + 0.010 * torch.sin(11 * x - 3.1 * time + 1.0)
    wave = wave + 0.004 * torch.sin(27 * x + 5.0 * time + 2.0)
    return (heights(scene.clip_CTHW) - WATERLINE) * tall - wave


def _refract(scene: Scene, depth_THW: torch.Tensor) -> torch.Tensor:
    """Bend the picture below the surface: a step sideways, and ripples that sway it."""
    clip_CTHW, time = scene.clip_CTHW, scene.seconds_T[:, None, None]
    tall, wide = extent(clip_CTHW)
    reach = ramp(depth_THW, 0.0, 0.10)
    x, y = widths(clip_CTHW) * wide, heights(clip_CTHW) * tall
    shift_x = (0.020 * torch.sin(20 * y - 3.0 * time + 4 * x) + 0.03) * reach
    shift_x = shift_x + 0.006 * torch.sin(43 * y + 9 * x - 4.1 * time) * reach
    shift_y = 0.012 * torch.sin(13 * x + 2.2 * time + 6 * y + 2.0) * reach
    # Water magnifies what is in it, by a quarter of its depth towards the surface.
    place_x = ((x - 0.5 * wide) * (1 - 0.10 * reach) + 0.5 * wide + shift_x) / wide * 2 - 1
    place_y = (y + shift_y - 0.12 * depth_THW.clamp(min=0)) / tall * 2 - 1
    bent = functional.grid_sample(
        clip_CTHW.transpose(0, 1),
        torch.stack((place_x, place_y), dim=-1),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    return bent.transpose(0, 1)


def caustics(drift: DriftingNoise, soft: float, dim: float) -> torch.Tensor:
    """Return a moving net of light, THW in [0, 1]: ridges of soft noise.

    Args:
        drift: Says where the ridges are.
        soft: Part of the light that falls off slowly beside a ridge.
        dim: Strength where the net is weakest.
    """
    ridge = (1 - drift.smooth(SMOOTH_FINE).abs() / 0.9).clamp(0, 1)
    strength = ramp(drift.smooth(SMOOTH), -1.2, 1.2)
    return (soft * ridge + (1 - soft) * ridge**3) * (dim + (1 - dim) * strength)


def fire_glow(scene: Scene, drift: DriftingNoise) -> torch.Tensor:
    """A fire low on the left: it flickers on what faces it, the far side is in the dark."""
    clip_CTHW = scene.clip_CTHW
    time = scene.seconds_T[:, None, None]
    flicker = 1 + 0.13 * torch.sin(9 * time) + 0.10 * torch.sin(17 * time + 1) * torch.sin(5 * time)
    uneven = 0.10 * drift.smooth(SMOOTH) + 0.07 * drift.smooth(SMOOTH_FINE)
    away = distance(clip_CTHW, 1.05, 0.12)
    reach = torch.exp(-((away / (1.05 + 0.10 * (flicker - 1))) ** 2)) * (1 + 0.8 * uneven)
    facing = shading(scene, up=-0.5, left=1.0)
    bright = mix(luma(clip_CTHW), clip_CTHW, 0.4)
    ambient = bright * colour((0.15, 0.13, 0.17), clip_CTHW) + 0.006
    glow = reach * flicker * (0.35 + 0.65 * facing)
    lit = ambient + bright * glow * colour((1.75, 0.78, 0.24), clip_CTHW)
    tongue = ramp(1.30 - away + 0.55 * uneven, 0.62, 1.35) * flicker
    lit = screen(lit, (0.9 * tongue).clamp(0, 1) * colour((1.0, 0.44, 0.07), clip_CTHW))
    embers = particles.embers(drift) * (0.25 + 0.75 * ramp(away, 1.3, 0.3))
    halo = soften(embers[None], 40, scene.scale)
    lit = screen(lit, (0.9 * halo).clamp(max=1) * colour((0.9, 0.32, 0.04), clip_CTHW))
    return screen(lit, embers.clamp(max=1) * colour((1.0, 0.70, 0.26), clip_CTHW))


def sparks(scene: Scene, drift: DriftingNoise) -> torch.Tensor:
    """A shower of golden sparks with trails that flies up through a dark scene and lights it."""
    clip_CTHW = scene.clip_CTHW
    spill = torch.exp(-((distance(clip_CTHW, 0.9, 0.5) / 0.7) ** 2))
    dark = desaturate(clip_CTHW, 0.3) * colour((0.24, 0.23, 0.28), clip_CTHW)
    facing = shading(scene, up=-0.7, left=0.0)
    lit = dark + clip_CTHW * spill * (0.5 + 0.5 * facing) * colour((0.75, 0.46, 0.15), clip_CTHW)
    near = 0.30 + 0.70 * torch.exp(-((distance(clip_CTHW, 0.85, 0.5) / 0.75) ** 2))
    large = particles.sparks(drift) * near
    fine = particles.fine_sparks(drift) * near * (0.4 + 0.6 * scene.behind)[0]
    trails = 1.15 * large + 0.85 * fine
    halo = soften(trails[None], 48, scene.scale)
    lit = screen(lit, (1.1 * halo).clamp(max=1) * colour((0.85, 0.40, 0.07), clip_CTHW))
    gold = trails.clamp(max=1) * colour((1.0, 0.82, 0.42), clip_CTHW)
    return screen(lit, gold)


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
