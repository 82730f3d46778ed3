"""The velocity that a grid is sampled with: which texts the model reads, and how they are weighed.

Letters: B batch (1 here, or 2 texts), K cells, S tokens, L text tokens, E text width; F Y X latent
frames/rows/columns.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from dcgrid.flow.sampler import combine_guidance
from dcgrid.flow.self_conditioning import self_conditioned, unconditioned
from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.grid.offset import MARGIN, narrow_cells, widen_cells
from dcgrid.models.base import (
    Backbone,
    CellText,
    Memory,
    ModelSpec,
    SeveralTexts,
    TokenPlaces,
    streams_weights,
)
from dcgrid.pipelines.request import GridRequest

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
