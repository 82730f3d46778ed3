"""Stages `base` and `fill`: the transformer, and the Grid-Fill adapter on it.

`base` learns text to video, single clips and grids of one clip under several effects, all cells at
one time, so that it knows panes in context as large video models do; no cell is ever given.
`fill` trains a LoRA: given cells are clean at time 0 and out of the loss.

Letters: B batch, K cells, C channels, M moving channels of noise, F Y X latent frames/rows/columns.

Paper: sec. 3.1 (flow matching), sec. 3.3 (Grid-Fill), sec. 8.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from dcgrid.flow.path import flow_loss, noisy, velocity_target
from dcgrid.flow.schedule import TrainingTimes
from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.grid.masks import flow_times, random_fill_mask, spread_over_frames
from dcgrid.grid.offset import MARGIN, narrow_cells, widen_cells
from dcgrid.models.base import TokenPlaces
from dcgrid.models.native.backbone import encode_rows
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.text import TextEncoder
from dcgrid.runtime.device import autocast, choose_dtype
from dcgrid.train.captions import Captions
from dcgrid.train.panes import FusionPool, PanePool, PaneSet
from dcgrid.train.settings import Phase, TrainRecipe
from dcgrid.train.world.clips import chance

_FUSION = "fusion."
"""What the names of compositions begin with in a checkpoint."""
HEAD_FRAMES = 2
"""Latent frames that a window takes over from the one before; `ModelSpec.carried_frames` in pixel
frames."""
SINGLE, GRID = GridLayout(rows=1, cols=1), GridLayout(rows=2, cols=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch of training grids."""

    cells_BKCFYX: torch.Tensor
    """Clean latents."""
    luck_BKMFYX: torch.Tensor
    """The moving noise that each cell's effect was rendered from."""
    fill_BKF: torch.Tensor
    """True where the model paints and the loss counts."""
    rows: list[list[str]]
    """Texts that each cell reads, B * K lists."""
    layout: GridLayout
    """The grid."""


