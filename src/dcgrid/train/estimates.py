"""Self-conditioning in training: some steps see the network's own first estimate.

Paper: sec. 8, Table 5 (probability 0.9; none in Grid-Fill)
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from dcgrid.errors import RecipeError
from dcgrid.flow.self_conditioning import EstimatedVelocityFn, clean_estimate
from dcgrid.synthetic.world_clips import chance
from dcgrid.train.settings import TrainRecipe


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
    *,
    in_pieces: bool = False,
) -> Tensor | None:
    """Return the network's first estimate of the clean latents in a share of cases, else None.

    Args:
        velocity: The network.
        state: Noisy cells BKCFYX and their times BKF; the estimate is of this very state.
        share: Probability of an estimate; at 0 no chance is drawn.
        generator: Source of chance; None: only with a share of 0.
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
