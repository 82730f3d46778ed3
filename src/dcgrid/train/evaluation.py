"""Eval losses: the same grids, noise and flow times in every run, so that runs can be compared.

Nothing here draws from the run's own chance: a run with eval losses ends with the same weights, bit
for bit, as one without.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from dcgrid.train.checkpoint import TrainState
from dcgrid.train.scale import in_pieces, own

EVAL_TIMES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Flow times that a loss is measured at."""
EVAL_SEED = 20_001
"""Seed of grids and noise, whatever the run's seed is."""


@runtime_checkable
class Evaluates(Protocol):
    """A stage that can be measured on grids that never change."""

    def evaluate(self, grids: int) -> Mapping[float, float]:
        """Return the loss at each of EVAL_TIMES, the mean of so many fixed grids.

        It draws from no generator of the run and leaves everything as it was.
        """


def eval_losses(stage: Evaluates, state: TrainState, grids: int) -> dict[str, float]:
    """Measure the averaged weights, or the last ones: `eval_0.1` ... and their mean `eval`."""
    with looking_at(state):
        losses = stage.evaluate(grids)
    named = {f"eval_{time}": loss for time, loss in losses.items()}
    return {**named, "eval": sum(losses.values()) / len(losses)}


@contextmanager
def looking_at(state: TrainState) -> Iterator[None]:
    """Show the averaged weights, or the last ones; afterwards weights and chance are as before."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.no_grad(), torch.random.fork_rng(devices), averaged_weights(state):
        yield


@contextmanager
def averaged_weights(state: TrainState) -> Iterator[None]:
    """Put the averaged weights in place of the trained ones, and these back.

    No copies are made, but of pieces: who gathers them looks at their memory and not at the
    parameter.
    """
    pieces = {
        n: own(state.parameters[n].detach()).clone()
        for n, average in state.ema.items()
        if in_pieces(average)
    }
    trained = {n: state.parameters[n].data for n in state.ema if n not in pieces}
    try:
        for name, average in state.ema.items():
            if name in pieces:
                own(state.parameters[name].detach()).copy_(own(average))
            else:
                state.parameters[name].data = average
        yield
    finally:
        for name, tensor in trained.items():
            state.parameters[name].data = tensor
        for name, piece in pieces.items():
            own(state.parameters[name].detach()).copy_(piece)


@contextmanager
def at_rest(*networks: nn.Module) -> Iterator[None]:
    """Switch dropout off, and back to what each module had."""
    modes = {module: module.training for network in networks for module in network.modules()}
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
