"""Sample a grid: given clips and a text in, the generated cells' clips out. Read `fill_grid`.

    clips -> encode -> [given | noise noise noise] -> GridSampler -> decode -> clips

What a grid is to show is a `GridRequest`, whichever command, evaluation or training run asks for
it. `GridSampler` is the one way from noise to latents: tokens, guidance, estimates, steps.

Letters: B batch (1 here; more in training), K cells, S tokens or text segments, L text tokens, E
text width, C channels, T H W pixel frames/height/width, F Y X latent frames/rows/columns; THWC is a
clip as uint8.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from einops import rearrange
from torch import Tensor

from dcgrid.flow.noise import draw_noise
from dcgrid.flow.sampler import OnStep, SampleSettings, VelocityFn, combine_guidance, sample
from dcgrid.flow.schedule import Schedule
from dcgrid.flow.self_conditioning import LastEstimate
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
from dcgrid.models.base import Backbone, CellText, Memory, ModelSpec, TokenPlaces, text_batch
from dcgrid.pipelines.resolve import ResolvedGrid, Shortcuts
from dcgrid.video.pixels import pixels_of_signed, signed_of


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRequest:
    """A grid to be generated in one go; see `grid_request`."""

    grid: ResolvedGrid
    """Cells, text and sampler values, settled."""
    given: Mapping[int, Tensor]
    """Clips THWC by cell, all of one length and size; the other cells are generated."""
    size_THW: tuple[int, int, int]
    """Frames, height and width of a cell."""
    seed: int
    """Seed of the noise."""
    span: tuple[int, int] | None = None
    """Of a window of a long clip: its first latent frame, and the latent frames of the clip."""
    heads: Mapping[int, Tensor] = field(default_factory=dict)
    """For each generated cell the frames THWC that a later window begins with."""

    @property
    def layout(self) -> GridLayout:
        """How the cells lie."""
        return GridLayout(rows=self.grid.rows, cols=self.grid.cols)

    @property
    def cells(self) -> list[int]:
        """The cells that are to be generated, in order."""
        return [cell for cell in range(self.layout.count) if cell not in self.given]

    @property
    def guidance_scale(self) -> dict[int, float]:
        """Weight of the text in each generated cell; 1 is none.

        A cell that stands for an input and is not given is guided as the first edit is.
        """
        edits, edit_of = self.grid.edits, self.grid.edit_of_cell
        return {cell: edits[edit_of[cell] or 0].guidance_scale or 0.0 for cell in self.cells}

    def text(self, backbone: Backbone) -> CellText:
        """Encode what each cell reads.

        Raises:
            LayoutError: The layout does not fit the text.
        """
        visible_KS = visible_rows(self.grid, backbone.spec)
        return backbone.encode_text([self.grid.prompt], [visible_KS])

    def away(self, backbone: Backbone) -> CellText:
        """Encode what guidance steers each cell away from: its own negative text, or nothing."""
        grid, reads = self.grid, backbone.spec.negative_text
        visible_KS = [
            [reads and cell in grid.tries[owner] for owner in grid.negative_owners]
            for cell in range(self.layout.count)
        ]
        return backbone.encode_text([grid.negative_prompt], [visible_KS])


def grid_request(
    grid: ResolvedGrid,
    spec: ModelSpec,
    given: Sequence[Tensor],
    *,
    seed: int = 0,
    size_THW: tuple[int, int, int] | None = None,
    span: tuple[int, int] | None = None,
    heads: Mapping[int, Tensor] | None = None,
) -> GridRequest:
    """Return what a resolved grid asks of the model.

    Args:
        grid: Cells, text and sampler values.
        spec: The model, whose sampler values are taken where the grid names none.
        given: The clips THWC, in the order of `grid.given`; none: all cells are generated.
        seed: Seed of the noise.
        size_THW: Frames, height and width of a cell; None: those of the first clip.
        span: See `GridRequest`.
        heads: See `GridRequest`; None: none.

    Raises:
        ValueError: There is neither a clip nor a size.
    """
    if size_THW is None:
        if not given:
            raise ValueError("a grid without a given clip needs its size")
        frames, height, width, _ = given[0].shape
        size_THW = frames, height, width
    return GridRequest(
        grid=settle_grid(grid, spec),
        given=dict(zip(grid.given, given, strict=True)) if given else {},
        size_THW=size_THW,
        seed=seed,
        span=span,
        heads=heads or {},
    )


def settle_grid(grid: ResolvedGrid, spec: ModelSpec) -> ResolvedGrid:
    """Return the grid with the model's sampler values where nobody named any."""
    usual = spec.filling if grid.given else spec.from_text
    return grid.settled(usual.guidance_scale, usual.num_inference_steps)


