"""What stages base, dc, grid and fill share: a batch, its velocity, and sampling from noise.

Letters: B batch, K cells, C channels, M moving channels of noise, F Y X latent frames/rows/columns,
A adapters.

Paper: sec. 3.1 (flow matching), sec. 8, Table 5 (self-conditioning: 0.9; none in Grid-Fill)
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from dcgrid.errors import RecipeError
from dcgrid.flow.noise import draw_moving
from dcgrid.flow.path import flow_loss, noisy, velocity_target
from dcgrid.flow.self_conditioning import clean_estimate
from dcgrid.grid.coordinates import MARGIN, narrow_cells, widen_cells
from dcgrid.grid.layout import GridLayout
from dcgrid.grid.masks import flow_times
from dcgrid.models.text_masking import TokenMasking
from dcgrid.models.trunk import GridTransformer, NetworkBackbone, TextReader, VideoCodec
from dcgrid.pipelines.sampling import GridSampler, token_places
from dcgrid.runtime.device import autocast, training_dtype
from dcgrid.synthetic.world_clips import chance
from dcgrid.train.evaluation import EVAL_TIMES, at_rest
from dcgrid.train.scale import in_pieces
from dcgrid.train.settings import FlowLoss, TrainRecipe

SINGLE, GRID = GridLayout(rows=1, cols=1), GridLayout(rows=2, cols=2)
Networks = tuple[GridTransformer, TextReader]
"""Transformer with its adapters, and text encoder."""
EstimatedVelocityFn = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Maps cells_BKCFYX, time_BKF and an estimate of the clean cells, or None, to velocity_BKCFYX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch of training grids."""

    cells_BKCFYX: Tensor
    """Clean latents."""
    drift_BKMFYX: Tensor | None
    """The moving noise that each cell was rendered from; None: from none, so it is drawn."""
    fill_BKF: Tensor
    """True where the model generates and the loss counts."""
    rows: list[list[str]]
    """Texts that each cell reads, B * K lists."""
    layout: GridLayout
    """The grid."""


