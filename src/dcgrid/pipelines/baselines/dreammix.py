"""DreamMix: learn the clip as a video and as a heap of frames, then generate from the noised clip.

Molad et al. 2023, "Dreamix: Video Diffusion Models are General Video Editors", arXiv 2302.01329.

    learn    video steps             the clip, all of it
             frame steps             its frames as single pictures, in no order
    generate    from x_t = (1-t) x0 + t s e, t = strength, under the edit's text

Differs: a LoRA learns and not the whole model, and there is no cascade: the paper of this program
moved the method to its own transformer in the same way. Instead of masked attention over time, a
frame is a clip of one. The clip is not made coarse before it is noised: cells are small.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns (K = 1 here).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dcgrid.flow.sampler import SlopeFn
from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone
from dcgrid.models.trainable import trainable
from dcgrid.pipelines.baselines.cells import Clip, Steps, clip_text, finish, open_clip
from dcgrid.pipelines.baselines.personal import (
    Draw,
    Example,
    LearnSettings,
    Student,
    adapter_on,
    chance,
    learn,
    some_of,
    still_frames,
)
from dcgrid.pipelines.baselines.sdedit import edited
from dcgrid.pipelines.sampling import GridRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamMixSettings:
    """What is learnt, and where generating starts."""

    learning: LearnSettings
    """Of the LoRA."""
    word: str = "sks"
    """The rare word before every caption."""
    frame_share: float = 0.5
    """Share of the steps that learn single frames; ours."""
    batch: int = 8
    """Frames of such a step."""
    strength: float = 0.8
    """Flow time at which generating starts."""


SETTINGS = DreamMixSettings(learning=LearnSettings(steps=500, learning_rate=1e-4, rank=16))
"""For checkouts; never run at full size."""
MINI = DreamMixSettings(learning=LearnSettings(steps=150, learning_rate=4e-3, rank=16))
"""For the program's own models; the rate as in dreambooth.py."""


def generate(backbone: Backbone, request: GridRequest, progress: Progress) -> dict[int, Tensor]:
    """Learn the clip, then edit it once for every cell; see `fill_grid`.

    Raises:
        UsageError: There is not one given clip, it is longer than a window, or the model cannot
            learn as it is loaded.
        DeviceError: Training ended in no number.
    """
    chosen = MINI if backbone.spec.family == "native" else SETTINGS
    networks = trainable(backbone)
    clip = open_clip(backbone, request, progress)
    student = Student(clip=clip, networks=networks)
    draw = examples(clip, chosen)

    def slope_of(cell: int) -> SlopeFn:
        return clip.edit_slope(cell, f"{chosen.word} {clip_text(request.grid.prompt, cell)}")

    with adapter_on(student, chosen.learning) as parameters:
        on_step = Steps(progress, "training on the clip", chosen.learning.steps)
        groups = [(parameters, chosen.learning.learning_rate)]
        learn(student, groups, draw, chosen.learning, on_step)
        with torch.inference_mode():
            return finish(clip, edited(clip, chosen.strength, progress, slope_of), progress)


def examples(clip: Clip, settings: DreamMixSettings) -> Draw:
    """Return what draws the clip, or some of its frames, under the same text."""
    pictures_NKCFYX = still_frames(clip)
    text = f"{settings.word} {clip.text}"

    def draw(generator: torch.Generator) -> Example:
        if chance(settings.frame_share, generator):
            frames = some_of(pictures_NKCFYX, settings.batch, generator)
            return Example(latents_BKCFYX=frames, text=text)
        return Example(latents_BKCFYX=clip.latents_BKCFYX, text=text)

    return draw
