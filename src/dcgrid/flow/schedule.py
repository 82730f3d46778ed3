"""When to look at the path: times of the sampler, and times drawn in training.

Letters: B batch.
"""

from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from dcgrid.errors import UsageError

_Time = TypeVar("_Time", float, Tensor)


def shift_time(time: _Time, shift: float) -> _Time:
    """Move times in [0, 1] towards noise: shift t / (1 + (shift - 1) t); 1 moves nothing."""
    return shift * time / (1 + (shift - 1) * time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Times that a sampler visits, from noise (1) to data (0).

    >>> Schedule(num_inference_steps=2, shift=3.0).times()
    (1.0, 0.75, 0.0)
    """

    num_inference_steps: int
    """Steps; >= 1. The model is asked once a step and branch (Heun: nearly twice)."""
    shift: float = 1.0
    """Shift towards noise; > 0, 1 spaces the times evenly."""

    def __post_init__(self) -> None:
        """Refuse settings without a schedule.

        Raises:
            UsageError: If there is no step or the shift is not above 0.
        """
        if self.num_inference_steps < 1:
            raise UsageError(
                f"{self.num_inference_steps} sampling steps cannot reach a picture",
                hint="Use --num-inference-steps 1 or more; 16 to 40 are usual.",
            )
        if not 0 < self.shift < float("inf"):
            raise UsageError(
                f"time shift {self.shift} is not above 0", hint="Set the recipe's shift to 1 or so."
            )

    def times(self) -> tuple[float, ...]:
        """Return num_inference_steps + 1 falling times; the first is 1.0, the last 0.0 exactly."""
        steps = self.num_inference_steps
        inner = [shift_time(1 - step / steps, self.shift) for step in range(1, steps)]
        return (1.0, *inner, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTimes:
    """How flow times are drawn in training."""

    kind: Literal["uniform", "logit_normal"] = "uniform"
    """uniform on [0, 1), or the sigmoid of a normal variable (more in the middle)."""
    mean: float = 0.0
    """Mean of that normal variable; above 0 means more noise."""
    std: float = 1.0
    """Its standard deviation; > 0."""
    shift: float = 1.0
    """Shift towards noise of what was drawn; > 0, 1 is none."""

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return time_B in [0, 1], float32, on the CPU.

        Args:
            batch: Number of times B.
            generator: Source of chance, on the CPU.
        """
        if self.kind == "uniform":
            time_B = torch.rand(batch, generator=generator)
        else:
            time_B = torch.randn(batch, generator=generator).mul(self.std).add(self.mean).sigmoid()
        return shift_time(time_B, self.shift)