class FlowStage:
    """A loss of flow matching.

    Args:
        networks: What is trained, or stands under the adapters that are.
        autoencoder: Its scale of latents weights the channels.
        recipe: The stage's.
    """

    def __init__(self, networks: Networks, autoencoder: VideoCodec, recipe: TrainRecipe) -> None:
        self.dit, self.text = networks
        self.recipe = recipe
        self.route_KA: Tensor | None = None
        # An error counts in pixels as the square of its channel's scale; `pixel_weight` leads from
        # the plain loss (0) to that (1).
        share = recipe.loss_as(FlowLoss).pixel_weight
        power_C = autoencoder.latent_scale.square()
        weight_C = 1 - share + share * power_C / power_C.mean()
        self._root_C = weight_C.sqrt().reshape(-1, 1, 1, 1)

    def _flow_loss(
        self,
        batch: Batch,
        noise: Tensor,
        time_B: Tensor,
        generator: torch.Generator,
        *,
        offset: bool = False,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss over generated cells, and the error where nearly all is noise."""
        time_BKF = self._spread(time_B.to(noise.device), batch.fill_BKF)
        velocity = self._velocity(batch, noise, time_BKF, offset=offset, generator=generator)
        scale = self.recipe.loss_as(FlowLoss).noise_scale
        target = velocity_target(batch.cells_BKCFYX, noise, scale)
        # Roots, since the loss squares them.
        loss = flow_loss(velocity * self._root_C, target * self._root_C, batch.fill_BKF)
        # Where nearly all is noise the whole composition is decided, and the mean hides it.
        late_BKF = time_BKF > 0.8
        if not late_BKF.any():
            return loss, {}
        error_BKF = (velocity.detach() - target).square().mean((2, 4, 5)) * time_BKF.square()
        return loss, {"late_error": float(error_BKF[late_BKF].mean())}

    def _eval_losses(self, drawn: Iterable[tuple[Batch, Tensor]], count: int) -> dict[float, float]:
        """Return the mean loss at each flow time over `count` single grids with their noise.

        All channels count the same, whatever `pixel_weight` is, so that recipes can be compared.
        Grids are measured one by one: a batch of all would need more memory than training does.
        """
        scale = self.recipe.loss_as(FlowLoss).noise_scale
        losses = dict.fromkeys(EVAL_TIMES, 0.0)
        with at_rest(self.dit, self.text):
            for batch, noise in drawn:
                target = velocity_target(batch.cells_BKCFYX, noise, scale)
                for time in EVAL_TIMES:
                    time_B = torch.full((1,), time, device=noise.device)
                    time_BKF = self._spread(time_B, batch.fill_BKF)
                    velocity = self._velocity(batch, noise, time_BKF)
                    losses[time] += float(flow_loss(velocity, target, batch.fill_BKF)) / count
        return losses

    def _spread(self, time_B: Tensor, fill_BKF: Tensor) -> Tensor:
        """Return the time of every cell and frame: 0 where it is given, unless that is noised."""
        everywhere = self.recipe.given == "replace"
        return flow_times(time_B, torch.ones_like(fill_BKF) if everywhere else fill_BKF)

    def _noise(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Draw the noise of a batch; its last channels are what moves."""
        noise = torch.randn(batch.cells_BKCFYX.shape, generator=generator)
        motion = self.dit.config.noise_motion
        if motion and batch.drift_BKMFYX is None:
            for cell_CFYX in noise.flatten(0, 1):
                size_FYX = cell_CFYX.shape[1:]
                cell_CFYX[-len(motion) :] = draw_moving(size_FYX, motion, generator)
        noise = noise.to(batch.cells_BKCFYX.device)
        if motion and batch.drift_BKMFYX is not None:
            noise[:, :, -len(motion) :] = batch.drift_BKMFYX
        return noise

    def _velocity(
        self,
        batch: Batch,
        noise: Tensor,
        time_BKF: Tensor,
        *,
        offset: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Predict the velocity of a batch, on the grid of tokens that is set off or the plain.

        With a generator text tokens are masked and an earlier estimate is read as often as the
        recipe says; without one nothing is random.
        """
        loss, device = self.recipe.loss_as(FlowLoss), noise.device
        noised = noisy(batch.cells_BKCFYX, noise, time_BKF, loss.noise_scale)
        patch = self.dit.config.patch
        shown = widen_cells(noised, patch) if offset else noised
        config, pitch = self.dit.config, self.dit.config.cell_pitch
        places = token_places(
            batch.layout,
            shown.shape[3:],
            config.patch,
            None if pitch is None else (pitch, pitch),
            margin=MARGIN if offset else 0.0,
        ).to(device)
        # Masking, then the estimate: in this order a seed has drawn them since the first runs.
        masking = None
        if generator is not None and loss.text_masking:  # at 0 nothing is drawn for it
            masking = TokenMasking(share=loss.text_masking, generator=generator)
        route_KA = None if self.route_KA is None else self.route_KA.to(device)
        with autocast(device, training_dtype(self.recipe.precision, device)):
            text = self.text.read_rows(batch.rows, batch.layout.count, masking)

            def velocity(noised: Tensor, time_BKF: Tensor, estimate: Tensor | None) -> Tensor:
                if estimate is not None and offset:
                    estimate = widen_cells(estimate, patch)
                shown = widen_cells(noised, patch) if offset else noised
                found = self.dit(shown, time_BKF, text, places, route_KA, estimate).float()
                return narrow_cells(found, patch) if offset else found

            estimate = drawn_estimate(
                velocity,
                (noised, time_BKF),
                0.0 if generator is None else loss.self_conditioning,
                generator,
                in_pieces=any(map(in_pieces, self.dit.parameters())),
            )
            return velocity(noised, time_BKF, estimate)


def check_self_conditioning(recipe: TrainRecipe, *, network: bool) -> None:
    """Check that a network has an input for the estimates that a recipe uses.

    Args:
        recipe: Of any stage.
        network: True: it has one.

    Raises:
        RecipeError: It has none.
    """
    if recipe.self_conditioned and not network:
        share = recipe.loss_as(FlowLoss).self_conditioning
        raise RecipeError(
            f"stage {recipe.stage}: loss.self_conditioning = {share:g}, but this network takes no "
            "earlier estimate",
            hint="set it to 0 in the model's own table, as [mini.loss] does",
        )


def drawn_estimate(
    velocity: EstimatedVelocityFn,
    state: tuple[Tensor, Tensor],
    share: float,
    generator: torch.Generator | None,
    *,
    in_pieces: bool = False,
) -> Tensor | None:
    """Return the network's first estimate of the clean latents in a share of cases, else None.

    Args:
        velocity: The network.
        state: Noisy cells BKCFYX and their times BKF; the estimate is of this very state.
        share: Probability of an estimate; at 0 nothing is drawn from the generator.
        generator: Source of randomness; None: only with a share of 0.
        in_pieces: True: weights lie in pieces on several processes, which draw for themselves but
            must all gather them equally often; an estimate that was not drawn is made and left.
    """
    if not share or generator is None:
        return None
    drawn = chance(generator) < share
    if not drawn and not in_pieces:
        return None
    # The dropout of what follows is the same whether an estimate is left or never made.
    with torch.no_grad(), nullcontext() if drawn else torch.random.fork_rng():
        estimate = clean_estimate(state[0], velocity(*state, None), state[1])
    return estimate if drawn else None


@torch.no_grad()
def generate_cells(
    backbone: NetworkBackbone,
    rows: list[list[str]],
    noise_BKCFYX: Tensor,
    layout: GridLayout,
    num_inference_steps: int,
    guidance_scale: float = 1.0,
    given_BCFYX: Tensor | None = None,
) -> Tensor:
    """Generate the cells of grids from texts and noise.

    Args:
        backbone: The networks, at rest; its facts say noise scale, time shift and tokens.
        rows: Texts that each cell reads, B * K lists.
        noise_BKCFYX: Where sampling starts.
        layout: How the K cells of a grid lie.
        num_inference_steps: Steps of the sampler.
        guidance_scale: Guidance against the empty text; 1: none.
        given_BCFYX: Latents of the first cell; None: every cell is generated.

    Returns:
        Normalised latents, float32, BKCFYX.
    """
    sampler = GridSampler(backbone, layout, noise_BKCFYX.shape[3:])
    fill_KF = torch.ones(layout.count, noise_BKCFYX.shape[3], dtype=torch.bool)
    cells_BKCFYX = torch.zeros_like(noise_BKCFYX)
    if given_BCFYX is not None:
        fill_KF[0], cells_BKCFYX[:, 0] = False, given_BCFYX
    with autocast(backbone.device, backbone.dtype):
        text = backbone.parts.text.read_rows(rows, layout.count)
        empty = None
        if guidance_scale != 1:
            empty = backbone.parts.text.read_rows([[""]] * len(rows), layout.count)
    generated = [cell for cell in range(layout.count) if fill_KF[cell].any()]
    velocity = sampler.velocity(text, empty, dict.fromkeys(generated, guidance_scale))
    return sampler.sample(velocity, cells_BKCFYX, noise_BKCFYX, fill_KF, num_inference_steps)
