"""Sample a grid: given clips and a text in, the generated cells' clips out. Read `fill_grid`.

    clips -> encode -> [given | noise noise noise] -> sample -> decode -> clips

What a grid is to show is a `GridRequest`, whichever command asks for it: given clips, text,
sampler values. Its velocity is guided: under the text, and away from another one.

Letters: B batch (1 here, or 2 texts), K cells, N filled cells, S tokens or text segments, L text
tokens, E text width, C channels, T H W pixel frames/height/width, F Y X latent frames/rows/columns;
THWC is a clip as uint8.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dcgrid.flow.noise import draw_noise
from dcgrid.flow.sampler import SampleSettings, combine_guidance, sample
from dcgrid.flow.schedule import Schedule
from dcgrid.flow.self_conditioning import self_conditioned, unconditioned
from dcgrid.grid.coordinates import (
    MARGIN,
    grid_positions,
    narrow_cells,
    token_coordinates,
    widen_cells,
)
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.grid.masks import fill_mask, spread_over_frames
from dcgrid.grid.routing import Routing, visible_segments
from dcgrid.io.progress import Progress
from dcgrid.models.base import (
    Backbone,
    CellText,
    Memory,
    ModelSpec,
    SeveralTexts,
    TokenPlaces,
    leaves_out_blocks,
    streams_weights,
)
from dcgrid.pipelines.resolve import ResolvedGrid, Shortcuts
from dcgrid.prompts import Prompt
from dcgrid.video.pixels import pixels_of_signed, signed_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """Where a window stands in a long clip, and what it goes on from."""

    first: int
    """Its first latent frame in the clip."""
    total: int
    """Latent frames of the whole clip."""
    heads: Mapping[int, Tensor]
    """For each generated cell the frames that it begins with, THWC; empty in the first window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRequest:
    """A grid to be filled."""

    layout: GridLayout
    """Its shape."""
    given: Mapping[int, Tensor]
    """Clips THWC by cell, all of one length and size; the other cells are generated."""
    prompt: Prompt
    """Its text."""
    routing: Routing = field(default_factory=Routing)
    """Which cell may read which clause."""
    negative_prompt: Prompt
    """What guidance steers away from."""
    negative_cells: tuple[frozenset[int], ...]
    """For each segment of it the cells that read it."""
    guidance_scale: Mapping[int, float]
    """Weight of the text in each generated cell; 1 is none."""
    num_inference_steps: int
    """Steps from noise to video."""
    noise_scale: float | None
    """s in x_t = (1-t) x0 + t s e; None: the model's."""
    continuation: Continuation | None = None
    """None: the clip is generated in one go."""
    size_THW: tuple[int, int, int] | None = None
    """Frames, height and width of a cell; needed only where no clip is given."""
    shortcuts: Shortcuts = field(default_factory=Shortcuts)
    """What is left out at the price of other pixels."""

    def visible_rows(self, spec: ModelSpec) -> tuple[tuple[bool, ...], ...]:
        """Return visible_KS of the text, narrowed for models that need it narrow.

        Raises:
            LayoutError: The layout does not fit the text.
        """
        return visible_segments(
            self.prompt, self.layout, self.routing, own_clause_only=spec.own_clause_only
        )

    def negative_rows(self, spec: ModelSpec) -> tuple[tuple[bool, ...], ...]:
        """Return visible_KS of the negative text: each cell reads its own, or nothing."""
        return tuple(
            tuple(spec.negative_text and cell in cells for cells in self.negative_cells)
            for cell in range(self.layout.count)
        )


def visible_rows(grid: ResolvedGrid, spec: ModelSpec) -> tuple[tuple[bool, ...], ...]:
    """Return visible_KS of a resolved grid's text; see `GridRequest.visible_rows`."""
    layout = GridLayout(rows=grid.rows, cols=grid.cols)
    return visible_segments(
        grid.prompt, layout, _routing(grid), own_clause_only=spec.own_clause_only
    )


def _routing(grid: ResolvedGrid) -> Routing:
    """Return which cells of a resolved grid are sources."""
    if grid.mode != "composition":
        return Routing()
    return Routing(mode="composition", sources=(grid.given[0], grid.given[1]))


def settle_grid(grid: ResolvedGrid, spec: ModelSpec) -> ResolvedGrid:
    """Return the grid with the model's sampler values where nobody named any."""
    usual = spec.filling if grid.given else spec.from_text
    return grid.settled(usual.guidance_scale, usual.num_inference_steps)


