"""Fill a grid: given clips and a text in, the filled cells' clips out.

Letters: B batch (1 here), K cells, N filled cells, S text segments, C channels, T H W pixel
frames/height/width, F Y X latent frames/rows/columns; THWC is a clip as uint8.

    clips -> encode -> [given | noise noise noise] -> sample -> decode, upsample -> clips

Every pipeline ends here; run.py is the one to read before.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dcgrid.flow.noise import draw_noise
from dcgrid.flow.sampler import SampleSettings, combine_guidance, sample
from dcgrid.flow.schedule import Schedule
from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.grid.masks import fill_mask, spread_over_frames
from dcgrid.grid.offset import MARGIN, narrow_cells, widen_cells
from dcgrid.models.base import Backbone, CellText, Memory, ModelSpec, SeveralTexts, TokenPlaces
from dcgrid.pipelines.progress import Progress
from dcgrid.pipelines.request import GridRequest

VelocityFn = Callable[[Tensor, Tensor], Tensor]
Steered = Callable[[Tensor, Tensor], list[Tensor]]
"""Gives a velocity for each of some texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledCell:
    """One cell that the model painted."""

    cell: int
    """Index of the cell, row-major."""
    frames_THWC: Tensor
    """Its clip after upsampling, uint8, on the CPU."""
    small_THWC: Tensor
    """Its clip before upsampling: what a next window would go on from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillSettings:
    """How to fill, apart from what."""

    seed: int
    """Seed of the noise."""
    device: torch.device
    """Where the model is."""


@torch.inference_mode()
def fill_grid(
    backbone: Backbone, request: GridRequest, settings: FillSettings, progress: Progress
) -> list[FilledCell]:
    """Paint every cell that is not given.

    Args:
        backbone: The model, adapter and all.
        request: Given clips (of a length and size that the model takes), text and sampler values.
        settings: Seed and device.
        progress: Told of stages and steps.

    Returns:
        The painted cells in order, each decoded and upsampled on its own.

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
    grids = _token_grids(spec, layout, tuple(cells_BKCFYX.shape[3:]), settings.device)
    progress.start("sampling", request.num_inference_steps)
    filled_BKCFYX = sample(
        _guided_velocity(backbone, request, grids),
        cells_BKCFYX,
        noise_BKCFYX,
        fill_KF,
        sample_settings(spec, request.num_inference_steps, request.noise_scale),
        progress.update,
    )
    return _decode(backbone, filled_BKCFYX, fill_K, progress)


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


