"""Stages `base`, `grid` and `fill`: the transformer, and the adapters on it.

`base` learns text to video, single clips and grids of one clip under several effects, all cells at
one time, so that it knows variants in context as large video models do; no cell is ever given.
`grid` trains a LoRA on whole grids, in composition mode two that are routed to cells.
`fill` trains a LoRA: given cells are clean at time 0 and out of the loss.

Letters: B batch, K cells, C channels, M moving channels of noise, F Y X latent frames/rows/columns.

Paper: sec. 3.1 (flow matching), sec. 3.2 (Grid LoRA), sec. 3.3 (Grid-Fill), sec. 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from dcgrid.flow.path import flow_loss, noisy, velocity_target
from dcgrid.flow.schedule import TrainingTimes
from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.grid.masks import flow_times, random_fill_mask, spread_over_frames
from dcgrid.grid.modes import Routing
from dcgrid.grid.offset import MARGIN, narrow_cells, widen_cells
from dcgrid.grid.routing import route_matrix
from dcgrid.models.base import TokenPlaces
from dcgrid.models.text_masking import TokenMasking
from dcgrid.models.trunk import GridTransformer, TextReader
from dcgrid.runtime.device import autocast, training_dtype
from dcgrid.synthetic.world_clips import chance
from dcgrid.train.data.captions import Captions
from dcgrid.train.data.generated_grids import (
    SampledGrid,
    SampledGrids,
    generated_share,
    needs_world,
)
from dcgrid.train.data.variants import FusionPool, VariantPool, VariantSet
from dcgrid.train.estimates import drawn_estimate
from dcgrid.train.evaluation import EVAL_SEED, EVAL_TIMES, at_rest
from dcgrid.train.scale import in_pieces
from dcgrid.train.settings import Phase, TrainRecipe

_FUSION = "fusion."
"""What the names of compositions begin with in a checkpoint."""
HEAD_FRAMES = 2
"""Latent frames that a window takes over from the one before; `ModelSpec.carried_frames` in pixel
frames."""
SINGLE, GRID = GridLayout(rows=1, cols=1), GridLayout(rows=2, cols=2)


def _apart(
    kept: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what is of variants, and what is of fusions, by the pools' own names."""
    fusions = {n.removeprefix(_FUSION): t for n, t in kept.items() if n.startswith(_FUSION)}
    return {n: t for n, t in kept.items() if not n.startswith(_FUSION)}, fusions


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch of training grids."""

    cells_BKCFYX: torch.Tensor
    """Clean latents."""
    drift_BKMFYX: torch.Tensor
    """The moving noise that each cell's effect was rendered from."""
    fill_BKF: torch.Tensor
    """True where the model generates and the loss counts."""
    rows: list[list[str]]
    """Texts that each cell reads, B * K lists."""
    layout: GridLayout
    """The grid."""


