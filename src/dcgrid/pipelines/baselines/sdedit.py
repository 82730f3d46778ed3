"""SDEdit: noise the clip as far as flow time `strength`, sample back under the edit's text.

Meng et al. 2022, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential
Equations", arXiv 2108.01073.

    x0 ---- x_t = (1-t) x0 + t s e ---- s e        from t = strength back to 0, under the new text

Differs: a flow model's ODE takes the place of the reverse SDE; and the clip is the whole guide, for
there are no strokes.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns (B = K = 1 here).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcgrid.flow.sampler import OnStep, SlopeFn, walk
from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone
from dcgrid.pipelines.baselines.cells import Clip, Steps, finish, open_clip
from dcgrid.pipelines.sampling import GridRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SDEditSettings:
    """How far the clip is noised."""

    strength: float = 0.6
    """Flow time t0 in [0, 1]; 0 gives the clip back, 1 forgets it."""


SETTINGS = SDEditSettings()
"""What `--method sdedit` does."""


@torch.inference_mode()
def generate(backbone: Backbone, request: GridRequest, progress: Progress) -> dict[int, Tensor]:
    """Edit the clip once for every cell; see `fill_grid`.

    Raises:
        UsageError: There is not one given clip, or it is longer than a window.
    """
    clip = open_clip(backbone, request, progress)
    return finish(clip, edited(clip, SETTINGS.strength, progress, clip.edit_slope), progress)


def edited(
    clip: Clip,
    strength: float,
    progress: Progress,
    slope_of: Callable[[int], SlopeFn],
) -> Iterator[tuple[int, Tensor]]:
    """Yield the edited latents of every cell.

    Args:
        clip: The clip.
        strength: How far it is noised.
        progress: Told of steps.
        slope_of: The guided velocity of a cell's edit.
    """
    times = times_below(clip.settings.schedule.times(), strength)
    steps = Steps(progress, "sampling", len(clip.cells) * (len(times) - 1))
    for cell in clip.cells:
        noised = noised_and_back(
            slope_of(cell), clip.latents_BKCFYX, clip.noise(cell), times, steps
        )
        yield cell, noised


def times_below(times: Sequence[float], strength: float) -> tuple[float, ...]:
    """Return a strength and the times of a schedule that lie below it.

    >>> times_below((1.0, 0.75, 0.5, 0.0), 0.6)
    (0.6, 0.5, 0.0)
    """
    return (strength, *(time for time in times if time < strength))


def noised_and_back(
    slope: SlopeFn,
    latents_BKCFYX: Tensor,
    noise_BKCFYX: Tensor,
    times: Sequence[float],
    on_step: OnStep | None = None,
) -> Tensor:
    """Noise latents to the first of some times and carry them along a slope to the last.

    Args:
        slope: The guided velocity under the edit's text.
        latents_BKCFYX: The clip's latents.
        noise_BKCFYX: Noise of the model's scale.
        times: Falling times, see `times_below`.
        on_step: Told of each step.
    """
    start_BKCFYX = (1 - times[0]) * latents_BKCFYX + times[0] * noise_BKCFYX
    return walk(slope, start_BKCFYX, times, on_step=on_step)
