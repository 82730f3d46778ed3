"""Set-and-Sequence: first how the clip looks, from its frames as a set, then how it moves.

Abdal et al. 2025, "Dynamic Concepts Personalization from Single Videos", arXiv 2502.14844.

    stage 1  "[v] <caption>"                    frames in no order     A1 and B1 learn
    stage 2  "[v] in [u] motion, <caption>"     the whole clip         B2 alone learns
    generate    "[v] in [u] motion, <edit>"        from noise             W + A1 (B1 + B2)

The structured LoRA, its dropouts and tags are those of stage `dc` (train/stages/concepts.py),
which does this for many clips at once. Differs: no self-conditioning, which neither `mini` nor Wan
has.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns (K = 1 here).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dcgrid.adapters.attach import learn_part
from dcgrid.adapters.routed import Part
from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone
from dcgrid.models.trainable import trainable
from dcgrid.pipelines.baselines.cells import Steps, finish, open_clip
from dcgrid.pipelines.baselines.dreambooth import generated
from dcgrid.pipelines.baselines.personal import (
    ADAPTER,
    Draw,
    Example,
    LearnSettings,
    Student,
    adapter_on,
    chance,
    learn,
    prior_clips,
    some_of,
    still_frames,
    tags_on,
)
from dcgrid.pipelines.sampling import GridRequest

LOOK, MOTION = "v", "u"
"""The two tags, as the paper names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAndSequenceSettings:
    """What is learnt, and how."""

    set_learning: LearnSettings
    """Of stage 1."""
    sequence_learning: LearnSettings
    """Of stage 2; of the same rank."""
    token_rate: float
    """Rate of the tags' embeddings."""
    set_dropout: float
    """Share of the numbers of B1 that a step leaves out. Table 6 of Set-and-Sequence."""
    sequence_dropout: float
    """The same of B2."""
    text_masking: float = 0.1
    """Probability with which each token of a text is left away."""
    caption_dropout: float = 0.0
    """Share of the steps without any text; ours."""
    prior_share: float = 0.1
    """Share of the steps that see what the base makes of the caption; ours."""
    prior_steps: int = 12
    """Sampling steps of that."""
    batch: int = 8
    """Frames of a step of stage 1."""


_PAPER = LearnSettings(steps=600, learning_rate=1e-4, rank=8, clip_norm=0.05)
_MINI = LearnSettings(steps=100, learning_rate=4e-3, rank=16, noise_share=0.4)

SETTINGS = SetAndSequenceSettings(
    set_learning=_PAPER,
    sequence_learning=replace(_PAPER, steps=900),
    token_rate=1e-5,
    set_dropout=0.8,
    sequence_dropout=0.5,
)
"""The paper's values, for checkouts; never run at full size."""
MINI = SetAndSequenceSettings(
    set_learning=_MINI,
    sequence_learning=replace(_MINI, steps=120),
    token_rate=1e-2,
    set_dropout=0.2,
    sequence_dropout=0.2,
    text_masking=0.0,
    caption_dropout=0.1,
)
"""For the program's own models: rank, masking, dropouts and tags' rate of stage dc's [mini] table
(recipes/train/dc.toml); rate and times as in dreambooth.py."""


def generate(backbone: Backbone, request: GridRequest, progress: Progress) -> dict[int, Tensor]:
    """Learn the clip in two stages, then generate every cell from noise; see `fill_grid`.

    Raises:
        UsageError: There is not one given clip, it is longer than a window, or the model cannot
            learn as it is loaded.
        DeviceError: Training ended in no number.
    """
    chosen = MINI if backbone.spec.family == "native" else SETTINGS
    networks = trainable(backbone)
    clip = open_clip(backbone, request, progress)
    student = Student(clip=clip, networks=networks)
    course = Course.of(student, chosen, progress)
    with (
        tags_on(networks.text, (LOOK, MOTION)) as tags,
        adapter_on(student, chosen.set_learning, "structured"),
    ):
        total = chosen.set_learning.steps + chosen.sequence_learning.steps
        on_step = Steps(progress, "training on the clip", total)
        course.learn("appearance", tags[:1], on_step)
        course.learn("motion", tags[1:], on_step)
        reading = replace(clip, read=lambda text: networks.text.read_rows([[text]], cells=1))
        with torch.inference_mode():
            return finish(clip, generated(reading, f"{_moving()} ", progress), progress)


def _moving() -> str:
    return f"[{LOOK}] in [{MOTION}] motion,"


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Both stages, and what they learn from."""

    student: Student
    settings: SetAndSequenceSettings
    pictures_NKCFYX: Tensor
    """The clip's frames, each encoded alone."""
    prior_BKCFYX: Tensor
    """What the base makes of the caption."""

    @classmethod
    def of(cls, student: Student, settings: SetAndSequenceSettings, progress: Progress) -> "Course":
        """Encode the frames and let the base make its own clip, before anything is learnt."""
        clip = student.clip
        progress.start("sampling clips of the base", 1)
        (prior_BKCFYX,) = prior_clips(clip, clip.text, settings.prior_steps, 1)
        progress.update(1)
        return cls(
            student=student,
            settings=settings,
            pictures_NKCFYX=still_frames(clip),
            prior_BKCFYX=prior_BKCFYX,
        )

    def learn(self, part: Part, tags: Sequence[nn.Parameter], on_step: Steps) -> list[float]:
        """Learn one stage; all that belongs to the other is frozen. Return its losses."""
        looks = part == "appearance"
        chosen = self.settings
        learning = chosen.set_learning if looks else chosen.sequence_learning
        dropout = chosen.set_dropout if looks else chosen.sequence_dropout
        network = self.student.networks.dit.network
        parameters = learn_part(network, ADAPTER, part, dropout)
        for tag_E in self.student.networks.text.tags:
            tag_E.requires_grad_(any(tag_E is one for one in tags))
        groups = [(parameters, learning.learning_rate), (tags, chosen.token_rate)]
        draw = self.set_examples() if looks else self.sequence_examples()
        return learn(self.student, groups, draw, learning, on_step)

    def set_examples(self) -> Draw:
        """Return what draws frames as a set."""
        first_BKCFYX = self.prior_BKCFYX[:, :, :, :1]
        return self._examples(
            lambda generator: some_of(self.pictures_NKCFYX, self.settings.batch, generator),
            first_BKCFYX,
            f"[{LOOK}] {self.student.clip.text}",
        )

    def sequence_examples(self) -> Draw:
        """Return what draws the whole clip."""
        clip = self.student.clip
        text = f"{_moving()} {clip.text}"
        return self._examples(lambda _: clip.latents_BKCFYX, self.prior_BKCFYX, text)

    def _examples(
        self, draw_own: Callable[[torch.Generator], Tensor], prior_BKCFYX: Tensor, text: str
    ) -> Draw:
        """Return what draws the clip's own, or the base's."""
        clip, settings = self.student.clip, self.settings

        def draw(generator: torch.Generator) -> Example:
            dropped = chance(settings.caption_dropout, generator)
            of_prior = chance(settings.prior_share, generator)
            latents = prior_BKCFYX if of_prior else draw_own(generator)
            own = clip.text if of_prior else text
            return Example(
                latents_BKCFYX=latents,
                text="" if dropped else own,
                text_masking=settings.text_masking,
            )

        return draw