def grid_request(
    grid: ResolvedGrid,
    spec: ModelSpec,
    given: Sequence[Tensor],
    continuation: Continuation | None = None,
) -> GridRequest:
    """Return what a resolved grid asks of the model.

    Args:
        grid: Cells, text and sampler values.
        spec: The model, whose sampler values are taken where the grid names none.
        given: The clips THWC, in the order of `grid.given`.
        continuation: See `GridRequest`.
    """
    grid = settle_grid(grid, spec)
    generated = {c: i for c, i in enumerate(grid.edit_of_cell) if i is not None}
    return GridRequest(
        layout=GridLayout(rows=grid.rows, cols=grid.cols),
        given=dict(zip(grid.given, given, strict=True)),
        prompt=grid.prompt,
        routing=_routing(grid),
        negative_prompt=grid.negative_prompt,
        negative_cells=tuple(frozenset(grid.tries[index]) for index in grid.negative_owners),
        guidance_scale={c: grid.edits[i].guidance_scale or 0.0 for c, i in generated.items()},
        num_inference_steps=grid.num_inference_steps,
        noise_scale=grid.noise_scale,
        continuation=continuation,
        shortcuts=grid.shortcuts,
    )


VelocityFn = Callable[[Tensor, Tensor], Tensor]
"""Maps cells_BKCFYX and time_BKF to velocity_BKCFYX."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrid:
    """One grid of tokens, and what the model keeps of it from call to call."""

    places: TokenPlaces
    memory: Memory


def token_grids(
    backbone: Backbone, request: GridRequest, size_FYX: tuple[int, ...], device: torch.device
) -> list[TokenGrid]:
    """Return the plain tokens and, where the model has them, the offset ones."""
    spec, layout = backbone.spec, request.layout
    frames, rows, columns = size_FYX
    grids = [token_places(spec, layout, size_FYX)]
    if spec.offset_tokens:
        wide = (frames, rows + spec.patch[1], columns + spec.patch[2])
        grids.append(token_places(spec, layout, wide, MARGIN))
    return [
        TokenGrid(
            places=replace(
                places,
                coordinates_S3=places.coordinates_S3.to(device),
                position_S=places.position_S.to(device),
            ),
            # What is given, and its text, is the same under both texts of guidance.
            memory=Memory(alike=True, cache_threshold=request.shortcuts.cache_threshold),
        )
        for places in grids
    ]


def steered(backbone: Backbone, text: CellText, grids: list[TokenGrid]) -> VelocityFn:
    """Return the velocity under a text: the mean over the grids of tokens.

    A model that was trained so reads its last estimate under this text; see `self_conditioned`.
    """
    patch = backbone.spec.patch

    def velocity(cells_BKCFYX: Tensor, time_BKF: Tensor, estimate_BKCFYX: Tensor | None) -> Tensor:
        total_BKCFYX = torch.zeros_like(cells_BKCFYX)
        for grid in grids:
            offset = grid.places.margin > 0
            shown_BKCFYX, read_BKCFYX = cells_BKCFYX, estimate_BKCFYX
            if offset:
                shown_BKCFYX = widen_cells(cells_BKCFYX, patch)
                read_BKCFYX = (
                    read_BKCFYX if read_BKCFYX is None else widen_cells(read_BKCFYX, patch)
                )
            found_BKCFYX = backbone.velocity(
                shown_BKCFYX,
                time_BKF,
                text,
                grid.places,
                memory=grid.memory,
                estimate_BKCFYX=read_BKCFYX,
            )
            total_BKCFYX += narrow_cells(found_BKCFYX, patch) if offset else found_BKCFYX
        return total_BKCFYX / len(grids)

    feeds_back = backbone.spec.self_conditioning
    return self_conditioned(velocity) if feeds_back else unconditioned(velocity)


def _padded(*texts: CellText) -> tuple[list[Tensor], list[Tensor]]:
    """Return embeddings BKLE and what is read of them, BKL, filled up to the longest text."""
    longest = max(text.valid_BKL.shape[-1] for text in texts)
    tokens, valid = [], []
    for text in texts:
        missing = longest - text.valid_BKL.shape[-1]
        tokens.append(functional.pad(text.tokens_BKLE, (0, 0, 0, missing)))
        valid.append(functional.pad(text.valid_BKL, (0, missing)))
    return tokens, valid


def _with_text_of(text: CellText, other: CellText, cells: Iterable[int]) -> CellText:
    """Return a text in which some cells read what they read in another one."""
    tokens, valid = _padded(text, other)
    chosen = list(cells)
    tokens[0][:, chosen], valid[0][:, chosen] = tokens[1][:, chosen], valid[1][:, chosen]
    return CellText(tokens_BKLE=tokens[0], valid_BKL=valid[0])


def guided_velocity(backbone: Backbone, request: GridRequest, grids: list[TokenGrid]) -> VelocityFn:
    """Return the velocity with guidance; each cell may have a scale of its own."""
    text = backbone.encode_text([request.prompt], [request.visible_rows(backbone.spec)])
    scales = request.guidance_scale
    conditional = steered(backbone, text, grids)
    if all(scale == 1 for scale in scales.values()):
        return conditional
    away = backbone.encode_text([request.negative_prompt], [request.negative_rows(backbone.spec)])
    if backbone.spec.given_first:
        # What is known of given cells serves both branches, so their text is one.
        away = _with_text_of(away, text, request.given)
    both = _both(backbone, (text, away), grids, conditional)
    masks = {
        scale: torch.tensor([scales.get(cell) == scale for cell in range(request.layout.count)])
        for scale in set(scales.values())
    }
    until = request.shortcuts.guidance_until

    def guided(cells_BKCFYX: Tensor, time_BKF: Tensor) -> Tensor:
        if until > 0 and float(time_BKF.max()) < until:
            return conditional(cells_BKCFYX, time_BKF)
        velocity_BKCFYX, away_BKCFYX = both(cells_BKCFYX, time_BKF)
        # The masks do not overlap, so each cell is guided once, by its own scale.
        for scale, mask_K in masks.items():
            velocity_BKCFYX = combine_guidance(velocity_BKCFYX, away_BKCFYX, scale, mask_K)
        return velocity_BKCFYX

    return guided


def _both(
    backbone: Backbone,
    texts: tuple[CellText, CellText],
    grids: list[TokenGrid],
    conditional: VelocityFn,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the velocity under each of two texts: in two calls, or in one as a batch of two grids.

    `conditional` is that under the first text; it goes on alone where guidance ends on the way, and
    so must have seen every call. Estimates of two texts are not of one batch: two calls, then.

    One call is worth it where weights travel to the device for every call: they do so once then.
    Elsewhere it gains nothing on a GPU and costs a tenth on a CPU. Equal up to rounding, so which
    it is follows from where the weights are, not from a measurement that may come out otherwise.
    """
    if isinstance(backbone, SeveralTexts):
        return _dealt(backbone, backbone.spec.patch, texts, grids)
    if not streams_weights(backbone) or backbone.spec.self_conditioning:
        other = steered(backbone, texts[1], grids)
        return lambda cells_BKCFYX, time_BKF: (
            conditional(cells_BKCFYX, time_BKF),
            other(cells_BKCFYX, time_BKF),
        )
    tokens, valid = _padded(*texts)
    joined = CellText(tokens_BKLE=torch.cat(tokens), valid_BKL=torch.cat(valid))
    at_once = steered(backbone, joined, grids)

    def both(cells_BKCFYX: Tensor, time_BKF: Tensor) -> tuple[Tensor, Tensor]:
        found = at_once(torch.cat([cells_BKCFYX] * 2), torch.cat([time_BKF] * 2))
        velocity_BKCFYX, away_BKCFYX = found.chunk(2)
        return velocity_BKCFYX, away_BKCFYX

    return both


