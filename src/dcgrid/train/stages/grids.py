"""Stages `base`, `grid` and `fill`: the transformer, and the adapters on it.

`base` trains text to video: single clips and grids of one clip under several effects, all cells at
one time, so that it knows variants in context as large video models do; no cell is ever given.
`grid` trains a LoRA on whole grids, in composition mode two that are routed to cells.
`fill` trains a LoRA: given cells are clean at time 0 and out of the loss.

Letters: B batch, K cells, C channels, M moving channels of noise, F Y X latent frames/rows/columns.

Paper: sec. 3.1 (flow matching), sec. 3.2 (Grid LoRA), sec. 3.3 (Grid-Fill), sec. 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from dcgrid.flow.schedule import TrainingTimes
from dcgrid.grid.layout import GridLayout
from dcgrid.grid.masks import random_fill_mask, spread_over_frames
from dcgrid.grid.routing import Routing, route_matrix
from dcgrid.synthetic.world_clips import chance
from dcgrid.train.data.captions import Captions
from dcgrid.train.data.generated_grids import (
    SampledGrid,
    SampledGrids,
    generated_share,
    needs_world,
)
from dcgrid.train.data.variants import FusionPool, VariantPool, VariantSet
from dcgrid.train.evaluation import EVAL_SEED
from dcgrid.train.settings import FillLoss, GridsLoss, Phase, TrainRecipe
from dcgrid.train.stages.flow_matching import (
    GRID,
    SINGLE,
    Batch,
    FlowStage,
    Networks,
)

_FUSION = "fusion."
"""What the names of compositions begin with in a checkpoint."""
HEAD_FRAMES = 2
"""Latent frames that a window takes over from the one before; `ModelSpec.carried_frames` in pixel
frames."""


def _apart(
    kept: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what is of variants, and what is of fusions, by the pools' own names."""
    fusions = {n.removeprefix(_FUSION): t for n, t in kept.items() if n.startswith(_FUSION)}
    return {n: t for n, t in kept.items() if not n.startswith(_FUSION)}, fusions


class GridStage(FlowStage):
    """The loss of `base`, `grid` and `fill`; they differ in what is given and what is trained."""

    def __init__(
        self,
        networks: Networks,
        pools: tuple[VariantPool, FusionPool],
        captions: Captions,
        recipe: TrainRecipe,
        trained: dict[str, nn.Parameter],
        sampled: SampledGrids | None = None,
    ) -> None:
        self.pool, self.fusions = pools
        super().__init__(networks, self.pool.autoencoder, recipe)
        self.captions = captions
        self.trained = trained
        self.sampled = sampled
        if recipe.stage == "grid" and recipe.mode == "composition":
            self.route_KA = route_matrix(GRID, Routing(mode="composition"))
        self._fixed: list[tuple[Batch, torch.Tensor]] = []

    @property
    def knobs(self) -> GridsLoss:
        """Weights and shares of the recipe."""
        return self.recipe.loss_as(GridsLoss)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what this stage trains, by name."""
        return self.trained

    def loss(
        self, phase: Phase, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the flow-matching loss over generated cells. Paper: sec. 3.1, 3.3."""
        batch = self._batch(phase, generator)
        time_B = self._times(len(batch.cells_BKCFYX), generator)
        noise = self._noise(batch, generator)
        offset = chance(generator) < self.knobs.offset_share
        return self._flow_loss(batch, noise, time_B, generator, offset=offset)

    def evaluate(self, grids: int) -> dict[float, float]:
        """Return the loss at each flow time on grids and noise that are the same in every run."""
        if len(self._fixed) != grids:
            self._fixed = self._fixed_grids(grids)
        return self._eval_losses(self._fixed, grids)

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

    def _times(self, grids: int, generator: torch.Generator) -> torch.Tensor:
        """Draw a flow time for each grid; some stand at 1, where a single step starts."""
        times_B = TrainingTimes(shift=self.knobs.time_shift).draw(grids, generator)
        at_noise_B = torch.rand(grids, generator=generator) < self.knobs.noise_share
        return times_B.masked_fill(at_noise_B, 1.0)

    def _batch(self, phase: Phase, generator: torch.Generator) -> Batch:
        knobs = self.knobs
        # Without generated grids no chance is drawn for them: such runs stay what they were.
        if self.sampled is not None and chance(generator) < generated_share(self.recipe):
            return self._sampled_batch(self.sampled, phase, generator)
        # Rendering and encoding cost more than the step: most sets come from the stock.
        fresh = 1 if chance(generator) < knobs.fresh else 0
        fusing = chance(generator) < knobs.fusion_share
        sets = (self.fusions if fusing else self.pool).draw(phase, generator, fresh=fresh)
        single = chance(generator) < knobs.single_share
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
        dropped = chance(generator) < self.knobs.caption_dropout
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
        if chance(generator) < self.recipe.loss_as(FillLoss).edit_share:
            return [True, self.recipe.mode == "composition", False, False]
        return _some_given(GRID, generator)

    def _with_heads(self, fill_BKF: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Give the first latent frames of all cells of some grids.

        So stand later windows of a long clip, see pipelines/windows.py.
        """
        loss = self.recipe.loss
        share = loss.window_share if isinstance(loss, FillLoss) else 0.0
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
        if chance(generator) < self.recipe.loss_as(FillLoss).edit_share:
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
        if chance(generator) < self.recipe.loss_as(FillLoss).edit_share:
            return [0, 1, 2, 3], [True, True, False, False]
        return [0, 1, 2, 3], _some_given(layout, generator)


def _read_by(rows: Sequence[list[str]], reading_K: Sequence[bool]) -> list[list[str]]:
    """Return texts of which only some cells read theirs; the others read nothing."""
    return [row if reads else [""] for row, reads in zip(rows, reading_K, strict=True)]


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
