"""Ground truth of the shipped effects: what each must do to any clip, rendered.

Read `render_effect`. The looks are in effects_light (tone and light, nothing random in them) and
effects_particles (random and moving); effects_fields holds their tools. No depth is
needed: renderers read brightness, height in the picture and local contrast, and the subject's
matte where it is known.
"""

from collections.abc import Callable
from types import MappingProxyType

import torch

from dcgrid.models.drift import DriftingNoise
from dcgrid.synthetic import effects_light, effects_particles
from dcgrid.synthetic.effects_fields import Scene, draw_drift

_ToneRenderer = Callable[[Scene], torch.Tensor]
_ChanceRenderer = Callable[[Scene, DriftingNoise], torch.Tensor]

_TONE: MappingProxyType[str, _ToneRenderer] = MappingProxyType(
    {
        "fog": effects_light.fog,
        "night": effects_light.night,
        "violet-night": effects_light.violet_night,
        "backlight": effects_light.backlight,
        "golden-hour": effects_light.golden_hour,
        "blue-light": effects_light.blue_light,
        "red-light": effects_light.red_light,
        "noir": effects_light.noir,
        "underwater": effects_light.underwater,
    }
)
_CHANCE: MappingProxyType[str, _ChanceRenderer] = MappingProxyType(
    {
        "rain": effects_particles.rain,
        "snow": effects_particles.snow,
        "smoke": effects_particles.smoke,
        "purple-smoke": effects_particles.purple_smoke,
        "water": effects_particles.water,
        "fire-glow": effects_particles.fire_glow,
        "sparks": effects_particles.sparks,
    }
)

EFFECT_NAMES: tuple[str, ...] = (
    "rain", "snow", "smoke", "fog", "night", "violet-night", "purple-smoke", "backlight", "water",
    "fire-glow", "sparks", "golden-hour", "blue-light", "red-light", "noir", "underwater",
)  # fmt: skip
"""All effects; the order is fixed, so that an index may stand for a name."""

DETERMINISTIC: frozenset[str] = frozenset(_TONE)
"""Effects that are a function of the pixels and the time alone and ignore the generator."""


def render_effect(
    name: str,
    clip_CTHW: torch.Tensor,
    *,
    generator: torch.Generator,
    fps: float = 12.0,
    scale: float = 1.0,
    drift_MFYX: torch.Tensor | None = None,
    matte_THW: torch.Tensor | None = None,
) -> torch.Tensor:
    """Render an effect onto a clip.

    Args:
        name: One of `EFFECT_NAMES`.
        clip_CTHW: RGB clip, float, in [0, 1], C = 3, at least one frame and 8 pixels a side.
        generator: The only source of chance; the same state gives the same clip.
        fps: Frames per second of the clip; > 0. Speeds are per second.
        scale: Pixels of the clip for each pixel of a cell; > 0. The look is the same at any scale:
            a clip at scale 4, averaged down, shows what its averaged source does at scale 1.
        drift_MFYX: Where drops, flakes and puffs are; None: drawn with the generator.
        matte_THW: Opacity of the subject in [0, 1], so that smoke passes behind it and light
            falls on its rim; None: not known, smoke is before all and rims are edges of brightness.

    Returns:
        The clip with the effect, same shape, dtype and device, in [0, 1].

    Raises:
        ValueError: Unknown name, or a clip, rate or scale that is none.
    """
    if name not in EFFECT_NAMES:
        raise ValueError(f"unknown effect {name!r}; known: {', '.join(EFFECT_NAMES)}")
    if clip_CTHW.ndim != 4 or clip_CTHW.shape[0] != 3 or not clip_CTHW.is_floating_point():
        raise ValueError(f"clip must be float of shape (3, T, H, W), got {tuple(clip_CTHW.shape)}")
    if clip_CTHW.shape[1] < 1 or min(clip_CTHW.shape[2:]) < 8 or not fps > 0:
        raise ValueError(f"clip {tuple(clip_CTHW.shape)} at {fps} fps is too small to render")
    if not scale > 0:
        raise ValueError(f"scale must be above 0, got {scale}")
    work_CTHW = clip_CTHW.float().clamp(0, 1)
    if matte_THW is not None and matte_THW.shape != clip_CTHW.shape[1:]:
        raise ValueError(f"matte {tuple(matte_THW.shape)} is not of clip {tuple(clip_CTHW.shape)}")
    seconds_T = torch.arange(work_CTHW.shape[1], device=work_CTHW.device) / fps
    scene = Scene(
        clip_CTHW=work_CTHW,
        seconds_T=seconds_T,
        scale=scale,
        matte_1THW=None if matte_THW is None else matte_THW[None].to(work_CTHW).clamp(0, 1),
    )
    if name in _TONE:
        rendered_CTHW = _TONE[name](scene)
    else:
        if drift_MFYX is None:
            drift_MFYX = draw_drift(work_CTHW, seconds_T, generator, scale)
        drift = DriftingNoise(
            values_MFYX=drift_MFYX, seconds_T=seconds_T, like=work_CTHW, scale=scale
        )
        rendered_CTHW = _CHANCE[name](scene, drift)
    return rendered_CTHW.clamp(0, 1).to(clip_CTHW.dtype)
