"""The path and its loss, against worked values and an analytic optimum."""

import pytest
import torch

from dcgrid.flow.path import (
    data_from_velocity,
    flow_loss,
    noisy,
    velocity_target,
)

SHAPE = (2, 4, 3, 2, 5, 6)


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return data, noise and times in (0, 1), float64."""
    generator = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    return data, noise, torch.rand(2, 4, 2, generator=generator, dtype=torch.float64)


def test_ends_of_the_path() -> None:
    data, noise, time = draw(0)
    assert torch.equal(noisy(data, noise, torch.zeros_like(time), 1.9), data)
    assert torch.equal(noisy(data, noise, torch.ones_like(time), 1.9), 1.9 * noise)


def test_time_belongs_to_cell_and_frame() -> None:
    data, noise, time = draw(1)
    x = noisy(data, noise, time, 1.75)
    for b, k, f in [(0, 0, 0), (1, 3, 1), (0, 2, 1)]:
        t = float(time[b, k, f])
        expected = (1 - t) * data[b, k, :, f] + t * 1.75 * noise[b, k, :, f]
        torch.testing.assert_close(x[b, k, :, f], expected)


def test_target_is_the_derivative_of_the_path() -> None:
    data, noise, time = draw(2)
    step = 1e-6
    slope = (noisy(data, noise, time + step, 1.8) - noisy(data, noise, time - step, 1.8)) / (
        2 * step
    )
    torch.testing.assert_close(slope, velocity_target(data, noise, 1.8), atol=1e-8, rtol=1e-7)


def test_a_velocity_points_to_the_data() -> None:
    data, noise, time = draw(3)
    time[0, 0] = 0
    x, v = noisy(data, noise, time, 1.9), velocity_target(data, noise, 1.9)
    torch.testing.assert_close(data_from_velocity(x, v, time), data)


def test_loss_covers_filled_cells_only() -> None:
    data, noise, _ = draw(4)
    target = velocity_target(data, noise)
    guess = (target + 2).requires_grad_()
    fill = torch.ones(2, 4, 2, dtype=torch.bool)
    fill[:, 0] = False
    fill[1, 2, 0] = False
    broken = guess.detach().clone()
    broken[:, 0] = float("nan")
    assert flow_loss(broken, target, fill) == pytest.approx(4.0)
    flow_loss(guess, target, fill).backward()
    assert guess.grad is not None
    touched = guess.grad.abs().sum(dim=(2, 4, 5)) > 0
    assert torch.equal(touched, fill)
    assert flow_loss(guess.detach(), target, fill[:1]) == pytest.approx(4.0)
    with pytest.raises(ValueError, match="at least one"):
        flow_loss(guess, target, torch.zeros_like(fill))


@pytest.mark.parametrize("time", [0.2, 0.7])
def test_optimum_of_the_loss_is_the_known_velocity_of_gaussian_data(time: float) -> None:
    """For x0 ~ N(m, d^2) the best v is linear in x_t; least squares on the loss must find it."""
    mean, deviation, scale, count = 0.6, 0.5, 1.8, 400_000
    generator = torch.Generator().manual_seed(5)
    shape = (1, 1, 1, 1, 1, count)
    data = mean + deviation * torch.randn(shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    times = torch.full((1, 1, 1), time, dtype=torch.float64)
    x = noisy(data, noise, times, scale)
    variance = (1 - time) ** 2 * deviation**2 + time**2 * scale**2
    slope = (time * scale**2 - (1 - time) * deviation**2) / variance
    exact = torch.tensor([slope, -mean - slope * (1 - time) * mean])
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = flow_loss(
            weights[0] * x + weights[1],
            velocity_target(data, noise, scale),
            torch.ones(1, 1, 1, dtype=torch.bool),
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(weights.detach().float(), exact, atol=0.02, rtol=0.02)
