"""Hands a run's validation grids to the pipelines, each as a job of `edit` or `compose`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dcgrid.pipelines.job import ComposeJob, EditJob
from dcgrid.pipelines.live import LiveBackbone, generate_cells
from dcgrid.train.validation import FROM_TEXT, LiveNetworks, ValidationGrid

_NO_FILE = Path("validation")
"""Stands for the inputs: the clips are in memory."""


def generate_validation(networks: LiveNetworks, grid: ValidationGrid) -> Sequence[torch.Tensor]:
    """Generate a validation grid; see `dcgrid.train.validation.GenerateFn`."""
    shared: dict[str, Any] = {
        "model": networks.model,
        "seed": grid.seed,
        "subject": grid.subject,
        "motion": grid.motion,
        **({} if grid.given else FROM_TEXT),
    }
    job: EditJob | ComposeJob
    if grid.effects:
        job = EditJob(input=_NO_FILE, effects=grid.effects, **shared)
    else:
        job = ComposeJob(
            first=_NO_FILE,
            second=_NO_FILE,
            concept=grid.concept,
            concept_motion=grid.concept_motion,
            **shared,
        )
    backbone = LiveBackbone(
        networks.model, networks.dit, networks.text, networks.autoencoder, networks.route_KA
    )
    backbone.use_given(clean=networks.given_clean, first=networks.dit.given_first)
    backbone.use_sampling(
        noise_scale=networks.noise_scale,
        time_shift=networks.time_shift,
        self_conditioning=networks.self_conditioning,
    )
    return generate_cells(backbone, job, grid.given, grid.size_THW)
