"""Self-conditioning: a network reads its own last estimate of the clean latents.

    call 1     x_t, zeros      -> v,  x0 = x_t - t v
    call 2     x_t', that x0   -> v', x0' ...

Each text of guidance has estimates of its own, as in training: an estimate that was guided is none
that the network ever read. What is given needs no estimate and has zeros in every call, so what a
`models.base.Memory` keeps of it stays right.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns.

Paper: sec. 8, Table 5. Differs: docs/decisions/0023.
"""

import torch
from torch import Tensor

from dcgrid.flow.path import data_from_velocity, spread_time


def clean_estimate(noisy_BKCFYX: Tensor, velocity_BKCFYX: Tensor, time_BKF: Tensor) -> Tensor:
    """Return the clean latents that a velocity points to; zeros where t = 0."""
    estimate_BKCFYX = data_from_velocity(noisy_BKCFYX, velocity_BKCFYX, time_BKF)
    return torch.where(spread_time(time_BKF) > 0, estimate_BKCFYX, 0.0)


class LastEstimate:
    """The last estimate under one text, for one sampling at a time."""

    def __init__(self) -> None:
        self._last: tuple[float, Tensor] | None = None

    def before(self, time_BKF: Tensor) -> Tensor | None:
        """Return the estimate that a call reads, BKCFYX.

        A time above that of the call before begins another sampling, whose first estimate is none.
        """
        if self._last is None or float(time_BKF.max()) > self._last[0]:
            return None
        return self._last[1]

    def keep(self, noisy_BKCFYX: Tensor, velocity_BKCFYX: Tensor, time_BKF: Tensor) -> None:
        """Keep the estimate of a call for the next one."""
        velocity_BKCFYX = velocity_BKCFYX.to(noisy_BKCFYX.dtype)
        estimate_BKCFYX = clean_estimate(noisy_BKCFYX, velocity_BKCFYX, time_BKF)
        self._last = float(time_BKF.max()), estimate_BKCFYX
