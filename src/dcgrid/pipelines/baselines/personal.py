"""Learn one clip: a LoRA goes on the loaded model, learns, generates, and comes off again.

    with adapter_on(networks, spec) as parameters:      the base underneath is never written
        learn(student, parameters, draw, settings)
        ...                                              the loaded model generates with the LoRA

Letters: B batch, K cells (1 here), C channels, F Y X latent frames/rows/columns, N frames.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcgrid.adapters.attach import attach_adapter, detach_adapter
from dcgrid.adapters.spec import AdapterSpec, Form, adapter_targets
from dcgrid.errors import DeviceError
from dcgrid.flow.noise import draw_noise
from dcgrid.flow.path import flow_loss, noisy, velocity_target
from dcgrid.flow.sampler import walk
from dcgrid.flow.schedule import TrainingTimes
from dcgrid.grid.coordinates import narrow_cells, widen_cells
from dcgrid.models.base import CellText, TokenPlaces
from dcgrid.models.native.config import PRESETS
from dcgrid.models.text_masking import TokenMasking
from dcgrid.models.trainable import Trainable
from dcgrid.models.trunk import TextReader
from dcgrid.pipelines.baselines.cells import SINGLE, Clip, Steps
from dcgrid.pipelines.sampling import GridSampler, encode_clip, sample_settings
from dcgrid.runtime.device import autocast

ADAPTER = "clip"
"""Name of the LoRA while it is on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnSettings:
    """How a LoRA learns; AdamW at a constant rate, as the papers have it."""

    steps: int
    """Optimiser steps; >= 1."""
    learning_rate: float
    """Of the LoRA."""
    rank: int
    """Of the LoRA; its alpha is the same."""
    weight_decay: float = 0.01
    """AdamW's."""
    clip_norm: float = 1.0
    """Longest gradient."""
    noise_share: float = 0.0
    """Share of the examples that stand at flow time 1, where generating starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What one step learns from."""

    latents_BKCFYX: Tensor
    """Clean latents of clips, or of single frames."""
    text: str
    """Their caption."""
    text_masking: float = 0.0
    """Probability with which each of its tokens is left away, see models/text_masking.py."""


Draw = Callable[[torch.Generator], Example]
"""Draws a example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A clip and the networks that learn it."""

    clip: Clip
    networks: Trainable

    def loss(
        self, example: Example, generator: torch.Generator, noise_share: float = 0.0
    ) -> Tensor:
        """Return the flow-matching loss of an example; noise and times are drawn."""
        spec, data = self.clip.backbone.spec, example.latents_BKCFYX
        seed = int(torch.randint(2**62, (), generator=generator))
        noise = draw_noise(tuple(data.shape), seed, device=data.device, motion=spec.noise_motion)
        times_B = TrainingTimes(shift=spec.time_shift).draw(len(data), generator)
        at_noise_B = torch.rand(len(data), generator=generator) < noise_share
        times_B = times_B.masked_fill(at_noise_B, 1.0).to(data.device)
        time_BKF = times_B[:, None, None].expand(-1, 1, data.shape[3]).contiguous()
        # Clips and single frames, each way that the model is asked in.
        choices = GridSampler(self.clip.backbone, SINGLE, data.shape[3:]).places
        places = choices[int(torch.randint(len(choices), (), generator=generator))]
        scale = self.clip.settings.noise_scale
        share = example.text_masking
        masking = TokenMasking(share=share, generator=generator) if share else None
        noised = noisy(data, noise, time_BKF, scale)
        with autocast(data.device, self.networks.dtype):
            text = self.networks.text.read_rows([[example.text]] * len(data), 1, masking)
        velocity = self._velocity(noised, time_BKF, text, places)
        everywhere = torch.ones_like(time_BKF, dtype=torch.bool)
        return flow_loss(velocity, velocity_target(data, noise, scale), everywhere)

    def _velocity(
        self, noised_BKCFYX: Tensor, time_BKF: Tensor, text: CellText, places: TokenPlaces
    ) -> Tensor:
        networks, patch = self.networks, self.clip.backbone.spec.patch
        offset = places.margin > 0
        shown = widen_cells(noised_BKCFYX, patch) if offset else noised_BKCFYX
        with autocast(noised_BKCFYX.device, networks.dtype):
            found: Tensor = networks.dit(shown, time_BKF, text, places).float()
        return narrow_cells(found, patch) if offset else found


