"""Estimates that are fed back: which call gets which, and what of given cells."""

import torch
from torch import Tensor

from dcgrid.flow.path import noisy, velocity_target
from dcgrid.flow.self_conditioning import LastEstimate, clean_estimate

SHAPE = (1, 2, 3, 2, 4, 4)


def seeded(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_a_true_velocity_points_to_the_data_and_what_is_given_has_zeros() -> None:
    data, noise = seeded(1), seeded(2)
    time_BKF = torch.tensor([[[0.0, 0.0], [0.7, 0.7]]])
    state = noisy(data, noise, time_BKF, 1.8)
    estimate = clean_estimate(state, velocity_target(data, noise, 1.8), time_BKF)
    assert torch.allclose(estimate[:, 1], data[:, 1], atol=1e-5)
    assert not estimate[:, 0].any()


def test_a_call_reads_what_the_call_before_made_of_its_own_state() -> None:
    last, read = LastEstimate(), list[Tensor | None]()
    states = [seeded(number) for number in range(4)]
    times = (0.9, 0.6, 0.6, 0.95)
    for state, time in zip(states, times, strict=True):
        time_BKF = torch.full((1, 2, 2), time)
        read.append(last.before(time_BKF))
        last.keep(state, 2 * state, time_BKF)
    assert read[0] is None
    for number in (1, 2):
        before, time = states[number - 1], times[number - 1]
        assert torch.allclose(read[number], before - time * 2 * before)  # type: ignore[arg-type]
    # Time rose: another sampling, of which nothing is known.
    assert read[3] is None
