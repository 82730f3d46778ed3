"""Paint grids with the networks of a training run, on the path that every command takes.

Letters: K cells, A adapters; THWC is a clip as uint8.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dcgrid.models.loading import model_spec
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.backbone import NativeBackbone, NativeParts
from dcgrid.models.native.config import PRESETS
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.text import TextEncoder
from dcgrid.models.native.upsampler import Upsampler
from dcgrid.pipelines.fill import FillSettings, fill_grid
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.request import GridRequest, grid_request
from dcgrid.pipelines.resolve import resolve
from dcgrid.runtime.device import choose_dtype


class LiveBackbone(NativeBackbone):
    """A native model that is being trained: adapters are attached, not folded in, no upsampler.

    Making one lays the networks to rest and freezes them, as for any backbone; whoever goes on to
    train them puts that back.
    """

    def __init__(
        self,
        model: str,
        dit: DiT,
        text: TextEncoder,
        autoencoder: Autoencoder,
        route_KA: Tensor | None = None,
    ) -> None:
        """Take the networks.

        Args:
            model: Name of the model.
            dit: Transformer, adapters and all.
            text: Text encoder.
            autoencoder: Autoencoder.
            route_KA: Which adapter acts on which cell, where any is routed.
        """
        with torch.device("meta"):
            unused = Upsampler(PRESETS[model].upsampler)
        parts = NativeParts(autoencoder=autoencoder, dit=dit, text=text, upsampler=unused)
        super().__init__(
            replace(model_spec(model), upsample=1), parts, choose_dtype("auto", _device_of(dit))
        )
        self._route_KA = None if route_KA is None else route_KA.to(self.device)

    def velocity(self, *args: Any, **named: Any) -> Tensor:  # noqa: ANN401 - whatever the base takes
        """Predict dx/dt with the routes of the run; see `NativeBackbone.velocity`."""
        return super().velocity(*args, **{"route_KA": self._route_KA, **named})

    def upsample(self, video_BCTHW: Tensor) -> Tensor:
        """Return clips as they are."""
        return video_BCTHW


def paint_cells(
    backbone: LiveBackbone,
    job: GridJob,
    given: Sequence[Tensor],
    size_THW: tuple[int, int, int],
) -> list[Tensor]:
    """Paint the grid that a job asks for, its clips already in memory.

    Args:
        backbone: The model.
        job: Says what the cells show, with which sampler values and seed; its files are not read.
        given: Clips THWC, uint8, in the order of the layout's given cells; empty: the model paints
            these cells, too.
        size_THW: Frames, height and width of a cell.

    Returns:
        All cells in order, THWC, uint8, on the CPU.

    Raises:
        RecipeError: An effect or the layout is unknown or wrong.
        UsageError: The job is for no grid that can be painted.
        LayoutError: Cells of this size cannot be laid out.
    """
    request = _request(backbone, job, given, size_THW)
    settings = FillSettings(seed=job.seed, device=backbone.device)
    filled = fill_grid(backbone, request, settings, _Silent())
    # Clones: what was made in inference mode may not be changed outside.
    painted = {one.cell: one.frames_THWC.clone() for one in filled}
    return [{**request.given, **painted}[cell] for cell in range(request.layout.count)]


def _request(
    backbone: LiveBackbone,
    job: GridJob,
    given: Sequence[Tensor],
    size_THW: tuple[int, int, int],
) -> GridRequest:
    """Return what a job asks of the model, with its clips or without any."""
    grid = resolve(job)
    if given:
        return grid_request(grid, backbone.spec, given)
    blank_THWC = torch.zeros(*size_THW, 3, dtype=torch.uint8)
    request = grid_request(grid, backbone.spec, [blank_THWC] * len(grid.given))
    # The cells that are no longer given are guided as the first edit is.
    scales = dict.fromkeys(grid.given, request.guidance_scale[grid.tries[0][0]])
    return replace(
        request,
        given={},
        size_THW=size_THW,
        guidance_scale={**scales, **request.guidance_scale},
    )


def _device_of(dit: DiT) -> torch.device:
    return dit.patch_in.weight.device


class _Silent:
    """Tells nobody: the run has a bar of its own."""

    def start(self, stage: str, total: int | None = None) -> None:
        """Begin a stage."""

    def update(self, done: int, total: int | None = None) -> None:
        """Tell how many steps are done."""

    def note(self, line: str) -> None:
        """Tell something about the work."""

    def warn(self, line: str) -> None:
        """Tell something that may make the result worse."""
