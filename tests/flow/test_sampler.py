"""Sampling: given cells untouched, orders of convergence, exact Gaussian answers, guidance."""

import math
from typing import Literal

import pytest
import torch

from dcgrid.flow.noise import draw_noise
from dcgrid.flow.sampler import (
    SampleSettings,
    combine_guidance,
    sample,
)
from dcgrid.flow.schedule import Schedule

SHAPE = (2, 4, 3, 2, 4, 4)
FILL = torch.tensor([False, True, True, True])
Solver = Literal["euler", "heun", "ab2"]
SOLVERS: list[Solver] = ["euler", "heun", "ab2"]


def settings(steps: int, solver: Solver, **more: object) -> SampleSettings:
    """Return settings with an unshifted schedule unless told otherwise."""
    schedule = Schedule(num_inference_steps=steps, shift=float(more.pop("shift", 1.0)))  # type: ignore[arg-type]
    return SampleSettings(schedule=schedule, solver=solver, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", ["clean", "replace"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_given_cells_stay_bit_identical(solver: Solver, given: str, dtype: torch.dtype) -> None:
    cells = draw_noise(SHAPE, 1).to(dtype)
    cells[0, 0, 0, 0, 0, 0] = -0.0
    before = cells.clone()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def velocity(grid: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append((grid.clone(), time.clone()))
        return torch.randn(SHAPE, generator=torch.Generator().manual_seed(len(seen))).to(dtype)

    out = sample(velocity, cells, draw_noise(SHAPE, 2), FILL, settings(5, solver, given=given))
    bits = torch.int16 if dtype is torch.bfloat16 else torch.int32
    assert torch.equal(out[:, 0].view(bits), before[:, 0].contiguous().view(bits))
    assert torch.equal(cells, before)
    assert out.dtype == dtype
    assert not torch.equal(out[:, 1:], before[:, 1:])
    for grid, time in seen:
        if given == "clean":
            assert torch.equal(grid[:, 0].view(bits), before[:, 0].contiguous().view(bits))
            assert time[:, 0].eq(0).all()
        else:
            assert time[:, 0].eq(time[0, 1, 0]).all()
        assert time[:, 1:].eq(time[0, 1, 0]).all()
        assert time.shape == (2, 4, 2)


def test_replace_mode_noises_the_given_cells() -> None:
    cells, noise = draw_noise(SHAPE, 1), draw_noise(SHAPE, 2)
    seen = []

    def velocity(grid: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append((grid[:, 0].clone(), float(time[0, 0, 0])))
        return torch.zeros_like(grid)

    sample(velocity, cells, noise, FILL, settings(4, "euler", given="replace", noise_scale=1.7))
    assert [time for _, time in seen] == [1.0, 0.75, 0.5, 0.25]
    for grid, time in seen:
        torch.testing.assert_close(grid, (1 - time) * cells[:, 0] + time * 1.7 * noise[:, 0])


def test_what_filled_cells_held_is_not_read() -> None:
    noise = draw_noise(SHAPE, 2)
    outs = []
    for junk in (0.0, 7.0, math.nan):
        cells = draw_noise(SHAPE, 1)
        cells[:, 1:] = junk
        outs.append(sample(lambda x, _: -x, cells, noise, FILL, settings(3, "ab2")))
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


def convergence_order(solver: Solver, shift: float = 1.0) -> float:
    """Return the order measured on dx/dt = -3 x + sin(4 t) from t = 1 to t = 0."""

    def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return -3 * x + torch.sin(4 * time)[:, :, None, :, None, None].float()

    def particular(t: float) -> float:
        return (3 * math.sin(4 * t) - 4 * math.cos(4 * t)) / 25

    noise = draw_noise((1, 1, 1, 1, 1, 3), 0)
    exact = (noise - particular(1.0)) * math.exp(3.0) + particular(0.0)
    errors = []
    for steps in (32, 64):
        out = sample(
            velocity,
            torch.zeros_like(noise),
            noise,
            torch.tensor([True]),
            settings(steps, solver, shift=shift),
        )
        errors.append(float((out - exact).abs().max()))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("ab2", 2)])
def test_order_of_convergence(solver: Solver, order: int, shift: float) -> None:
    assert convergence_order(solver, shift) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_gaussian_data_with_its_exact_velocity(solver: Solver) -> None:
    """The exact flow maps s e to m + d e: each noise value has a known end point."""
    mean, deviation, scale = 0.8, 0.4, 1.8

    def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        t = time[:, :, None, :, None, None]
        variance = (1 - t) ** 2 * deviation**2 + t**2 * scale**2
        slope = (t * scale**2 - (1 - t) * deviation**2) / variance
        return -mean + slope * (x - (1 - t) * mean)

    noise = draw_noise((1, 4, 2, 2, 4, 4), 3)
    given = torch.full_like(noise, 5.0)
    out = sample(velocity, given, noise, FILL, settings(200, solver, noise_scale=scale))
    tolerance = 0.03 if solver == "euler" else 2e-3
    torch.testing.assert_close(
        out[:, 1:], mean + deviation * noise[:, 1:], atol=tolerance, rtol=0.0
    )
    assert out[:, 0].eq(5.0).all()


@pytest.mark.parametrize(("solver", "calls"), [("euler", 6), ("heun", 11), ("ab2", 6)])
def test_calls_and_progress(solver: Solver, calls: int) -> None:
    count, steps = [], []

    def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        count.append(1)
        return torch.zeros_like(x)

    cells = torch.zeros(SHAPE)
    sample(
        velocity,
        cells,
        draw_noise(SHAPE, 0),
        FILL,
        settings(6, solver),
        lambda done, total: steps.append((done, total)),
    )
    assert len(count) == calls
    assert steps == [(i, 6) for i in range(1, 7)]


def test_guidance() -> None:
    conditional, unconditional = draw_noise(SHAPE, 1), draw_noise(SHAPE, 2)
    out = combine_guidance(conditional, unconditional, 4.5, FILL)
    assert torch.equal(out[:, 0], conditional[:, 0])
    expected = unconditional + 4.5 * (conditional - unconditional)
    torch.testing.assert_close(out[:, 1:], expected[:, 1:])


def test_noise_is_reproducible() -> None:
    assert torch.equal(draw_noise(SHAPE, 7), draw_noise(SHAPE, 7))
    assert not torch.equal(draw_noise(SHAPE, 7), draw_noise(SHAPE, 8))


def test_callers_mistakes() -> None:
    cells = torch.zeros(SHAPE)
    with pytest.raises(ValueError, match="noise"):
        sample(lambda x, _: x, cells, cells[:, :2], FILL, settings(2, "euler"))
    with pytest.raises(ValueError, match="nothing to fill"):
        sample(lambda x, _: x, cells, cells, torch.zeros(4, dtype=torch.bool), settings(2, "euler"))


@pytest.mark.parametrize("given", ["clean", "replace"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_given_frames_of_a_filled_cell_stay_bit_identical(solver: Solver, given: str) -> None:
    """A window of a long clip begins with latent frames that the one before has generated."""
    cells, noise = draw_noise(SHAPE, 1), draw_noise(SHAPE, 2)
    fill_KF = FILL[:, None].repeat(1, 2)
    fill_KF[2, 0] = False
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def velocity(grid: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append((grid.clone(), time.clone()))
        return torch.randn(SHAPE, generator=torch.Generator().manual_seed(len(seen)))

    out = sample(velocity, cells, noise, fill_KF, settings(5, solver, given=given))
    assert torch.equal(out[:, 2, :, 0], cells[:, 2, :, 0])
    assert torch.equal(out[:, 0], cells[:, 0])
    assert not torch.equal(out[:, 2, :, 1], cells[:, 2, :, 1])
    for grid, time in seen:
        if given == "clean":
            assert torch.equal(grid[:, 2, :, 0], cells[:, 2, :, 0])
            assert time[:, 2, 0].eq(0).all()
        else:
            common = float(time[0, 1, 0])
            expected = (1 - common) * cells[:, 2, :, 0] + common * noise[:, 2, :, 0]
            torch.testing.assert_close(grid[:, 2, :, 0], expected)
            assert time.eq(common).all()
        assert time[:, 2, 1].eq(time[0, 1, 0]).all()


def test_a_mask_of_cells_and_the_same_mask_of_frames_agree() -> None:
    cells, noise = draw_noise(SHAPE, 1), draw_noise(SHAPE, 2)

    def velocity(grid: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return grid.sin() + time[:, :, None, :, None, None]

    outs = [
        sample(velocity, cells, noise, fill, settings(4, "heun"))
        for fill in (FILL, FILL[:, None].repeat(1, 2))
    ]
    assert torch.equal(*outs)
