"""Fill a grid: one given clip and a text in, the filled cells' clips out.

Letters: B batch (1 here), K cells, N filled cells, S text segments, C channels, T H W pixel
frames/height/width, F Y X latent frames/rows/columns; THWC is a clip as uint8.

    clip -> encode -> [given | noise noise noise] -> sample -> decode, upsample -> clips

Every pipeline ends here; edit.py is the one to read before.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from dcgrid.flow.noise import draw_noise
from dcgrid.flow.sampler import SampleSettings, combine_guidance, sample
from dcgrid.flow.schedule import Schedule
from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.grid.masks import fill_mask
from dcgrid.grid.modes import Routing
from dcgrid.grid.visibility import visible_segments
from dcgrid.models.base import Backbone, CellText, ModelSpec, TokenPlaces
from dcgrid.pipelines.job import ResolvedEdits
from dcgrid.pipelines.progress import Progress

VelocityFn = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledCell:
    """One cell that the model painted."""

    cell: int
    """Index of the cell, row-major."""
    frames_THWC: Tensor
    """Its clip after upsampling, uint8, on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillSettings:
    """How to fill, apart from what."""

    seed: int
    """Seed of the noise."""
    device: torch.device
    """Where the model is."""


@torch.inference_mode()
def fill_grid(
    backbone: Backbone,
    given_THWC: Tensor,
    grid: ResolvedEdits,
    settings: FillSettings,
    progress: Progress,
) -> list[FilledCell]:
    """Paint every cell but the given one.

    Args:
        backbone: The model, adapter and all.
        given_THWC: The given clip, uint8, of a length and size that the model takes.
        grid: Layout, text and sampler values.
        settings: Seed and device.
        progress: Told of stages and steps.

    Returns:
        The painted cells in order, each decoded and upsampled on its own.

    Raises:
        LayoutError: The layout does not fit the text.

    Paper: sec. 3.3-3.4
    """
    layout = GridLayout(rows=grid.rows, cols=grid.cols)
    fill_K = fill_mask(layout, [grid.given])
    progress.start("encoding the clip", 1)
    latents_BCFYX = backbone.encode(to_model_range(given_THWC).to(settings.device)).float()
    cells_BKCFYX = torch.zeros(1, layout.count, *latents_BCFYX.shape[1:], device=settings.device)
    cells_BKCFYX[:, grid.given] = latents_BCFYX
    noise_BKCFYX = draw_noise(
        tuple(cells_BKCFYX.shape),
        settings.seed,
        device=settings.device,
        motion=backbone.spec.noise_motion,
    )
    places = token_places(backbone.spec, layout, tuple(latents_BCFYX.shape[2:]))
    progress.start("sampling", grid.num_inference_steps)
    filled_BKCFYX = sample(
        _guided_velocity(backbone, grid, layout, _to(places, settings.device)),
        cells_BKCFYX,
        noise_BKCFYX,
        fill_K,
        sample_settings(backbone, grid),
        progress.update,
    )
    return _decode(backbone, filled_BKCFYX, fill_K, progress)


def sample_settings(backbone: Backbone, grid: ResolvedEdits) -> SampleSettings:
    """Return the sampler's settings: the recipe's where it says so, else the model's."""
    spec = backbone.spec
    asked = [edit.noise_scale for edit in grid.edits if edit.noise_scale is not None]
    return SampleSettings(
        schedule=Schedule(num_inference_steps=grid.num_inference_steps, shift=spec.time_shift),
        # One noise for the whole grid, so one scale: the first edit that names one decides.
        noise_scale=asked[0] if asked else spec.noise_scale,
        given="clean" if spec.per_cell_time else "replace",
    )


