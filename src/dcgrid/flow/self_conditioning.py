"""Self-conditioning: a network reads its own last estimate of the clean latents.

    call 1     x_t, zeros      -> v,  x0 = x_t - t v
    call 2     x_t', that x0   -> v', x0' ...

Each text of guidance has estimates of its own, as in training: an estimate that was guided is none
that the network ever read. What is given needs no estimate and has zeros in every call, so what a
`models.base.Memory` keeps of it stays right.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns.

Paper: sec. 8, Table 5. Differs: docs/decisions/0023.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dcgrid.flow.path import data_from_velocity, spread_time
from dcgrid.flow.sampler import VelocityFn

EstimatedVelocityFn = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Maps cells_BKCFYX, time_BKF and an estimate of the clean cells, or None, to velocity_BKCFYX."""


def clean_estimate(noisy_BKCFYX: Tensor, velocity_BKCFYX: Tensor, time_BKF: Tensor) -> Tensor:
    """Return the clean latents that a velocity points to; zeros where t = 0."""
    estimate_BKCFYX = data_from_velocity(noisy_BKCFYX, velocity_BKCFYX, time_BKF)
    return torch.where(spread_time(time_BKF) > 0, estimate_BKCFYX, 0.0)


def self_conditioned(velocity: EstimatedVelocityFn) -> VelocityFn:
    """Return a velocity that reads its own last estimate; of one text, for one sampling at a time.

    A time above that of the call before begins another sampling, whose first estimate is none.
    """
    last: tuple[float, Tensor] | None = None

    def conditioned(cells_BKCFYX: Tensor, time_BKF: Tensor) -> Tensor:
        nonlocal last
        time = float(time_BKF.max())
        estimate = None if last is None or time > last[0] else last[1]
        found_BKCFYX = velocity(cells_BKCFYX, time_BKF, estimate)
        last = time, clean_estimate(cells_BKCFYX, found_BKCFYX.to(cells_BKCFYX.dtype), time_BKF)
        return found_BKCFYX

    return conditioned


def unconditioned(velocity: EstimatedVelocityFn) -> VelocityFn:
    """Return a velocity that reads no estimate."""
    return lambda cells_BKCFYX, time_BKF: velocity(cells_BKCFYX, time_BKF, None)
