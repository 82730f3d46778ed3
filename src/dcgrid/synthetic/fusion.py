"""Compositions of the procedural world: an element alone in the dark, and a clip fused with it.

    A: a clip                 B: sparks, fire, smoke, ... on a dark backdrop
    fusion 1: B around A      fusion 2: the same, and B is nearly the only light

A fusion is a function of the pixels of A and B alone, so ground truth exists for any two clips,
and what B does in the fusion is what it does in its own cell.

Letters: C channels, T H W frames/height/width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from dcgrid.models import particles
from dcgrid.models.drift import SMOOTH, SMOOTH_FINE, DriftingNoise
from dcgrid.models.particles import ramp
from dcgrid.synthetic.effects_fields import (
    cell_scale,
    colour,
    distance,
    draw_drift,
    heights,
    luma,
    mix,
    screen,
    soften,
    uniform,
    widths,
)
from dcgrid.synthetic.effects_particles import caustics

BACKDROP = 0.07
"""Brightest backdrop of an element; nearly all light in its clip is its own."""
RELIGHT_CELLS = 6
"""Details along the short side of the light that an element throws on the scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """Something that can surround a subject."""

    name: str
    """Key."""
    phrases: tuple[str, ...]
    """What people call it, each with its article."""
    look: str
    """How it looks alone, for the clause of its own cell."""
    motion: str
    """What it does, in a word or two."""


ELEMENTS: Mapping[str, Element] = MappingProxyType(
    {
        one.name: one
        for one in (
            Element(
                name="sparks",
                phrases=(
                    "a dancing spark effect",
                    "a shower of golden sparks",
                    "a spray of sparks",
                ),
                look="golden sparks flying upward against a dark backdrop",
                motion="spark motion",
            ),
            Element(
                name="fire",
                phrases=("a fire", "a burning flame", "a bonfire"),
                look="orange flames burning against a dark backdrop",
                motion="fire motion",
            ),
            Element(
                name="smoke",
                phrases=("a drift of smoke", "a plume of smoke", "a cloud of smoke"),
                look="pale smoke rising against a dark backdrop",
                motion="smoke motion",
            ),
            Element(
                name="snowflakes",
                phrases=("a fall of snowflakes", "a snowfall", "a flurry of snow"),
                look="white snowflakes falling against a dark backdrop",
                motion="snow motion",
            ),
            Element(
                name="raindrops",
                phrases=("a fall of rain", "a rain shower", "a downpour of rain"),
                look="streaks of rain falling against a dark backdrop",
                motion="rain motion",
            ),
            Element(
                name="ripples",
                phrases=("a ripple of water", "a rippling water light", "a glitter of water"),
                look="blue ripples of light on water against a dark backdrop",
                motion="water motion",
            ),
            Element(
                name="light",
                phrases=("a moving light", "a sweeping beam of light", "a coloured spotlight"),
                look="a coloured light moving across a dark backdrop",
                motion="light motion",
            ),
        )
    }
)
"""Every element that can be drawn."""