@contextmanager
def adapter_on(
    student: Student, settings: LearnSettings, form: Form = "plain"
) -> Iterator[list[nn.Parameter]]:
    """Keep a fresh LoRA on the networks for as long as the context lasts.

    Yields:
        Its parameters. It changes nothing until it has learnt.
    """
    targets = adapter_targets(PRESETS.get(student.clip.backbone.spec.name))
    network = student.networks.dit.network
    spec = AdapterSpec(
        name=ADAPTER,
        stage="dc",
        form=form,
        rank=settings.rank,
        alpha=settings.rank,
        targets=targets.all,
        layout="1x1",
    )
    parameters = attach_adapter(network, spec, seed=student.clip.request.seed)
    try:
        yield parameters
    finally:
        network.eval()
        detach_adapter(network, ADAPTER)


@contextmanager
def tags_on(text: TextReader, names: Sequence[str]) -> Iterator[list[nn.Parameter]]:
    """Let a text encoder know tags for as long as the context lasts; it forgets none of its own.

    Yields:
        Their embeddings, zero and trainable.
    """
    known = [tag.detach().clone() for tag in text.tags], text.tag_names
    try:
        yield text.add_tags(names)
    finally:
        with torch.no_grad():
            for tag_E, kept_E in zip(text.add_tags(known[1]), known[0], strict=True):
                tag_E.copy_(kept_E).requires_grad_(False)
        text.eval()


def learn(
    student: Student,
    groups: Sequence[tuple[Sequence[nn.Parameter], float]],
    draw: Draw,
    settings: LearnSettings,
    on_step: Steps,
) -> list[float]:
    """Let parameters learn from drawn examples, the same ones for the same seed.

    Args:
        student: What learns, adapter on.
        groups: Parameters and their rates.
        draw: Gives the examples.
        settings: Steps and so on.
        on_step: Told of each step.

    Returns:
        The loss of each step.

    Raises:
        DeviceError: The loss is no number any more.
    """
    optimizer = torch.optim.AdamW(
        [{"params": list(group), "lr": rate} for group, rate in groups],
        betas=(0.9, 0.99),
        weight_decay=settings.weight_decay,
    )
    learning = [parameter for group, _ in groups for parameter in group]
    generator = torch.Generator().manual_seed(student.clip.request.seed)
    losses: list[float] = []
    student.networks.dit.train()
    device = student.clip.backbone.device
    # Dropout draws from torch's own chance, which is left as it was.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(student.clip.request.seed)
        for step in range(settings.steps):
            optimizer.zero_grad(set_to_none=True)
            loss = student.loss(draw(generator), generator, settings.noise_share)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise DeviceError(
                    f"the loss is {losses[-1]} at step {step + 1} of training on the clip",
                    hint="try --dtype fp32",
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, settings.clip_norm)
            optimizer.step()
            on_step()
    student.networks.dit.eval()
    return losses


def still_frames(clip: Clip) -> Tensor:
    """Return the frames of the clip as pictures, each encoded alone: NKCFYX with F = 1."""
    (clip_THWC,) = clip.request.given.values()
    pictures = [encode_clip(clip.backbone, frame_THWC[None]) for frame_THWC in clip_THWC]
    return torch.cat(pictures)[:, None]


def some_of(pictures_NKCFYX: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Draw a batch of pictures in no order."""
    return pictures_NKCFYX[torch.randint(len(pictures_NKCFYX), (batch,), generator=generator)]


def prior_clips(clip: Clip, text: str, steps: int, count: int) -> list[Tensor]:
    """Let the base make clips of a caption from noise alone, before anything is learnt.

    Args:
        clip: Gives model and size.
        text: The caption.
        steps: Sampling steps.
        count: How many clips.
    """
    spec = clip.backbone.spec
    times = sample_settings(spec, steps).schedule.times()
    slope = clip.slope(text, spec.from_text.guidance_scale)
    return [walk(slope, clip.noise(0, turn=-1 - number), times) for number in range(count)]


def chance(share: float, generator: torch.Generator) -> bool:
    """Return True in a share of all cases."""
    return float(torch.rand((), generator=generator)) < share
