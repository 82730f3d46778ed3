"""What `mini` predicts, and the velocity that follows from it."""

import pytest
import torch

from dcgrid.flow.path import noisy, velocity_target
from dcgrid.models.native.signals import velocity_of_mixture


@pytest.mark.parametrize("noise_scale", [1.0, 1.9])
def test_mixture_of_the_truth_is_the_velocity_of_the_path(noise_scale: float) -> None:
    generator = torch.Generator().manual_seed(4)
    data, noise = torch.randn(2, 1, 3, 2, 5, 4, 4, generator=generator).double()
    time = torch.rand(1, 3, 5, generator=generator).double().clamp_min(0.01)
    time[0, 0, 0] = 1.0
    noisy_cells = noisy(data, noise, time, noise_scale)
    t = time[:, :, None, :, None, None]
    keep = (1 - t) / ((1 - t) ** 2 + t**2)
    mixture = (data - keep * noisy_cells) * ((1 - t) ** 2 + t**2).sqrt() / t
    velocity = velocity_of_mixture(noisy_cells, mixture, time)
    torch.testing.assert_close(velocity, velocity_target(data, noise, noise_scale))


def test_mixture_says_data_at_noise_and_changes_nothing_at_data() -> None:
    noisy_cells, mixture = torch.randn(2, 1, 1, 4, 1, 8, 8).double()
    at_noise = velocity_of_mixture(noisy_cells, mixture, torch.ones(1, 1, 1).double())
    torch.testing.assert_close(noisy_cells - at_noise, mixture)
    near_data = torch.full((1, 1, 1), 1e-9).double()
    estimate = noisy_cells - near_data[0, 0, 0] * velocity_of_mixture(
        noisy_cells, mixture, near_data
    )
    torch.testing.assert_close(estimate, noisy_cells, rtol=0, atol=1e-7)
    assert velocity_of_mixture(noisy_cells, mixture, torch.zeros(1, 1, 1).double()).isfinite().all()


def test_mixture_has_unit_spread_at_every_time() -> None:
    generator = torch.Generator().manual_seed(6)
    data, noise = torch.randn(2, 1, 1, 1, 1, 300, 300, generator=generator).double()
    for t in (0.05, 0.3, 0.5, 0.8, 1.0):
        mixed = (1 - t) * data + t * noise
        power = (1 - t) ** 2 + t**2
        # v = from_noisy x_t - m / sqrt(power), solved for m with the true velocity.
        mixture = ((2 * t - 1) / power * mixed - (noise - data)) * power**0.5
        assert mixture.std().item() == pytest.approx(1, abs=0.02)
        # What is left to say does not follow from the input.
        assert (mixture * mixed).mean().item() == pytest.approx(0, abs=0.02)