def draw_element(
    name: str, like_CTHW: torch.Tensor, seconds_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Draw an element alone on a dark backdrop.

    Args:
        name: Key of `ELEMENTS`.
        like_CTHW: A clip of the size to draw.
        seconds_T: Time of its frames.
        generator: Source of chance, on the CPU.

    Returns:
        RGB of the same shape, in [0, 1].

    Raises:
        ValueError: Unknown name.
    """
    if name not in ELEMENTS:
        raise ValueError(f"unknown element {name!r}; known: {', '.join(ELEMENTS)}")
    scale = cell_scale(like_CTHW)
    drift = DriftingNoise(
        values_MFYX=draw_drift(like_CTHW, seconds_T, generator, scale),
        seconds_T=seconds_T,
        like=like_CTHW,
        scale=scale,
    )
    tint = uniform(generator, (3,), like_CTHW, 0.2, 1.0)[:, None, None, None]
    level = float(uniform(generator, (1,), like_CTHW, 0.0, BACKDROP))
    far = distance(like_CTHW, 0.5, 0.5)
    backdrop_CTHW = (level * tint * (1 - 0.4 * far)).clamp(min=0).expand_as(like_CTHW)
    return screen(backdrop_CTHW, _LIGHTS[name](drift, generator).clamp(0, 1)).clamp(0, 1)


def fuse_around(scene_CTHW: torch.Tensor, element_CTHW: torch.Tensor) -> torch.Tensor:
    """Put an element around a scene: its light falls on the scene, and it is seen in front.

    Args:
        scene_CTHW: Clip A, RGB in [0, 1].
        element_CTHW: Clip B, same shape: an element on a dark backdrop.

    Returns:
        Same shape, in [0, 1].

    Paper: sec. 3.2 (fusion in the bottom row)
    """
    thrown = soften(element_CTHW, RELIGHT_CELLS)
    lit = scene_CTHW * (0.72 + 0.9 * thrown)
    return screen(lit.clamp(max=1), element_CTHW).clamp(0, 1)


def fuse_lit(scene_CTHW: torch.Tensor, element_CTHW: torch.Tensor) -> torch.Tensor:
    """Put an element around a scene of which it is nearly the only light.

    Args:
        scene_CTHW: Clip A, RGB in [0, 1].
        element_CTHW: Clip B, same shape: an element on a dark backdrop.

    Returns:
        Same shape, in [0, 1].

    Paper: sec. 3.2 (fusion in the bottom row)
    """
    thrown = soften(element_CTHW, RELIGHT_CELLS)
    pale = mix(scene_CTHW, luma(scene_CTHW), 0.4)
    lit = pale * (0.30 + 1.6 * thrown)
    return screen(lit.clamp(max=1), element_CTHW).clamp(0, 1)


def _sparks(drift: DriftingNoise, generator: torch.Generator) -> torch.Tensor:
    trails = 1.15 * particles.sparks(drift) + 0.85 * particles.fine_sparks(drift)
    white = (trails - 0.7).clamp(min=0) * colour((0.0, 0.3, 0.7), drift.like)
    return trails * colour((1.0, 0.80, 0.36), drift.like) + white


def _fire(drift: DriftingNoise, generator: torch.Generator) -> torch.Tensor:
    wide = float(uniform(generator, (1,), drift.like, 0.25, 0.6))
    broad, fine = drift.smooth(SMOOTH), drift.smooth(SMOOTH_FINE)
    tongues = particles.folds(drift, broad, fine, speed=10.0, stretch=3.0)
    licks = particles.folds(drift, fine, broad, speed=14.0, stretch=2.0)
    across = ((widths(drift.like) - 0.5 + 0.03 * broad) / wide) ** 2
    low = heights(drift.like)
    # The higher, the more ragged.
    ragged = (0.42 * tongues + 0.18 * licks) * (1.1 - 0.8 * low)
    heat = 1.75 * low - 0.75 - 0.9 * across + 0.12 * broad + ragged
    flame = ramp(heat, -0.05, 0.6) * colour((1.0, 0.0, 0.0), drift.like)
    flame = flame + ramp(heat, 0.1, 0.9) * colour((0.0, 0.52, 0.05), drift.like)
    core = ramp(heat, 0.6, 1.5) * colour((0.2, 0.42, 0.40), drift.like)
    embers = particles.embers(drift)
    return flame + core + embers * colour((1.0, 0.62, 0.20), drift.like)


def _smoke(drift: DriftingNoise, generator: torch.Generator) -> torch.Tensor:
    density, light = particles.smoke(drift)
    grey = uniform(generator, (1,), drift.like, 0.55, 0.8)
    thick = ramp(density, 0.25, 0.9) * (0.25 + 0.95 * light)
    return thick * grey * colour((1.0, 0.98, 0.95), drift.like)


def _snowflakes(drift: DriftingNoise, generator: torch.Generator) -> torch.Tensor:
    flakes = particles.far_flakes(drift) + particles.flakes(drift)
    return flakes.clamp(max=0.95) * colour((0.98, 0.99, 1.0), drift.like)


def _raindrops(drift: DriftingNoise, generator: torch.Generator) -> torch.Tensor:
    streaks = particles.rain(drift) + particles.far_rain(drift)
    # Brighter than over a clip: nothing is behind them, and thin drops fade at the size of a cell.
    return (1.5 * streaks).clamp(max=0.8) * colour((0.86, 0.91, 0.97), drift.like)


def _ripples(drift: DriftingNoise, generator: torch.Generator) -> torch.Tensor:
    net = caustics(drift, 0.2, 0.3)
    return net * ramp(heights(drift.like), 0.1, 0.9) * colour((0.35, 0.75, 0.95), drift.like)


def _light(drift: DriftingNoise, generator: torch.Generator) -> torch.Tensor:
    from_x, to_x, y, size = uniform(generator, (4,), drift.like, 0.0, 1.0).tolist()
    hue = uniform(generator, (3,), drift.like, 0.1, 1.0)
    hue = (hue / hue.max())[:, None, None, None]
    share_T = torch.linspace(0, 1, len(drift.seconds_T), device=drift.like.device)
    x_T11 = (from_x + (to_x - from_x) * share_T)[:, None, None]
    away = distance(drift.like, y, x_T11)
    return torch.exp(-((away / (0.25 + 0.4 * size)) ** 2)) * hue


_LIGHTS: Mapping[str, Callable[[DriftingNoise, torch.Generator], torch.Tensor]] = MappingProxyType(
    {
        "sparks": _sparks,
        "fire": _fire,
        "smoke": _smoke,
        "snowflakes": _snowflakes,
        "raindrops": _raindrops,
        "ripples": _ripples,
        "light": _light,
    }
)