def _dealt(
    backbone: SeveralTexts,
    patch: tuple[int, int, int],
    texts: tuple[CellText, CellText],
    grids: list[TokenGrid],
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the velocity under each of two texts that several processes share between them."""

    def both(cells_BKCFYX: Tensor, time_BKF: Tensor) -> tuple[Tensor, Tensor]:
        totals = torch.zeros_like(cells_BKCFYX), torch.zeros_like(cells_BKCFYX)
        for grid in grids:
            offset = grid.places.margin > 0
            shown_BKCFYX = widen_cells(cells_BKCFYX, patch) if offset else cells_BKCFYX
            found = backbone.velocities(shown_BKCFYX, time_BKF, texts, grid.places, grid.memory)
            for total_BKCFYX, found_BKCFYX in zip(totals, found, strict=True):
                total_BKCFYX += narrow_cells(found_BKCFYX, patch) if offset else found_BKCFYX
        return totals[0] / len(grids), totals[1] / len(grids)

    return both


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
    if request.shortcuts.cache_threshold > 0 and not leaves_out_blocks(backbone):
        progress.warn(f"model {spec.name} leaves out no blocks; cache_threshold changes nothing")
    progress.start("sampling", request.num_inference_steps)
    filled_BKCFYX = sample(
        guided_velocity(backbone, request, grids),
        cells_BKCFYX,
        noise_BKCFYX,
        fill_KF,
        sample_settings(spec, request.num_inference_steps, request.noise_scale),
        progress.update,
    )
    # One after another, to need the memory of one.
    cells = [int(cell) for cell in fill_K.nonzero()]
    return decode_cells(backbone, [(cell, filled_BKCFYX[:, cell]) for cell in cells], progress)


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
