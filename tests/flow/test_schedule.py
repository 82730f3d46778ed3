"""Schedules and training times."""

import doctest
import math
from itertools import pairwise

import pytest
import torch

from dcgrid.errors import UsageError
from dcgrid.flow import schedule as schedule_module
from dcgrid.flow.schedule import Schedule, TrainingTimes, shift_time


def test_doctest() -> None:
    result = doctest.testmod(schedule_module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_times_fall_from_one_to_zero(steps: int, shift: float) -> None:
    times = Schedule(num_inference_steps=steps, shift=shift).times()
    assert len(times) == steps + 1
    assert times[0] == 1.0
    assert times[-1] == 0.0
    assert all(a > b for a, b in pairwise(times))
    # Undo the shift by its own inverse (shift 1/s): the times must be even again.
    even = [shift_time(t, 1 / shift) for t in times]
    assert even == pytest.approx([1 - i / steps for i in range(steps + 1)])


@pytest.mark.parametrize("bad", [{"num_inference_steps": 0}, {"shift": 0.0}, {"shift": math.nan}])
def test_bad_schedule(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Schedule(**{"num_inference_steps": 4, **bad})  # type: ignore[arg-type]


def test_uniform_and_shifted_times() -> None:
    time = TrainingTimes().draw(50_000, torch.Generator().manual_seed(0))
    assert float(time.min()) >= 0
    assert float(time.max()) < 1
    assert float(time.mean()) == pytest.approx(0.5, abs=0.01)
    shifted = TrainingTimes(shift=3.0).draw(50_000, torch.Generator().manual_seed(0))
    # P(t' < 0.75) = P(t < 0.5), as 0.5 is moved to 0.75.
    assert float((shifted < 0.75).float().mean()) == pytest.approx(0.5, abs=0.01)


def test_logit_normal_times() -> None:
    times = TrainingTimes(kind="logit_normal", mean=0.5, std=0.8)
    time = times.draw(50_000, torch.Generator().manual_seed(1))
    logits = torch.logit(time)
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(logits.std()) == pytest.approx(0.8, abs=0.02)