def token_places(spec: ModelSpec, layout: GridLayout, size_FYX: tuple[int, ...]) -> TokenPlaces:
    """Return where the tokens of a grid stand, for cells of F x Y x X latents.

    Raises:
        LayoutError: Cells of this size overlap at the model's pitch.
    """
    frames, rows, cols = (size // patch for size, patch in zip(size_FYX, spec.patch, strict=True))
    shape = TokenShape(frames=frames, rows=rows, cols=cols)
    return TokenPlaces(
        coordinates_S3=token_coordinates(layout, shape, spec.cell_pitch),
        position_S=grid_positions(layout, shape),
    )


def to_model_range(frames_THWC: Tensor) -> Tensor:
    """Turn a uint8 clip into video_BCTHW in [-1, 1], float32, B = 1."""
    return rearrange(frames_THWC, "t h w c -> 1 c t h w").float() / 127.5 - 1


def to_frames(video_BCTHW: Tensor) -> Tensor:
    """Turn video in [-1, 1], B = 1, into a uint8 clip on the CPU, rounded to nearest."""
    scaled = (video_BCTHW.float() + 1) * 127.5
    return rearrange(scaled.round().clamp(0, 255).to(torch.uint8), "1 c t h w -> t h w c").cpu()


def _decode(
    backbone: Backbone, filled_BKCFYX: Tensor, fill_K: Tensor, progress: Progress
) -> list[FilledCell]:
    """Decode the painted cells one after another: all at once would need their memory together."""
    cells = [int(cell) for cell in fill_K.nonzero()]
    progress.start("decoding", len(cells))
    results: list[FilledCell] = []
    for cell in cells:
        video_BCTHW = backbone.upsample(backbone.decode(filled_BKCFYX[:, cell]))
        results.append(FilledCell(cell=cell, frames_THWC=to_frames(video_BCTHW)))
        progress.update(len(results))
    return results


def _to(places: TokenPlaces, device: torch.device) -> TokenPlaces:
    return TokenPlaces(
        coordinates_S3=places.coordinates_S3.to(device), position_S=places.position_S.to(device)
    )


def _guided_velocity(
    backbone: Backbone, grid: ResolvedEdits, layout: GridLayout, places: TokenPlaces
) -> VelocityFn:
    """Return the velocity with guidance; each edit may have a scale of its own."""

    def steered(text: CellText) -> VelocityFn:
        return lambda cells_BKCFYX, time_BKF: backbone.velocity(
            cells_BKCFYX, time_BKF, text, places
        )

    text = backbone.encode_text([grid.prompt], [_visible_rows(backbone.spec, grid, layout)])
    scales = {cell: grid.edits[index].guidance_scale for cell, index in _painted(grid)}
    if all(scale == 1 for scale in scales.values()):
        return steered(text)
    away = backbone.encode_text([grid.negative_prompt], [_negative_rows(backbone.spec, grid)])
    conditional, unconditional = steered(text), steered(away)
    masks = {
        scale: torch.tensor([scales.get(cell) == scale for cell in range(layout.count)])
        for scale in set(scales.values())
    }

    def guided(cells_BKCFYX: Tensor, time_BKF: Tensor) -> Tensor:
        velocity_BKCFYX = conditional(cells_BKCFYX, time_BKF)
        away_BKCFYX = unconditional(cells_BKCFYX, time_BKF)
        # The masks do not overlap, so each cell is guided once, by its own scale.
        for scale, mask_K in masks.items():
            velocity_BKCFYX = combine_guidance(velocity_BKCFYX, away_BKCFYX, scale, mask_K)
        return velocity_BKCFYX

    return guided


def _visible_rows(
    spec: ModelSpec, grid: ResolvedEdits, layout: GridLayout
) -> tuple[tuple[bool, ...], ...]:
    """Return visible_KS of the grid's text, narrowed for models that need it narrow."""
    rows = visible_segments(grid.prompt, layout, Routing())
    if not spec.own_clause_only:
        return rows
    owners = [segment.cell for segment in grid.prompt.segments]
    return tuple(
        tuple(seen and owner in (None, cell) for seen, owner in zip(row, owners, strict=True))
        for cell, row in enumerate(rows)
    )


def _painted(grid: ResolvedEdits) -> list[tuple[int, int]]:
    return [(cell, index) for cell, index in enumerate(grid.edit_of_cell) if index is not None]


def _negative_rows(spec: ModelSpec, grid: ResolvedEdits) -> tuple[tuple[bool, ...], ...]:
    """Return visible_KS of the negative text: each cell reads that of its own edit, or nothing."""
    return tuple(
        tuple(spec.negative_text and owner == index for owner in grid.negative_owners)
        for index in grid.edit_of_cell
    )