def token_places(
    spec: ModelSpec, layout: GridLayout, size_FYX: tuple[int, ...], margin: float = 0.0
) -> TokenPlaces:
    """Return where the tokens of a grid stand, for cells of F x Y x X latents, margin and all.

    Raises:
        LayoutError: Cells of this size overlap at the model's pitch.
    """
    frames, rows, cols = (size // patch for size, patch in zip(size_FYX, spec.patch, strict=True))
    shape = TokenShape(frames=frames, rows=rows, cols=cols)
    return TokenPlaces(
        coordinates_S3=token_coordinates(layout, shape, spec.cell_pitch),
        position_S=grid_positions(layout, shape),
        margin=margin,
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
        video_BCTHW = backbone.decode(filled_BKCFYX[:, cell])
        large_BCTHW = backbone.upsample(video_BCTHW)
        results.append(
            FilledCell(
                cell=cell, frames_THWC=to_frames(large_BCTHW), small_THWC=to_frames(video_BCTHW)
            )
        )
        progress.update(len(results))
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class _TokenGrid:
    """One grid of tokens, and what the model keeps of it from call to call."""

    places: TokenPlaces
    memory: Memory


def _token_grids(
    spec: ModelSpec, layout: GridLayout, size_FYX: tuple[int, ...], device: torch.device
) -> list[_TokenGrid]:
    """Return the plain tokens and, where the model has them, the offset ones."""
    frames, rows, columns = size_FYX
    grids = [token_places(spec, layout, size_FYX)]
    if spec.offset_tokens:
        wide = (frames, rows + spec.patch[1], columns + spec.patch[2])
        grids.append(token_places(spec, layout, wide, MARGIN))
    return [
        _TokenGrid(
            places=replace(
                places,
                coordinates_S3=places.coordinates_S3.to(device),
                position_S=places.position_S.to(device),
            ),
            memory=Memory(),
        )
        for places in grids
    ]


def _steered(backbone: Backbone, texts: Sequence[CellText], grids: list[_TokenGrid]) -> Steered:
    """Return the velocity under each of some texts: the mean over the grids of tokens."""
    patch = backbone.spec.patch

    def velocities(cells_BKCFYX: Tensor, time_BKF: Tensor) -> list[Tensor]:
        totals = [torch.zeros_like(cells_BKCFYX) for _ in texts]
        for grid in grids:
            offset = grid.places.margin > 0
            shown_BKCFYX = widen_cells(cells_BKCFYX, patch) if offset else cells_BKCFYX
            found = _velocities(backbone, shown_BKCFYX, time_BKF, texts, grid)
            for total_BKCFYX, found_BKCFYX in zip(totals, found, strict=True):
                total_BKCFYX += narrow_cells(found_BKCFYX, patch) if offset else found_BKCFYX
        return [total_BKCFYX / len(grids) for total_BKCFYX in totals]

    return velocities


def _velocities(
    backbone: Backbone,
    cells_BKCFYX: Tensor,
    time_BKF: Tensor,
    texts: Sequence[CellText],
    grid: _TokenGrid,
) -> list[Tensor]:
    """Ask for all texts at once where the model's processes can share them."""
    places, memory = grid.places, grid.memory
    if isinstance(backbone, SeveralTexts):
        return backbone.velocities(cells_BKCFYX, time_BKF, texts, places, memory)
    return [
        backbone.velocity(cells_BKCFYX, time_BKF, text, places, memory=memory) for text in texts
    ]


def _with_text_of(text: CellText, other: CellText, cells: Iterable[int]) -> CellText:
    """Return a text in which some cells read what they read in another one."""
    longest = max(text.valid_BKL.shape[-1], other.valid_BKL.shape[-1])
    tokens, valid = [], []
    for one in (text, other):
        missing = longest - one.valid_BKL.shape[-1]
        tokens.append(functional.pad(one.tokens_BKLE, (0, 0, 0, missing)))
        valid.append(functional.pad(one.valid_BKL, (0, missing)))
    chosen = list(cells)
    tokens[0][:, chosen], valid[0][:, chosen] = tokens[1][:, chosen], valid[1][:, chosen]
    return CellText(tokens_BKLE=tokens[0], valid_BKL=valid[0])


def _guided_velocity(
    backbone: Backbone, request: GridRequest, grids: list[_TokenGrid]
) -> VelocityFn:
    """Return the velocity with guidance; each cell may have a scale of its own."""
    text = backbone.encode_text([request.prompt], [request.visible_rows(backbone.spec)])
    scales = request.guidance_scale
    if all(scale == 1 for scale in scales.values()):
        plain = _steered(backbone, [text], grids)
        return lambda cells_BKCFYX, time_BKF: plain(cells_BKCFYX, time_BKF)[0]
    away = backbone.encode_text([request.negative_prompt], [request.negative_rows(backbone.spec)])
    if backbone.spec.given_first:
        # What is known of given cells serves both branches, so their text is one.
        away = _with_text_of(away, text, request.given)
    both = _steered(backbone, [text, away], grids)
    masks = {
        scale: torch.tensor([scales.get(cell) == scale for cell in range(request.layout.count)])
        for scale in set(scales.values())
    }

    def guided(cells_BKCFYX: Tensor, time_BKF: Tensor) -> Tensor:
        velocity_BKCFYX, away_BKCFYX = both(cells_BKCFYX, time_BKF)
        # The masks do not overlap, so each cell is guided once, by its own scale.
        for scale, mask_K in masks.items():
            velocity_BKCFYX = combine_guidance(velocity_BKCFYX, away_BKCFYX, scale, mask_K)
        return velocity_BKCFYX

    return guided
