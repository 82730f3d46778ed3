"""Score edits of a clip against the effect rendered on it.

    clip -> effect rendered ---------------- truth
    clip -> dcgrid edit -------------------- edit         against truth
    clip -> the same without the adapter --- no adapter   against truth
    truth -> codec ------------------------- ceiling      against truth
    clip ----------------------------------- unedited     against truth
    clip -> effect rendered with other drift -> codec ---- another roll against truth

An effect with chance in it has one right answer too, once the chance is fixed: it is rendered from
the moving noise that the edit started from (docs/decisions/0009).

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from benchmarks.clips import BenchClip
from benchmarks.edits import EditSettings, MadeEdit, edit_clip
from benchmarks.figures import Figures, compare, mean_figures
from benchmarks.models import codec_pass
from dcgrid.io.progress import Progress
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.synthetic.effects import DETERMINISTIC, EFFECT_NAMES, render_effect

EDIT, BARE, CEILING, UNEDITED = "edit", "no adapter", "ceiling", "unedited"
REROLL = "another roll"
# Of the truth where the model has no moving noise, and of the rendering that stands beside it.
_DRIFT, _OTHER_DRIFT = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How near the candidates come to one effect on one clip."""

    clip: str
    """File name of the clip."""
    effect: str
    """Name of the effect."""
    figures: Mapping[str, Figures]
    """Figures of each candidate, by the names at the head of this file."""

    @property
    def is_deterministic(self) -> bool:
        """True: the effect has one right answer."""
        return self.effect in DETERMINISTIC

    def as_json(self) -> dict[str, Any]:
        """Return the score for programs."""
        return {
            "clip": self.clip,
            "effect": self.effect,
            "deterministic": self.is_deterministic,
            "figures": {name: one.as_json() for name, one in self.figures.items()},
        }


def order_effects(names: Sequence[str]) -> tuple[str, ...]:
    """Return effects in the order in which they are measured: the deterministic ones first.

    A grid edits three at once, so the order decides which share a grid; it is always the same.
    """
    known = [name for name in EFFECT_NAMES if name in names]
    return tuple(sorted(known, key=lambda name: name not in DETERMINISTIC))


def render_truth(
    frames_THWC: Tensor,
    effect: str,
    fps: float,
    drift: int | Tensor = _DRIFT,
    matte_THW: Tensor | None = None,
) -> Tensor:
    """Render an effect on a clip as a picture file would hold it.

    Args:
        frames_THWC: The clip, uint8.
        effect: Name of the effect.
        fps: Frames per second of the clip.
        drift: For effects with chance in them: a seed, or the moving noise MFYX itself.
        matte_THW: Where its person is; None: nobody, or not known.

    Returns:
        The clip under the effect, uint8.
    """
    clip_CTHW = rearrange(frames_THWC, "t h w c -> c t h w").float() / 255
    fixed = isinstance(drift, Tensor)
    rendered_CTHW = render_effect(
        effect,
        clip_CTHW,
        generator=torch.Generator().manual_seed(_DRIFT if fixed else drift),
        fps=fps,
        drift_MFYX=drift if fixed else None,
        matte_THW=matte_THW,
    )
    return rearrange((rendered_CTHW * 255).round().to(torch.uint8), "c t h w -> t h w c")


def own_truth(clip: BenchClip, effect: str, edit: MadeEdit, fps: float) -> Tensor:
    """Render the effect with the chance that an edit was made with, uint8."""
    drift = _DRIFT if edit.drift_MFYX is None else edit.drift_MFYX
    return render_truth(clip.frames_THWC, effect, fps, drift, clip.matte_THW)


def measure_clip(
    models: Mapping[str, NetworkBackbone],
    clip: BenchClip,
    effects: Sequence[str],
    settings: EditSettings,
    seeds: int,
    progress: Progress,
) -> list[Score]:
    """Score every effect on one clip.

    Args:
        models: The models to edit with, by candidate name; `EDIT` must be among them.
        clip: The clip.
        effects: Names of effects.
        settings: Sampler values, and the first seed.
        seeds: How many seeds to average the figures over.
        progress: Told of stages and steps.
    """
    codec, given_THWC = models[EDIT], clip.frames_THWC
    fps = codec.spec.fps
    made = {
        name: [
            edit_clip(
                backbone,
                given_THWC,
                effects,
                replace(settings, seed=settings.seed + turn),
                progress,
            )
            for turn in range(seeds)
        ]
        for name, backbone in models.items()
    }
    scores = []
    for effect in effects:
        figures = {
            name: mean_figures(
                [
                    compare(edits[effect].frames_THWC, own_truth(clip, effect, edits[effect], fps))
                    for edits in tries
                ]
            )
            for name, tries in made.items()
        }
        truth_THWC = own_truth(clip, effect, made[EDIT][0][effect], fps)
        figures[CEILING] = compare(codec_pass(codec, truth_THWC), truth_THWC)
        figures[UNEDITED] = compare(given_THWC, truth_THWC)
        if effect not in DETERMINISTIC:
            other_THWC = render_truth(given_THWC, effect, fps, _OTHER_DRIFT, clip.matte_THW)
            figures[REROLL] = compare(codec_pass(codec, other_THWC), truth_THWC)
        scores.append(Score(clip=clip.path.name, effect=effect, figures=figures))
    return scores


def measure_codec(
    codec: NetworkBackbone, clip: BenchClip, effects: Sequence[str]
) -> dict[str, Figures]:
    """Return what the codec leaves of a clip ("" names the clip as it is) and of effects on it."""
    truths = {"": clip.frames_THWC}
    truths |= {
        name: render_truth(clip.frames_THWC, name, codec.spec.fps, matte_THW=clip.matte_THW)
        for name in effects
    }
    return {name: compare(codec_pass(codec, truth), truth) for name, truth in truths.items()}
