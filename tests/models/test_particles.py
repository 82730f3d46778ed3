"""Planes of particles: the same picture whichever of them are drawn, and at every size."""

import torch
import torch.nn.functional as F

from dcgrid.models.drift import DriftingNoise
from dcgrid.models.particles import PLANES, POINTS, draw_planes, smoke
from dcgrid.synthetic.effects_fields import draw_drift

SECONDS = torch.tensor([0.0, 0.25])


def noise_of(scale: int) -> DriftingNoise:
    like = torch.zeros(3, 2, 48 * scale, 64 * scale)
    values = draw_drift(like, SECONDS, torch.Generator().manual_seed(1), float(scale))
    return DriftingNoise(values_MFYX=values, seconds_T=SECONDS, like=like, scale=float(scale))


def test_a_choice_of_planes_is_that_of_all() -> None:
    noise = noise_of(2)
    every_NTHW = draw_planes(noise)
    assert every_NTHW.shape == (PLANES, 2, 96, 128)
    assert every_NTHW.amin() >= 0
    assert every_NTHW.amax() <= 1
    for chosen in ((0,), (9,), (3, 8), (8, 9)):
        assert torch.equal(draw_planes(noise, chosen), every_NTHW[list(chosen)])


def test_smoke_in_the_shade_and_in_the_light_are_all_of_it() -> None:
    noise = noise_of(1)
    density, light = smoke(noise)
    shade, lit = draw_planes(noise, (len(POINTS), len(POINTS) + 1))
    torch.testing.assert_close(shade + lit, density)
    torch.testing.assert_close(lit, density * light)
    assert density.std() > 0.05  # folds, no haze
    assert light.std() > 0.05


def test_smoke_is_the_same_at_every_size() -> None:
    noise = noise_of(4)
    small = DriftingNoise(
        values_MFYX=noise.values_MFYX, seconds_T=SECONDS, like=torch.zeros(3, 2, 48, 64), scale=1.0
    )
    for large, direct in zip(smoke(noise), smoke(small), strict=True):
        averaged = F.avg_pool2d(large[:, None], 4)[:, 0]
        assert (averaged - direct).square().mean().sqrt() < 0.15 * direct.std()
