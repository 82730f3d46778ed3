"""What `mini` predicts, and the velocity that follows from it."""

import pytest
import torch

from dcgrid.flow.path import noisy, velocity_target
from dcgrid.models.native.signals import linear_guess, noise_guess, velocity_of_mixture

SPREAD_C = torch.tensor([3.0, 1.0, 0.4]).double()


@pytest.mark.parametrize("noise_scale", [1.0, 1.9])
def test_mixture_of_the_truth_is_the_velocity_of_the_path(noise_scale: float) -> None:
    generator = torch.Generator().manual_seed(4)
    data, noise = torch.randn(2, 1, 3, 3, 5, 4, 4, generator=generator).double()
    time = torch.rand(1, 3, 5, generator=generator).double().clamp_min(0.01)
    time[0, 0, 0] = 1.0
    noisy_cells = noisy(data, noise, time, noise_scale)
    t, s = time[:, :, None, :, None, None], SPREAD_C.reshape(3, 1, 1, 1)
    spread = ((s * (1 - t)) ** 2 + t**2).sqrt()
    keep = s**2 * (1 - t) / spread**2
    mixture = (data - keep * noisy_cells) * spread / (s * t)
    velocity = velocity_of_mixture(noisy_cells, mixture, time, SPREAD_C)
    torch.testing.assert_close(velocity, velocity_target(data, noise, noise_scale))


def test_mixture_says_data_at_noise_and_changes_nothing_at_data() -> None:
    noisy_cells, mixture = torch.randn(2, 1, 1, 3, 1, 8, 8).double()
    at_noise = velocity_of_mixture(noisy_cells, mixture, torch.ones(1, 1, 1).double(), SPREAD_C)
    data = mixture * SPREAD_C.reshape(3, 1, 1, 1)
    torch.testing.assert_close(noisy_cells - at_noise, data)
    near_data = torch.full((1, 1, 1), 1e-9).double()
    estimate = noisy_cells - near_data[0, 0, 0] * velocity_of_mixture(
        noisy_cells, mixture, near_data, SPREAD_C
    )
    torch.testing.assert_close(estimate, noisy_cells, rtol=0, atol=1e-7)
    at_data = velocity_of_mixture(noisy_cells, mixture, torch.zeros(1, 1, 1).double(), SPREAD_C)
    assert at_data.isfinite().all()


@pytest.mark.parametrize("spread", [0.4, 1.0, 3.0])
def test_mixture_has_unit_spread_at_every_time(spread: float) -> None:
    generator = torch.Generator().manual_seed(6)
    data, noise = torch.randn(2, 1, 1, 1, 1, 300, 300, generator=generator).double()
    data, spread_C = data * spread, torch.tensor([spread]).double()
    for t in (0.05, 0.3, 0.5, 0.8, 1.0):
        time = torch.full((1, 1, 1), t).double()
        mixed = (1 - t) * data + t * noise
        # A mixture of 0 gives the best linear guess; what it misses is what is left to say.
        missed = velocity_of_mixture(mixed, torch.zeros_like(mixed), time, spread_C)
        power = (spread * (1 - t)) ** 2 + t**2
        mixture = (missed - (noise - data)) * power**0.5 / spread
        assert mixture.std().item() == pytest.approx(1, abs=0.02)
        # It does not follow from the input.
        assert (mixture * mixed).mean().item() == pytest.approx(0, abs=0.02 * spread)


def test_the_guess_that_a_network_is_shown_is_the_best_linear_one() -> None:
    """x0 = x_t - t v with nothing predicted must be what `linear_guess` shows."""
    noisy_cells = torch.randn(1, 2, 3, 2, 4, 4).double()
    time = torch.tensor([[[0.2, 1.0], [0.7, 0.5]]]).double()
    nothing = torch.zeros_like(noisy_cells)
    velocity = velocity_of_mixture(noisy_cells, nothing, time, SPREAD_C)
    guess = noisy_cells - time[:, :, None, :, None, None] * velocity
    torch.testing.assert_close(linear_guess(noisy_cells, time, SPREAD_C), guess)


def test_the_guess_of_the_noise_is_the_best_linear_one() -> None:
    """What it misses is not correlated with the input; at noise and at data it is exact."""
    generator = torch.Generator().manual_seed(8)
    data, noise = torch.randn(2, 1, 1, 3, 1, 300, 300, generator=generator).double()
    data = data * SPREAD_C.reshape(3, 1, 1, 1)
    for t in (0.2, 0.6, 0.9):
        time = torch.full((1, 1, 1), t).double()
        mixed = (1 - t) * data + t * noise
        missed = noise_guess(mixed, time, SPREAD_C) - noise
        assert (missed * mixed).mean((0, 1, 3, 4, 5)).abs().max() < 0.02
    one, zero = torch.ones(1, 1, 1).double(), torch.zeros(1, 1, 1).double()
    assert torch.equal(noise_guess(noise, one, SPREAD_C), noise)
    assert not noise_guess(data, zero, SPREAD_C).any()
