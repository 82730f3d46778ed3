"""FlowEdit: go from clip to edit along the difference of two velocities; nothing is inverted.

Kulikov et al. 2024, "FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models",
arXiv 2412.08629, algorithm 1. With our path x_t = (1-t) x0 + t s e:

    z_src = (1-t) x0 + t s e                the clip, noised anew at every step
    z_tar = z_fe + z_src - x0               the edit so far, with the same noise
    dz_fe/dt = V_tar(z_tar, t) - V_src(z_src, t)

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns (B = K = 1 here).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dcgrid.flow.sampler import OnStep, SlopeFn, walk
from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone
from dcgrid.pipelines.baselines.cells import Clip, Steps, finish, open_clip
from dcgrid.pipelines.sampling import GridRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowEditSettings:
    """Which steps of the schedule are taken, and how."""

    start_share: float = 24 / 28
    """n_max as a share of the steps; those before are left out. The paper's for FLUX."""
    end_steps: int = 0
    """n_min: last steps that are ordinary sampling under the edit's text."""
    averages: int = 1
    """n_avg: noises a step whose differences are averaged; >= 1."""
    source_share: float = 0.25
    """The clip's guidance as a share of the edit's, at least 1. The paper has 3.5 of 13.5 for SD3
    and 1.5 of 5.5 for FLUX."""


SETTINGS = FlowEditSettings()
"""What `--method flowedit` does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowPath:
    """The part of a schedule that FlowEdit walks."""

    times: tuple[float, ...]
    """Falling times of the difference of velocities."""
    end_times: tuple[float, ...]
    """Falling times of ordinary sampling after them; the first is the last of `times`."""
    averages: int
    """Noises a step."""

    @classmethod
    def of(cls, times: Sequence[float], settings: FlowEditSettings) -> "FlowPath":
        """Cut a schedule from 1 to 0 as settings say."""
        steps = len(times) - 1
        first = steps - max(1, round(settings.start_share * steps))
        turn = max(first, steps - settings.end_steps)
        return cls(
            times=tuple(times[first : turn + 1]),
            end_times=tuple(times[turn:]),
            averages=settings.averages,
        )


@torch.inference_mode()
def generate(backbone: Backbone, request: GridRequest, progress: Progress) -> dict[int, Tensor]:
    """Edit the clip once for every cell; see `fill_grid`.

    Raises:
        UsageError: There is not one given clip, or it is longer than a window.
    """
    clip = open_clip(backbone, request, progress)
    return finish(clip, _edited(clip, progress), progress)


def _edited(clip: Clip, progress: Progress) -> Iterator[tuple[int, Tensor]]:
    path = FlowPath.of(clip.settings.schedule.times(), SETTINGS)
    length = len(path.times) + len(path.end_times) - 2
    steps = Steps(progress, "sampling", len(clip.cells) * length)
    for cell in clip.cells:
        scale = max(1.0, SETTINGS.source_share * clip.request.guidance_scale[cell])
        slopes = clip.slope(clip.text, scale), clip.edit_slope(cell)
        yield cell, flow_edit(slopes, clip.latents_BKCFYX, _noises(clip, cell), path, steps)


def _noises(clip: Clip, cell: int) -> Callable[[int], Tensor]:
    """Return fresh noise for every turn; channels that move are the same in all.

    Where these channels are high a drop falls (docs/decisions/0009): drawn anew at every step, the
    drops of all steps would be mixed to a haze.
    """
    moving = len(clip.backbone.spec.noise_motion)
    still = clip.latents_BKCFYX.shape[2] - moving
    first = clip.noise(cell)

    def noise(turn: int) -> Tensor:
        drawn = clip.noise(cell, turn)
        return torch.cat([drawn[:, :, :still], first[:, :, still:]], dim=2)

    return noise


def flow_edit(
    slopes: tuple[SlopeFn, SlopeFn],
    latents_BKCFYX: Tensor,
    noise_of: Callable[[int], Tensor],
    path: FlowPath,
    on_step: OnStep | None = None,
) -> Tensor:
    """Carry latents from what one velocity says to what another says.

    Args:
        slopes: Guided velocity under the clip's text, and under the edit's.
        latents_BKCFYX: The clip's latents x0.
        noise_of: Noise of the model's scale by turn, counted from 0.
        path: Which times to visit.
        on_step: Told of each step.
    """
    source, target = slopes
    edit_BKCFYX, turn = latents_BKCFYX, 0
    for time, time_next in pairwise(path.times):
        slope = torch.zeros_like(latents_BKCFYX)
        for _ in range(path.averages):
            noisy = (1 - time) * latents_BKCFYX + time * noise_of(turn)
            # In this order it is the same number, bit for bit, as long as nothing was edited.
            beside = noisy + (edit_BKCFYX - latents_BKCFYX)
            slope += (target(beside, time) - source(noisy, time)) / path.averages
            turn += 1
        edit_BKCFYX = edit_BKCFYX + (time_next - time) * slope
        if on_step is not None:
            on_step(turn, turn)
    time = path.end_times[0]
    if time == 0:
        return edit_BKCFYX
    noisy = (1 - time) * latents_BKCFYX + time * noise_of(turn)
    beside = noisy + (edit_BKCFYX - latents_BKCFYX)
    return walk(target, beside, path.end_times, on_step=on_step)
