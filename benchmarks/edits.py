"""Make edits as `dcgrid edit` makes them: three at once, the same functions from text to frames.

Letters: T frames, H W height/width, C the 3 colours; B C T H W as in dcgrid/models/base.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dcgrid.eval.suites.suite import group_tasks
from dcgrid.flow.noise import draw_noise
from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone, ModelSpec
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.ranking import rank_tries
from dcgrid.pipelines.resolve import ResolvedGrid, resolve_edits
from dcgrid.pipelines.sampling import fill_grid, grid_request


@dataclass(frozen=True, slots=True, kw_only=True)
class EditSettings:
    """How edits are sampled."""

    seed: int = 0
    """Seed of the noise."""
    num_inference_steps: int | None = None
    """Sampling steps; None: the recipe's."""
    guidance_scale: float | None = None
    """Weight of the text; None: the recipe's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeEdit:
    """One edit, and the chance that it was made with."""

    frames_THWC: Tensor
    """What the model makes in the cell that `dcgrid edit` would take, uint8."""
    drift_MFYX: Tensor | None
    """The moving noise of its cell, from which an effect may be rendered; None: all noise is
    white."""


def edit_clip(
    backbone: Backbone,
    given_THWC: Tensor,
    effects: Sequence[str],
    settings: EditSettings,
    progress: Progress,
) -> dict[str, MadeEdit]:
    """Edit a clip, a grid for every three effects; where a grid tries one twice, the best is taken.

    Args:
        backbone: The model, adapter and all.
        given_THWC: The clip, uint8, at the model's size.
        effects: Names of effects.
        settings: Seed and sampler.
        progress: Told of stages and steps.

    Returns:
        For each effect what the model makes, at the size of a cell.
    """
    edits: dict[str, MadeEdit] = {}
    for names in group_tasks(tuple(effects)):
        job = EditJob(
            input=Path(),
            effects=names,
            seed=settings.seed,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
        )
        grid = resolve_edits(job)
        request = grid_request(grid, backbone.spec, [given_THWC], seed=settings.seed)
        cells = fill_grid(backbone, request, progress)
        for edit, tries in zip(grid.edits, grid.tries, strict=True):
            tries_NTHWC = torch.stack([cells[cell] for cell in tries])
            best, _ = rank_tries(given_THWC, tries_NTHWC)[0]
            drift = cell_drift(backbone.spec, given_THWC, grid, settings.seed, tries[best])
            edits[edit.name] = MadeEdit(frames_THWC=tries_NTHWC[best], drift_MFYX=drift)
    return edits


def cell_drift(
    spec: ModelSpec, given_THWC: Tensor, grid: ResolvedGrid, seed: int, cell: int
) -> Tensor | None:
    """Return the moving noise that a cell starts from, MFYX; None if the model's does not move."""
    if not spec.noise_motion:
        return None
    frames, height, width, _ = given_THWC.shape
    size_FYX = (
        (frames - 1) // spec.stride_T + 1,
        height // spec.stride_HW,
        width // spec.stride_HW,
    )
    shape = (1, grid.rows * grid.cols, spec.latent_channels, *size_FYX)
    noise_BKCFYX = draw_noise(shape, seed, motion=spec.noise_motion)
    return noise_BKCFYX[0, cell, -len(spec.noise_motion) :]