class GridStage:
    """The loss of `base`, `grid` and `fill`; they differ in what is given and what is trained."""

    def __init__(
        self,
        networks: tuple[GridTransformer, TextReader],
        pools: tuple[VariantPool, FusionPool],
        captions: Captions,
        recipe: TrainRecipe,
        trained: dict[str, nn.Parameter],
        sampled: SampledGrids | None = None,
    ) -> None:
        self.dit, self.text = networks
        self.pool, self.fusions = pools
        self.captions = captions
        self.recipe = recipe
        self.trained = trained
        self.sampled = sampled
        self.route_KA: torch.Tensor | None = None
        if recipe.stage == "grid" and recipe.mode == "composition":
            self.route_KA = route_matrix(GRID, Routing(mode="composition"))
        self._fixed: list[tuple[Batch, torch.Tensor]] = []

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what this stage trains, by name."""
        return self.trained

    def loss(
        self, phase: Phase, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the flow-matching loss over generated cells. Paper: sec. 3.1, 3.3."""
        knobs = self.recipe.loss
        batch = self._batch(phase, generator)
        device = batch.cells_BKCFYX.device
        time_BKF = self._spread(self._times(batch, generator).to(device), batch.fill_BKF)
        noise = self._noise(batch, generator)
        offset = chance(generator) < knobs["offset_share"]
        masking = masking_of(self.recipe, generator)
        velocity = self._velocity(
            batch, noise, time_BKF, offset=offset, masking=masking, generator=generator
        )
        target = velocity_target(batch.cells_BKCFYX, noise, knobs["noise_scale"])
        root_C = self._channel_weights().sqrt().reshape(-1, 1, 1, 1)
        loss = flow_loss(velocity * root_C, target * root_C, batch.fill_BKF)
        return loss, _late_error(velocity.detach() - target, time_BKF)

    def evaluate(self, grids: int) -> dict[float, float]:
        """Return the loss at each flow time on grids and noise that are the same in every run.

        All channels count the same, whatever `pixel_weight` is, so that recipes can be compared.
        Grids are measured one by one: a batch of all would need more memory than training does.
        """
        if len(self._fixed) != grids:
            self._fixed = self._fixed_grids(grids)
        scale, losses = self.recipe.loss["noise_scale"], dict.fromkeys(EVAL_TIMES, 0.0)
        with at_rest(self.dit, self.text):
            for batch, noise in self._fixed:
                target = velocity_target(batch.cells_BKCFYX, noise, scale)
                for time in EVAL_TIMES:
                    time_B = torch.full((1,), time, device=noise.device)
                    time_BKF = self._spread(time_B, batch.fill_BKF)
                    velocity = self._velocity(batch, noise, time_BKF, offset=False)
                    losses[time] += float(flow_loss(velocity, target, batch.fill_BKF)) / grids
        return losses

    def _fixed_grids(self, grids: int) -> list[tuple[Batch, torch.Tensor]]:
        """Draw the grids of the eval loss and their noise, set up as at inference."""
        fusing = self.recipe.mode == "composition"
        pool = (FusionPool if fusing else VariantPool)(self.pool.world, self.pool.autoencoder)
        phase = self.recipe.phases[-1]
        one = replace(phase, sizes=phase.sizes[:1], batch=1)
        filling = self.recipe.stage == "fill"
        given_K = [filling, filling and fusing, False, False]
        drawn = []
        for number in range(grids):
            generator = torch.Generator().manual_seed(EVAL_SEED + number)
            if self.sampled is not None and not needs_world(self.recipe):
                generated = self.sampled.draw(replace(phase, batch=1), generator)
                batch = _generated(generated, [given_K], generated[0].rows, self.pool.world.device)
                drawn.append((batch, self._noise(batch, generator)))
                continue
            (variants,) = pool.draw(one, generator, fresh=1)
            rows = self.captions.grid_rows(variants, (0, 1, 2, 3), generator)
            batch = _gather([variants], [[0, 1, 2, 3]], [given_K], rows, GRID)
            drawn.append((batch, self._noise(batch, generator)))
        return drawn

    def _noise(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """Draw the noise of a batch; its last channels are what moves."""
        noise = torch.randn(batch.cells_BKCFYX.shape, generator=generator)
        noise = noise.to(batch.cells_BKCFYX.device)
        if moving := len(self.dit.config.noise_motion):
            noise[:, :, -moving:] = batch.drift_BKMFYX
        return noise

    def _velocity(
        self,
        batch: Batch,
        noise: torch.Tensor,
        time_BKF: torch.Tensor,
        *,
        offset: bool,
        masking: TokenMasking | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Predict the velocity of a batch, on the grid of tokens that is set off or the plain.

        With a generator from an earlier estimate, too, as often as the recipe says.
        """
        noised = noisy(batch.cells_BKCFYX, noise, time_BKF, self.recipe.loss["noise_scale"])
        patch, device = self.dit.config.patch, noised.device
        share = 0.0 if generator is None else self.recipe.loss["self_conditioning"]
        shown = widen_cells(noised, patch) if offset else noised
        places = token_places(shown, batch.layout, self.dit, MARGIN if offset else 0.0)
        with autocast(device, training_dtype(self.recipe.precision, device)):
            text = self.text.read_rows(batch.rows, batch.layout.count, masking)

            def velocity(
                noised: torch.Tensor, time_BKF: torch.Tensor, estimate: torch.Tensor | None
            ) -> torch.Tensor:
                if estimate is not None and offset:
                    estimate = widen_cells(estimate, patch)
                shown = widen_cells(noised, patch) if offset else noised
                route_KA = self._route_on(device)
                found = self.dit(shown, time_BKF, text, places, route_KA, estimate).float()
                return narrow_cells(found, patch) if offset else found

            estimate = drawn_estimate(
                velocity,
                (noised, time_BKF),
                share,
                generator,
                in_pieces=any(map(in_pieces, self.dit.parameters())),
            )
            return velocity(noised, time_BKF, estimate)

    def _route_on(self, device: torch.device) -> torch.Tensor | None:
        """Return which adapter acts on which cell, where any is routed."""
        return None if self.route_KA is None else self.route_KA.to(device)

    def remember(self) -> dict[str, torch.Tensor]:
        """Return what both stocks of variants were rendered from; see `VariantPool.remember`."""
        fusions = {f"{_FUSION}{name}": t for name, t in self.fusions.remember().items()}
        return {**self.pool.remember(), **fusions}

    def recall(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Put back the stocks of variants; see `VariantPool.recall`."""
        variants, fusions = _apart(kept)
        self.pool.recall(variants)
        self.fusions.recall(fusions)

    def leave_out(self) -> dict[str, torch.Tensor]:
        """Take a batch's variants out of both stocks again; see `VariantPool.leave_out`."""
        fusions = {f"{_FUSION}{name}": t for name, t in self.fusions.leave_out().items()}
        return {**self.pool.leave_out(), **fusions}

    def take_in(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Put the variants of all batches of a step into both stocks, in their order."""
        for left in batches:
            variants, fusions = _apart(left)
            self.pool.take_in(variants)
            self.fusions.take_in(fusions)
        for pool in (self.pool, self.fusions):
            pool.forget_own()

    def _channel_weights(self) -> torch.Tensor:
        """Return the weight of each latent channel in the loss, mean 1, shape C.

        An error counts in pixels as the square of its channel's scale; `pixel_weight` leads from
        the plain loss (0) to that (1).
        """
        share = self.recipe.loss["pixel_weight"]
        power_C = self.pool.autoencoder.latent_scale.square()
        return 1 - share + share * power_C / power_C.mean()

    def _spread(self, time_B: torch.Tensor, fill_BKF: torch.Tensor) -> torch.Tensor:
        """Return the time of every cell and frame: 0 where it is given, unless that is noised."""
        everywhere = self.recipe.given == "replace"
        return flow_times(time_B, torch.ones_like(fill_BKF) if everywhere else fill_BKF)

    def _times(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """Draw a flow time for each grid; some stand at 1, where a single step starts."""
        grids = len(batch.cells_BKCFYX)
        times_B = TrainingTimes(shift=self.recipe.loss["time_shift"]).draw(grids, generator)
        at_noise_B = torch.rand(grids, generator=generator) < self.recipe.loss["noise_share"]
        return times_B.masked_fill(at_noise_B, 1.0)

    def _batch(self, phase: Phase, generator: torch.Generator) -> Batch:
        knobs = self.recipe.loss
        # Without generated grids no chance is drawn for them: such runs stay what they were.
        if self.sampled is not None and chance(generator) < generated_share(self.recipe):
            return self._sampled_batch(self.sampled, phase, generator)
        fresh = 1 if chance(generator) < knobs["fresh"] else 0
        fusing = chance(generator) < knobs["fusion_share"]
        sets = (self.fusions if fusing else self.pool).draw(phase, generator, fresh=fresh)
        single = chance(generator) < knobs["single_share"]
        layout = SINGLE if single else GRID
        chosen, rows, given = [], [], []
        for variants in sets:
            chosen_K, given_K = self._choose(variants, layout, generator)
            chosen.append(chosen_K)
            given.append(given_K)
            reading_K = self._reading(given_K, generator)
            if not any(reading_K):
                rows += [[""]] * layout.count
                continue
            if single:
                written = [self.captions.clip_row(variants, chosen_K[0], generator)]
            else:
                written = self.captions.grid_rows(variants, chosen_K, generator)
            rows += _read_by(written, reading_K)
        batch = _gather(sets, chosen, given, rows, layout)
        return replace(batch, fill_BKF=self._with_heads(batch.fill_BKF, generator))

    def _reading(self, given_K: Sequence[bool], generator: torch.Generator) -> Sequence[bool]:
        """Draw whether the caption of a grid is dropped; return the cells that read theirs.

        Guidance has one text for given cells where what is known of them serves both branches, so
        they keep theirs.
        """
        dropped = chance(generator) < self.recipe.loss["caption_dropout"]
        if dropped and self.recipe.given_first:
            return given_K
        return [not dropped] * len(given_K)

    def _sampled_batch(
        self, sampled: SampledGrids, phase: Phase, generator: torch.Generator
    ) -> Batch:
        """Draw a batch of generated grids; what stands where, and its text, are as generated."""
        grids = sampled.draw(phase, generator)
        rows, given = [], []
        for grid in grids:
            given.append(self._given_of_generated(generator))
            rows += _read_by(grid.rows, self._reading(given[-1], generator))
        batch = _generated(grids, given, rows, self.pool.world.device)
        return replace(batch, fill_BKF=self._with_heads(batch.fill_BKF, generator))

    def _given_of_generated(self, generator: torch.Generator) -> list[bool]:
        """Draw which cells of a generated grid are given; none but in `fill`."""
        if self.recipe.stage != "fill":
            return [False] * GRID.count
        if chance(generator) < self.recipe.loss["edit_share"]:
            return [True, self.recipe.mode == "composition", False, False]
        return _some_given(GRID, generator)

    def _with_heads(self, fill_BKF: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Give the first latent frames of all cells of some grids.

        So stand later windows of a long clip, see pipelines/windows.py.
        """
        share = self.recipe.loss.get("window_share", 0.0)
        # Its own memory: a mask that was spread over frames has one row for all of them.
        fill_BKF = fill_BKF.clone()
        for fill_KF in fill_BKF:
            if share and chance(generator) < share:
                fill_KF[:, : min(HEAD_FRAMES, fill_KF.shape[1] - 1)] = False
        return fill_BKF

    def _choose(
        self, variants: VariantSet, layout: GridLayout, generator: torch.Generator
    ) -> tuple[list[int], list[bool]]:
        """Draw the variant of each cell and which cells are given.

        In `fill` the usual case is that of `edit`: the clip as it is stands in the first cell and
        is given. Otherwise any variant may be given, one to all but one.
        """
        if variants.element:
            return self._choose_fusion(layout, generator)
        if variants.analogy:
            return [0, 1, 2, 3], [True, True, True, False]
        count = len(variants.effects)
        order = torch.randperm(count, generator=generator).tolist()
        if self.recipe.stage != "fill":
            return order[: layout.count], [False] * layout.count
        if chance(generator) < self.recipe.loss["edit_share"]:
            effects = [i for i in order if i][: layout.count - 1]
            return [0, *effects], [True] + [False] * (layout.count - 1)
        return order[: layout.count], _some_given(layout, generator)

    def _choose_fusion(
        self, layout: GridLayout, generator: torch.Generator
    ) -> tuple[list[int], list[bool]]:
        """Draw what is given of a composition, whose variants have fixed cells.

        In `fill` the usual case is that of `compose`: both sources are given.
        """
        if self.recipe.stage != "fill":
            order = torch.randperm(4, generator=generator).tolist()
            return (order[:1] if layout == SINGLE else [0, 1, 2, 3]), [False] * layout.count
        if chance(generator) < self.recipe.loss["edit_share"]:
            return [0, 1, 2, 3], [True, True, False, False]
        return [0, 1, 2, 3], _some_given(layout, generator)


def _read_by(rows: Sequence[list[str]], reading_K: Sequence[bool]) -> list[list[str]]:
    """Return texts of which only some cells read theirs; the others read nothing."""
    return [row if reads else [""] for row, reads in zip(rows, reading_K, strict=True)]


def masking_of(recipe: TrainRecipe, generator: torch.Generator) -> TokenMasking | None:
    """Return how a step masks text tokens; None, so that nothing is drawn, where it does not."""
    share = recipe.loss["text_masking"]
    return TokenMasking(share=share, generator=generator) if share else None


def _gather(
    sets: Sequence[VariantSet],
    chosen: Sequence[list[int]],
    given: Sequence[list[bool]],
    rows: list[list[str]],
    layout: GridLayout,
) -> Batch:
    """Put grids together: of each set the variants chosen, and which of their cells are given."""
    pairs = list(zip(sets, chosen, strict=True))
    cells_BKCFYX = torch.stack([variants.latents_VCFYX[chosen_K] for variants, chosen_K in pairs])
    fill_BK = ~torch.tensor(list(given))
    return Batch(
        cells_BKCFYX=cells_BKCFYX,
        drift_BKMFYX=torch.stack([variants.drift_VMFYX[chosen_K] for variants, chosen_K in pairs]),
        fill_BKF=spread_over_frames(fill_BK, cells_BKCFYX.shape[3]).to(cells_BKCFYX.device),
        rows=rows,
        layout=layout,
    )


def _generated(
    grids: Sequence[SampledGrid],
    given: Sequence[list[bool]],
    rows: list[list[str]],
    device: torch.device,
) -> Batch:
    """Put a batch of generated grids together."""
    cells_BKCFYX = torch.stack([grid.cells_KCFYX for grid in grids]).to(device)
    return Batch(
        cells_BKCFYX=cells_BKCFYX,
        drift_BKMFYX=torch.stack([grid.drift_KMFYX for grid in grids]).to(device),
        fill_BKF=spread_over_frames(~torch.tensor(list(given)), cells_BKCFYX.shape[3]).to(device),
        rows=rows,
        layout=GRID,
    )


def _some_given(layout: GridLayout, generator: torch.Generator) -> list[bool]:
    """Draw one to all but one given cell."""
    given: list[bool] = (~random_fill_mask(1, layout, generator)[0]).tolist()
    return given


def _late_error(error_BKCFYX: torch.Tensor, time_BKF: torch.Tensor) -> dict[str, float]:
    """Return the mean squared error of the data where nearly all is noise (t > 0.8), if any."""
    late_BKF = time_BKF > 0.8
    if not late_BKF.any():
        return {}
    error_BKF = error_BKCFYX.square().mean((2, 4, 5)) * time_BKF.square()
    return {"late_error": float(error_BKF[late_BKF].mean())}


def token_places(
    cells_BKCFYX: torch.Tensor, layout: GridLayout, dit: GridTransformer, margin: float = 0.0
) -> TokenPlaces:
    """Return where the tokens of these cells stand, margin and all."""
    patch, pitch = dit.config.patch, dit.config.cell_pitch
    pitch_YX = None if pitch is None else (pitch, pitch)
    frames, rows, columns = cells_BKCFYX.shape[3:]
    shape = TokenShape(frames=frames // patch[0], rows=rows // patch[1], cols=columns // patch[2])
    return TokenPlaces(
        coordinates_S3=token_coordinates(layout, shape, pitch_YX).to(cells_BKCFYX.device),
        position_S=grid_positions(layout, shape).to(cells_BKCFYX.device),
        margin=margin,
    )
