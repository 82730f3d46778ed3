"""Fill a grid: given clips and a text in, the filled cells' clips out.

Letters: B batch (1 here), K cells, N filled cells, S text segments, C channels, T H W pixel
frames/height/width, F Y X latent frames/rows/columns; THWC is a clip as uint8.

    clips -> encode -> [given | noise noise noise] -> sample -> decode -> clips

Every pipeline ends here; run.py is the one to read before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor

from dcgrid.flow.noise import draw_noise
from dcgrid.flow.sampler import SampleSettings, sample
from dcgrid.flow.schedule import Schedule
from dcgrid.grid.masks import fill_mask, spread_over_frames
from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone, ModelSpec, leaves_out_blocks
from dcgrid.pipelines.guidance import guided_velocity, token_grids
from dcgrid.pipelines.guidance import token_places as token_places
from dcgrid.pipelines.request import GridRequest
from dcgrid.video.pixels import pixels_of_signed, signed_of


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledCell:
    """One cell that the model generated."""

    cell: int
    """Index of the cell, row-major."""
    frames_THWC: Tensor
    """Its clip at the size of a cell, uint8, on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillSettings:
    """How to fill, apart from what."""

    seed: int
    """Seed of the noise."""
    device: torch.device
    """Where the model is."""


GenerateFn: TypeAlias = Callable[[Backbone, GridRequest, FillSettings, Progress], list[FilledCell]]
"""Generates every cell of a grid that is not given, as `fill_grid` does; baselines are others."""


@torch.inference_mode()
def fill_grid(
    backbone: Backbone, request: GridRequest, settings: FillSettings, progress: Progress
) -> list[FilledCell]:
    """Generate every cell that is not given.

    Args:
        backbone: The model, adapter and all.
        request: Given clips (of a length and size that the model takes), text and sampler values.
        settings: Seed and device.
        progress: Told of stages and steps.

    Returns:
        The generated cells in order, each decoded on its own.

    Raises:
        LayoutError: The layout does not fit the text or the given cells.

    Paper: sec. 3.3-3.4
    """
    layout, spec = request.layout, backbone.spec
    fill_K = fill_mask(layout, request.given)
    cells_BKCFYX = _encode_given(backbone, request, settings.device, progress)
    fill_KF = spread_over_frames(fill_K, cells_BKCFYX.shape[3])[0].clone()
    where = request.continuation
    for cell, head_THWC in (where.heads if where else {}).items():
        head_CFYX = _encoded(backbone, head_THWC, settings.device)[0]
        known = head_CFYX.shape[1]
        cells_BKCFYX[:, cell, :, :known] = head_CFYX
        fill_KF[cell, :known] = False
    noise_BKCFYX = draw_noise(
        tuple(cells_BKCFYX.shape),
        settings.seed,
        device=settings.device,
        motion=spec.noise_motion,
        span=(where.first, where.total) if where else None,
    )
    grids = token_grids(backbone, request, tuple(cells_BKCFYX.shape[3:]), settings.device)
    _warn_of_shortcuts(backbone, request, progress)
    progress.start("sampling", request.num_inference_steps)
    filled_BKCFYX = sample(
        guided_velocity(backbone, request, grids),
        cells_BKCFYX,
        noise_BKCFYX,
        fill_KF,
        sample_settings(spec, request.num_inference_steps, request.noise_scale),
        progress.update,
    )
    return _decode(backbone, filled_BKCFYX, fill_K, progress)


def _warn_of_shortcuts(backbone: Backbone, request: GridRequest, progress: Progress) -> None:
    if request.shortcuts.cache_threshold > 0 and not leaves_out_blocks(backbone):
        progress.warn(
            f"model {backbone.spec.name} leaves out no blocks; cache_threshold changes nothing"
        )


def sample_settings(
    spec: ModelSpec, num_inference_steps: int, noise_scale: float | None
) -> SampleSettings:
    """Return the sampler's settings; a noise scale of None is the model's."""
    return SampleSettings(
        schedule=Schedule(num_inference_steps=num_inference_steps, shift=spec.time_shift),
        noise_scale=spec.noise_scale if noise_scale is None else noise_scale,
        given="clean" if spec.per_cell_time else "replace",
    )


def _encode_given(
    backbone: Backbone, request: GridRequest, device: torch.device, progress: Progress
) -> Tensor:
    """Return the grid's latents BKCFYX: the given clips, each encoded alone, and zeros."""
    latents = {}
    if request.given:
        progress.start("encoding the clip", len(request.given))
    for done, (cell, clip_THWC) in enumerate(request.given.items(), start=1):
        latents[cell] = _encoded(backbone, clip_THWC, device)
        progress.update(done)
    if latents:
        _, *shape = next(iter(latents.values())).shape
    else:
        shape = _latent_shape(backbone.spec, request)
    cells_BKCFYX = torch.zeros(1, request.layout.count, *shape, device=device)
    for cell, latents_BCFYX in latents.items():
        cells_BKCFYX[:, cell] = latents_BCFYX
    return cells_BKCFYX


def _latent_shape(spec: ModelSpec, request: GridRequest) -> list[int]:
    """Return C, F, Y, X of a cell of a grid without any given clip."""
    if request.size_THW is None:
        raise ValueError("a grid without a given clip needs its size")
    frames, height, width = request.size_THW
    latent_frames = (frames - 1) // spec.stride_T + 1
    sides = [height // spec.stride_HW, width // spec.stride_HW]
    return [spec.latent_channels, latent_frames, *sides]


def _encoded(backbone: Backbone, clip_THWC: Tensor, device: torch.device) -> Tensor:
    """Return the latents of a clip, BCFYX, float32."""
    return backbone.encode(to_model_range(clip_THWC).to(device)).float()


def to_model_range(frames_THWC: Tensor) -> Tensor:
    """Turn a uint8 clip into video_BCTHW in [-1, 1], float32, B = 1."""
    return signed_of(rearrange(frames_THWC, "t h w c -> 1 c t h w"))


def to_frames(video_BCTHW: Tensor) -> Tensor:
    """Turn video in [-1, 1], B = 1, into a uint8 clip on the CPU, rounded to nearest."""
    return rearrange(pixels_of_signed(video_BCTHW), "1 c t h w -> t h w c").cpu()


def _decode(
    backbone: Backbone, filled_BKCFYX: Tensor, fill_K: Tensor, progress: Progress
) -> list[FilledCell]:
    """Decode the generated cells one after another, to need the memory of one."""
    cells = [int(cell) for cell in fill_K.nonzero()]
    return decode_cells(backbone, [(cell, filled_BKCFYX[:, cell]) for cell in cells], progress)


def decode_cells(
    backbone: Backbone, cells: Sequence[tuple[int, Tensor]], progress: Progress
) -> list[FilledCell]:
    """Decode cells, each given with its latents BCFYX, one after another."""
    progress.start("decoding", len(cells))
    results: list[FilledCell] = []
    for cell, latents_BCFYX in cells:
        video_BCTHW = backbone.decode(latents_BCFYX)
        results.append(FilledCell(cell=cell, frames_THWC=to_frames(video_BCTHW)))
        progress.update(len(results))
    return results