class GridStage:
    """The loss of `base` and `fill`; they differ in what is given and what is trained."""

    def __init__(
        self,
        networks: tuple[DiT, TextEncoder],
        pools: tuple[PanePool, FusionPool],
        captions: Captions,
        recipe: TrainRecipe,
        trained: dict[str, nn.Parameter],
    ) -> None:
        self.dit, self.text = networks
        self.pool, self.fusions = pools
        self.captions = captions
        self.recipe = recipe
        self.trained = trained

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what this stage trains, by name."""
        return self.trained

    def loss(
        self, phase: Phase, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the flow-matching loss over painted cells. Paper: sec. 3.1, 3.3."""
        knobs = self.recipe.loss
        batch = self._batch(phase, generator)
        device = batch.cells_BKCFYX.device
        time_BKF = flow_times(self._times(batch, generator).to(device), batch.fill_BKF)
        noise = torch.randn(batch.cells_BKCFYX.shape, generator=generator).to(device)
        if moving := len(self.dit.config.noise_motion):
            noise[:, :, -moving:] = batch.luck_BKMFYX
        noised = noisy(batch.cells_BKCFYX, noise, time_BKF, knobs["noise_scale"])
        patch = self.dit.config.patch
        offset = chance(generator) < knobs["offset_share"]
        shown = widen_cells(noised, patch) if offset else noised
        places = token_places(shown, batch.layout, self.dit, MARGIN if offset else 0.0)
        with autocast(device, choose_dtype(self.recipe.precision, device)):
            text = encode_rows(self.text, batch.rows, batch.layout.count)
            velocity = self.dit(shown, time_BKF, text, places).float()
        velocity = narrow_cells(velocity, patch) if offset else velocity
        target = velocity_target(batch.cells_BKCFYX, noise, knobs["noise_scale"])
        root_C = self._channel_weights().sqrt().reshape(-1, 1, 1, 1)
        loss = flow_loss(velocity * root_C, target * root_C, batch.fill_BKF)
        return loss, _late_error(velocity.detach() - target, time_BKF)

    def remember(self) -> dict[str, torch.Tensor]:
        """Return what both stocks of panes were rendered from; see `PanePool.remember`."""
        fusions = {f"{_FUSION}{name}": t for name, t in self.fusions.remember().items()}
        return {**self.pool.remember(), **fusions}

    def recall(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Put back the stocks of panes; see `PanePool.recall`."""
        fusions = {n.removeprefix(_FUSION): t for n, t in kept.items() if n.startswith(_FUSION)}
        self.pool.recall({n: t for n, t in kept.items() if not n.startswith(_FUSION)})
        self.fusions.recall(fusions)

    def _channel_weights(self) -> torch.Tensor:
        """Return the weight of each latent channel in the loss, mean 1, shape C.

        An error counts in pixels as the square of its channel's scale; `pixel_weight` leads from
        the plain loss (0) to that (1).
        """
        share = self.recipe.loss["pixel_weight"]
        power_C = self.pool.autoencoder.latent_scale.square()
        return 1 - share + share * power_C / power_C.mean()

    def _times(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """Draw a flow time for each grid; some stand at 1, where a single step starts."""
        grids = len(batch.cells_BKCFYX)
        times_B = TrainingTimes(shift=self.recipe.loss["time_shift"]).draw(grids, generator)
        at_noise_B = torch.rand(grids, generator=generator) < self.recipe.loss["noise_share"]
        return times_B.masked_fill(at_noise_B, 1.0)

    def _batch(self, phase: Phase, generator: torch.Generator) -> Batch:
        knobs = self.recipe.loss
        fresh = 1 if chance(generator) < knobs["fresh"] else 0
        fusing = chance(generator) < knobs["fusion_share"]
        sets = (self.fusions if fusing else self.pool).draw(phase, generator, fresh=fresh)
        single = chance(generator) < knobs["single_share"]
        layout = SINGLE if single else GRID
        cells, luck, rows, given = [], [], [], []
        for panes in sets:
            chosen, given_K = self._choose(panes, layout, generator)
            cells.append(panes.latents_VCFYX[chosen])
            luck.append(panes.luck_VMFYX[chosen])
            given.append(given_K)
            if chance(generator) < knobs["text_masking"]:
                rows += [[""]] * layout.count
            elif single:
                rows.append(self.captions.clip_row(panes, chosen[0], generator))
            else:
                rows += self.captions.grid_rows(panes, chosen, generator)
        cells_BKCFYX = torch.stack(cells)
        # Its own memory, for heads are cut out of it.
        fill_BKF = spread_over_frames(~torch.tensor(given), cells_BKCFYX.shape[3]).clone()
        return Batch(
            cells_BKCFYX=cells_BKCFYX,
            luck_BKMFYX=torch.stack(luck),
            fill_BKF=self._with_heads(fill_BKF, generator).to(cells_BKCFYX.device),
            rows=rows,
            layout=layout,
        )

    def _with_heads(self, fill_BKF: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Give the first latent frames of all cells of some grids.

        So stand later windows of a long clip, see pipelines/windows.py.
        """
        share = self.recipe.loss.get("window_share", 0.0)
        for fill_KF in fill_BKF:
            if share and chance(generator) < share:
                fill_KF[:, : min(HEAD_FRAMES, fill_KF.shape[1] - 1)] = False
        return fill_BKF

    def _choose(
        self, panes: PaneSet, layout: GridLayout, generator: torch.Generator
    ) -> tuple[list[int], list[bool]]:
        """Draw the pane of each cell and which cells are given.

        In `fill` the usual case is that of `edit`: the clip as it is stands in the first cell and
        is given. Otherwise any pane may be given, one to all but one.
        """
        if panes.element:
            return self._choose_fusion(layout, generator)
        count = len(panes.effects)
        order = torch.randperm(count, generator=generator).tolist()
        if self.recipe.stage == "base":
            return order[: layout.count], [False] * layout.count
        if chance(generator) < self.recipe.loss["edit_share"]:
            effects = [i for i in order if i][: layout.count - 1]
            return [0, *effects], [True] + [False] * (layout.count - 1)
        return order[: layout.count], _some_given(layout, generator)

    def _choose_fusion(
        self, layout: GridLayout, generator: torch.Generator
    ) -> tuple[list[int], list[bool]]:
        """Draw what is given of a composition, whose panes have fixed cells.

        In `fill` the usual case is that of `compose`: both sources are given.
        """
        if self.recipe.stage == "base":
            order = torch.randperm(4, generator=generator).tolist()
            return (order[:1] if layout == SINGLE else [0, 1, 2, 3]), [False] * layout.count
        if chance(generator) < self.recipe.loss["edit_share"]:
            return [0, 1, 2, 3], [True, True, False, False]
        return [0, 1, 2, 3], _some_given(layout, generator)


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
    cells_BKCFYX: torch.Tensor, layout: GridLayout, dit: DiT, margin: float = 0.0
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
