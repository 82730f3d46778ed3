"""Self-conditioning in training: some steps see the network's own first estimate.

Paper: sec. 8, Table 5 (probability 0.9; none in Grid-Fill)
"""

import torch
from torch import Tensor

from dcgrid.errors import RecipeError
from dcgrid.flow.self_conditioning import EstimatedVelocityFn, clean_estimate
from dcgrid.train.settings import TrainRecipe
from dcgrid.train.world.clips import chance


def check_self_conditioning(recipe: TrainRecipe, *, network: bool) -> None:
    """Check that a network has an input for the estimates that a recipe asks for.

    Args:
        recipe: Of any stage.
        network: True: it has one.

    Raises:
        RecipeError: It has none, or the share is no probability.
    """
    share = recipe.loss.get("self_conditioning", 0.0)
    if share > 1:
        raise RecipeError(
            f"stage {recipe.stage}: loss.self_conditioning must be from 0 to 1, not {share:g}",
            hint=f"compare recipes/train/{recipe.stage}.toml",
        )
    if share and not network:
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
) -> Tensor | None:
    """Return the network's first estimate of the clean latents in a share of cases, else None.

    Args:
        velocity: The network.
        state: Noisy cells BKCFYX and their times BKF; the estimate is of this very state.
        share: Probability of an estimate; at 0 no chance is drawn.
        generator: Source of chance; None: only with a share of 0.
    """
    if not share or generator is None or chance(generator) >= share:
        return None
    with torch.no_grad():
        return clean_estimate(state[0], velocity(*state, None), state[1])