def visible_rows(grid: ResolvedGrid, spec: ModelSpec) -> tuple[tuple[bool, ...], ...]:
    """Return visible_KS of a grid's text, narrowed for models that need it narrow.

    Raises:
        LayoutError: The layout does not fit the text.
    """
    routing = Routing()
    if grid.mode == "composition":
        routing = Routing(mode="composition", sources=(grid.given[0], grid.given[1]))
    layout = GridLayout(rows=grid.rows, cols=grid.cols)
    return visible_segments(grid.prompt, layout, routing, own_clause_only=spec.own_clause_only)


def token_places(
    layout: GridLayout,
    size_FYX: Sequence[int],
    patch: tuple[int, int, int],
    pitch_YX: tuple[int, int] | None,
    margin: float = 0.0,
) -> TokenPlaces:
    """Return where the tokens of a grid stand.

    Args:
        layout: How the cells lie.
        size_FYX: Latent frames, rows and columns of a cell, margin and all.
        patch: Latent frames, rows and columns of a token.
        pitch_YX: Token rows and columns from one cell to the next; None: cells abut.
        margin: Tokens on each side of a cell that are not of its picture.

    Raises:
        LayoutError: Cells of this size overlap at the model's pitch.
    """
    frames, rows, cols = (size // side for size, side in zip(size_FYX, patch, strict=True))
    shape = TokenShape(frames=frames, rows=rows, cols=cols)
    return TokenPlaces(
        coordinates_S3=token_coordinates(layout, shape, pitch_YX),
        position_S=grid_positions(layout, shape),
        margin=margin,
    )


class GridSampler:
    """Samples grids of one layout and size on a backbone: noise, guided velocity, steps.

    The velocity is the mean over the grids of tokens that the model knows, the plain one and the
    one that is set off by half a token. A model with self-conditioning reads its last estimate,
    under each text its own. What the model knows of texts and given cells is kept for as long as
    the sampler is, so it is for one set of given cells.

    Args:
        backbone: The model, adapter and all.
        layout: How the K cells of a grid lie.
        size_FYX: Latent frames, rows and columns of a cell.
        shortcuts: What is left out at the price of other pixels.
    """

    def __init__(
        self,
        backbone: Backbone,
        layout: GridLayout,
        size_FYX: Sequence[int],
        shortcuts: Shortcuts | None = None,
    ) -> None:
        patch, pitch = backbone.spec.patch, backbone.spec.cell_pitch
        self.backbone, self.layout, self.size_FYX = backbone, layout, tuple(size_FYX)
        self._shortcuts = shortcuts or Shortcuts()
        places = [token_places(layout, self.size_FYX, patch, pitch)]
        if backbone.spec.offset_tokens:
            frames, rows, columns = self.size_FYX
            wide = (frames, rows + patch[1], columns + patch[2])
            places.append(token_places(layout, wide, patch, pitch, MARGIN))
        self.places = [one.to(backbone.device) for one in places]
        # What is given, and its text, is the same under both texts of guidance.
        threshold = self._shortcuts.cache_threshold
        self._memories = [Memory(alike=True, cache_threshold=threshold) for _ in places]

    def noise(self, seed: int, span: tuple[int, int] | None = None) -> Tensor:
        """Draw the noise of one grid, BKCFYX, standard normal; see `flow.noise.draw_noise`."""
        noise_BKCFYX = grid_noise(self.backbone.spec, self.layout.count, self.size_FYX, seed, span)
        return noise_BKCFYX.to(self.backbone.device)

    def velocity(
        self,
        text: CellText,
        away: CellText | None = None,
        scales: Mapping[int, float] | None = None,
    ) -> VelocityFn:
        """Return the velocity under a text, guided away from another.

        Args:
            text: What each cell reads.
            away: What guidance steers away from; None: there is no guidance.
            scales: Weight of the text in each generated cell; 1 is no guidance.
        """
        scales = scales or {}
        if away is None or all(scale == 1 for scale in scales.values()):
            alone = self._velocities((text,))
            return lambda cells_BKCFYX, time_BKF: alone(cells_BKCFYX, time_BKF)[0]
        count, until = self.layout.count, self._shortcuts.guidance_until
        given = [cell for cell in range(count) if cell not in scales]
        if self.backbone.spec.given_first and given:
            # What is known of given cells serves both branches, so their text is one.
            away = _with_text_of(away, text, given)
        both = self._velocities((text, away))
        masks = {
            scale: torch.tensor([scales.get(cell) == scale for cell in range(count)])
            for scale in set(scales.values())
        }

        def guided(cells_BKCFYX: Tensor, time_BKF: Tensor) -> Tensor:
            if until > 0 and float(time_BKF.max()) < until:
                return both(cells_BKCFYX, time_BKF, count=1)[0]
            velocity_BKCFYX, away_BKCFYX = both(cells_BKCFYX, time_BKF)
            # The masks do not overlap, so each cell is guided once, by its own scale.
            for scale, mask_K in masks.items():
                velocity_BKCFYX = combine_guidance(velocity_BKCFYX, away_BKCFYX, scale, mask_K)
            return velocity_BKCFYX

        return guided

    def _velocities(self, texts: tuple[CellText, ...]) -> "_VelocitiesFn":
        """Return the velocity under each of some texts, or under the first `count` of them."""
        patch, feeds_back = self.backbone.spec.patch, self.backbone.spec.self_conditioning
        estimates = [LastEstimate() for _ in texts]

        def velocities(
            cells_BKCFYX: Tensor, time_BKF: Tensor, count: int = len(texts)
        ) -> list[Tensor]:
            read = [one.before(time_BKF) if feeds_back else None for one in estimates[:count]]
            totals = [torch.zeros_like(cells_BKCFYX) for _ in read]
            for places, memory in zip(self.places, self._memories, strict=True):
                offset = places.margin > 0
                found = self.backbone.velocities(
                    widen_cells(cells_BKCFYX, patch) if offset else cells_BKCFYX,
                    time_BKF,
                    texts[:count],
                    places,
                    memory,
                    [widen_cells(e, patch) if offset and e is not None else e for e in read],
                )
                for total_BKCFYX, one_BKCFYX in zip(totals, found, strict=True):
                    total_BKCFYX += narrow_cells(one_BKCFYX, patch) if offset else one_BKCFYX
            means = [total_BKCFYX / len(self.places) for total_BKCFYX in totals]
            if feeds_back:
                for estimate, mean_BKCFYX in zip(estimates, means, strict=False):
                    estimate.keep(cells_BKCFYX, mean_BKCFYX, time_BKF)
            return means

        return velocities

    def sample(
        self,
        velocity: VelocityFn,
        cells_BKCFYX: Tensor,
        noise_BKCFYX: Tensor,
        fill_KF: Tensor,
        num_inference_steps: int,
        noise_scale: float | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Fill grids; see `flow.sampler.sample`.

        Args:
            velocity: From `velocity`.
            cells_BKCFYX: Latents; what filled cells hold is not read.
            noise_BKCFYX: Where sampling starts, see `noise`.
            fill_KF: True where the model generates, for each latent frame of a cell.
            num_inference_steps: Steps from noise to data.
            noise_scale: s in x_t = (1-t) x0 + t s e; None: the model's.
            on_step: Told of each finished step.
        """
        settings = sample_settings(self.backbone.spec, num_inference_steps, noise_scale)
        return sample(velocity, cells_BKCFYX, noise_BKCFYX, fill_KF, settings, on_step)


_VelocitiesFn: TypeAlias = Callable[..., list[Tensor]]


def _with_text_of(text: CellText, other: CellText, cells: Sequence[int]) -> CellText:
    """Return a text in which some cells read what they read in another one."""
    both = text_batch((text, other))
    (tokens_BKLE, others_BKLE), (valid_BKL, other_BKL) = (
        both.tokens_BKLE.chunk(2),
        both.valid_BKL.chunk(2),
    )
    tokens_BKLE[:, cells], valid_BKL[:, cells] = others_BKLE[:, cells], other_BKL[:, cells]
    return CellText(tokens_BKLE=tokens_BKLE, valid_BKL=valid_BKL)


def sample_settings(
    spec: ModelSpec, num_inference_steps: int, noise_scale: float | None = None
) -> SampleSettings:
    """Return the sampler's settings; a noise scale of None is the model's."""
    return SampleSettings(
        schedule=Schedule(num_inference_steps=num_inference_steps, shift=spec.time_shift),
        noise_scale=spec.noise_scale if noise_scale is None else noise_scale,
        given="clean" if spec.per_cell_time else "replace",
    )


def grid_noise(
    spec: ModelSpec,
    cells: int,
    size_FYX: Sequence[int],
    seed: int,
    span: tuple[int, int] | None = None,
) -> Tensor:
    """Draw the noise of a grid, BKCFYX with B = 1, on the CPU; see `flow.noise.draw_noise`."""
    shape = (1, cells, spec.latent_channels, *size_FYX)
    return draw_noise(shape, seed, motion=spec.noise_motion, span=span)


def latent_size(spec: ModelSpec, size_THW: Sequence[int]) -> tuple[int, int, int]:
    """Return the latent frames, rows and columns of a clip."""
    frames, height, width = size_THW
    rows, columns = height // spec.stride_HW, width // spec.stride_HW
    return (frames - 1) // spec.stride_T + 1, rows, columns


GenerateFn: TypeAlias = Callable[[Backbone, GridRequest, Progress], dict[int, Tensor]]
"""Generates every cell of a grid that is not given, as `fill_grid` does; baselines are others."""


@torch.inference_mode()
def fill_grid(backbone: Backbone, request: GridRequest, progress: Progress) -> dict[int, Tensor]:
    """Generate every cell that is not given.

    Args:
        backbone: The model, adapter and all.
        request: Given clips (of a length and size that the model takes), text and sampler values.
        progress: Told of stages and steps.

    Returns:
        The clip of each generated cell, THWC, uint8, on the CPU, each decoded on its own.

    Raises:
        LayoutError: The layout does not fit the text or the given cells.

    Paper: sec. 3.3-3.4
    """
    grid, spec = request.grid, backbone.spec
    cells_BKCFYX, fill_KF = _encode_cells(backbone, request, progress)
    sampler = GridSampler(backbone, request.layout, cells_BKCFYX.shape[3:], grid.shortcuts)
    scales, away = request.guidance_scale, None
    text = request.text(backbone)
    if any(scale != 1 for scale in scales.values()):
        away = request.away(backbone)
    if grid.shortcuts.cache_threshold > 0 and not spec.leaves_out_blocks:
        progress.warn(f"model {spec.name} leaves out no blocks; cache_threshold changes nothing")
    progress.start("sampling", grid.num_inference_steps)
    filled_BKCFYX = sampler.sample(
        sampler.velocity(text, away, scales),
        cells_BKCFYX,
        sampler.noise(request.seed, request.span),
        fill_KF,
        grid.num_inference_steps,
        grid.noise_scale,
        progress.update,
    )
    # One after another, to need the memory of one.
    return decode_cells(backbone, {k: filled_BKCFYX[:, k] for k in request.cells}, progress)


def _encode_cells(
    backbone: Backbone, request: GridRequest, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Encode what is given, each clip alone.

    Returns:
        The grid's latents BKCFYX, 0 where nothing is given, and fill_KF: True where the model
        generates.
    """
    spec, size_FYX = backbone.spec, latent_size(backbone.spec, request.size_THW)
    fill_K = fill_mask(request.layout, request.given)
    shape = (1, request.layout.count, spec.latent_channels, *size_FYX)
    cells_BKCFYX = torch.zeros(shape, device=backbone.device)
    fill_KF = spread_over_frames(fill_K, size_FYX[0])[0].clone()
    if request.given:
        progress.start("encoding the clip", len(request.given))
    for done, (cell, clip_THWC) in enumerate(request.given.items(), start=1):
        cells_BKCFYX[:, cell] = encode_clip(backbone, clip_THWC)
        progress.update(done)
    for cell, head_THWC in request.heads.items():
        head_BCFYX = encode_clip(backbone, head_THWC)
        known = head_BCFYX.shape[2]
        cells_BKCFYX[:, cell, :, :known] = head_BCFYX
        fill_KF[cell, :known] = False
    return cells_BKCFYX, fill_KF


def encode_clip(backbone: Backbone, clip_THWC: Tensor) -> Tensor:
    """Return the latents of a clip, BCFYX with B = 1, float32."""
    return backbone.encode(to_model_range(clip_THWC).to(backbone.device)).float()


@torch.inference_mode()
def codec_pass(backbone: Backbone, clip_THWC: Tensor) -> Tensor:
    """Return a clip as the autoencoder gives it back, THWC, uint8."""
    return to_frames(backbone.decode(encode_clip(backbone, clip_THWC)))


def to_model_range(frames_THWC: Tensor) -> Tensor:
    """Turn a uint8 clip into video_BCTHW in [-1, 1], float32, B = 1."""
    return signed_of(rearrange(frames_THWC, "t h w c -> 1 c t h w"))


def to_frames(video_BCTHW: Tensor) -> Tensor:
    """Turn video in [-1, 1], B = 1, into a uint8 clip on the CPU, rounded to nearest."""
    return rearrange(pixels_of_signed(video_BCTHW), "1 c t h w -> t h w c").cpu()


def decode_cells(
    backbone: Backbone, latents: Mapping[int, Tensor], progress: Progress
) -> dict[int, Tensor]:
    """Decode cells, each given with its latents BCFYX, one after another, to clips THWC."""
    progress.start("decoding", len(latents))
    clips: dict[int, Tensor] = {}
    for cell, latents_BCFYX in latents.items():
        clips[cell] = to_frames(backbone.decode(latents_BCFYX))
        progress.update(len(clips))
    return clips
