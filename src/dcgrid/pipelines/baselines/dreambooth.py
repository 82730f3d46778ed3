"""DreamBooth-LoRA: tie the clip to a rare word, then generate the edit of that word from noise.

Ruiz et al. 2023, "DreamBooth", arXiv 2208.12242; as a LoRA: Ryu 2023, github.com/cloneofsimo/lora.

    learn    "sks <caption>"          the clip
             "<caption>"              clips that the base made of it (prior preservation)
    generate    "sks <edit's caption>"   from noise

Differs: the clip is learnt as a video, as the paper of this program does for its comparison; clips
of the prior come in a share of the steps and not in each.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns (B = K = 1 here).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dcgrid.flow.sampler import walk
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
    prior_clips,
)
from dcgrid.pipelines.sampling import GridRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamBoothSettings:
    """What is learnt, and how."""

    learning: LearnSettings
    """Of the LoRA."""
    word: str = "sks"
    """The rare word; `mini` knows it as no word, and so as one that means nothing yet."""
    prior_share: float = 0.2
    """Share of the steps that see a clip of the base's own."""
    caption_dropout: float = 0.1
    """Share of the steps without any text, so that guidance does not lead away from the clip."""
    priors: int = 2
    """How many of these there are."""
    prior_steps: int = 12
    """Sampling steps of each."""


SETTINGS = DreamBoothSettings(learning=LearnSettings(steps=500, learning_rate=1e-4, rank=16))
"""For checkouts: rate of DreamBooth-LoRA; never run at full size."""
MINI = DreamBoothSettings(
    learning=LearnSettings(steps=180, learning_rate=4e-3, rank=16, noise_share=0.4),
    prior_share=0.0,
)
"""For the program's own models: a net of 11 million parameters learns fast, and at 1e-4 it would
hardly move in two minutes. Two fifths of the examples stand at pure noise, as when the base
was trained (`noise_share`, recipes/train/base.toml): nowhere else is there so much to learn. No
prior: the base makes no subject from words alone (`ModelSpec.generates_from_text`), so its own
clips would only teach haze."""


def generate(backbone: Backbone, request: GridRequest, progress: Progress) -> dict[int, Tensor]:
    """Learn the clip, then generate every cell from noise; see `fill_grid`.

    Raises:
        UsageError: There is not one given clip, it is longer than a window, or the model cannot
            learn as it is loaded.
        DeviceError: Training ended in no number.
    """
    chosen = MINI if backbone.spec.family == "native" else SETTINGS
    networks = trainable(backbone)
    clip = open_clip(backbone, request, progress)
    student = Student(clip=clip, networks=networks)
    draw = examples(clip, chosen, progress)
    with adapter_on(student, chosen.learning) as parameters:
        on_step = Steps(progress, "training on the clip", chosen.learning.steps)
        groups = [(parameters, chosen.learning.learning_rate)]
        learn(student, groups, draw, chosen.learning, on_step)
        with torch.inference_mode():
            return finish(clip, generated(clip, f"{chosen.word} ", progress), progress)


def examples(clip: Clip, settings: DreamBoothSettings, progress: Progress) -> Draw:
    """Return what draws the clip under its word, and clips of the base without it."""
    priors: list[Tensor] = []
    if settings.prior_share:
        progress.start("sampling clips of the base", 1)
        priors = prior_clips(clip, clip.text, settings.prior_steps, settings.priors)
        progress.update(1)

    def draw(generator: torch.Generator) -> Example:
        dropped = chance(settings.caption_dropout, generator)
        if chance(settings.prior_share, generator):
            number = int(torch.randint(len(priors), (), generator=generator))
            return Example(latents_BKCFYX=priors[number], text="" if dropped else clip.text)
        text = "" if dropped else f"{settings.word} {clip.text}"
        return Example(latents_BKCFYX=clip.latents_BKCFYX, text=text)

    return draw


def generated(clip: Clip, before: str, progress: Progress) -> Iterator[tuple[int, Tensor]]:
    """Yield the latents of every cell, generated from noise.

    Args:
        clip: The clip, its networks taught.
        before: What stands before the caption of every edit.
        progress: Told of steps.
    """
    times = clip.settings.schedule.times()
    steps = Steps(progress, "sampling", len(clip.cells) * (len(times) - 1))
    for cell in clip.cells:
        slope = clip.edit_slope(cell, before + clip_text(clip.request.grid.prompt, cell))
        yield cell, walk(slope, clip.noise(cell), times, on_step=steps)
