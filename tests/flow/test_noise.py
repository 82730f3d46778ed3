"""Noise that moves: every number standard normal, and where it was a frame ago."""

from itertools import pairwise

import pytest
import torch

from dcgrid.flow.noise import draw_moving, draw_noise

SHAPE = (1, 3, 6, 5, 12, 20)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("speed", [4, 1, 0, -2])
@pytest.mark.parametrize("blur", [0.0, 1.5])
def test_a_row_is_where_its_speed_brings_it(speed: int, blur: float) -> None:
    (channel_FYX,) = draw_moving((5, 12, 8), [(speed, blur)], seeded())
    for before, after in pairwise(channel_FYX):
        if speed >= 0:
            assert torch.equal(after[speed:], before[: 12 - speed])
        else:
            assert torch.equal(after[:speed], before[-speed:])
    assert speed == 0 or not torch.equal(channel_FYX[0], channel_FYX[1])


def test_every_number_is_standard_normal_and_blur_is_the_width_of_the_blobs() -> None:
    white, smooth = draw_moving((2, 400, 400), [(3, 0.0), (-1, 2.0)], seeded(1))
    for channel in (white, smooth):
        assert channel.mean().item() == pytest.approx(0, abs=0.05)
        assert channel.std().item() == pytest.approx(1, abs=0.03)
    # White noise blurred by s has the correlation exp(-d^2 / (4 s^2)) at distance d.
    for apart, expected in ((1, 0.939), (4, 0.368)):
        beside = (smooth[:, :, apart:] * smooth[:, :, :-apart]).mean()
        assert beside.item() == pytest.approx(expected, abs=0.05)
        assert (white[:, apart:] * white[:, :-apart]).mean().abs() < 0.02


def test_only_the_last_channels_move_and_each_cell_has_noise_of_its_own() -> None:
    still = draw_noise(SHAPE, 7)
    moving = draw_noise(SHAPE, 7, motion=[(2, 0.0), (1, 0.0)])
    assert torch.equal(still[:, :, :4], moving[:, :, :4])
    assert torch.equal(moving[:, :, 4, 1:, 2:], moving[:, :, 4, :-1, :-2])
    assert not torch.equal(still[:, :, 3, 1:, 2:], still[:, :, 3, :-1, :-2])
    assert not torch.equal(moving[:, 0], moving[:, 1])
    assert not torch.equal(moving[:, 0, 4], moving[:, 0, 5])


def test_the_seed_decides() -> None:
    motion = [(1, 1.0)]
    first = draw_noise(SHAPE, 7, motion=motion)
    assert torch.equal(first, draw_noise(SHAPE, 7, motion=motion))
    assert not torch.equal(first[:, :, -1], draw_noise(SHAPE, 8, motion=motion)[:, :, -1])


def test_noise_that_moves_goes_on_from_window_to_window() -> None:
    motion = [(2, 0.0), (-1, 1.5)]
    total = 20
    windows = {
        first: draw_noise(SHAPE, 7, motion=motion, span=(first, total)) for first in (0, 4, 9)
    }
    for first, shared in ((0, 4), (4, 5)):
        later = windows[first + shared]
        before = windows[first][:, :, -2:, shared:]
        assert torch.equal(before, later[:, :, -2:, : before.shape[3]])
    # White noise is new in each window, and standard normal.
    white = torch.cat([window[:, :, :-2].flatten() for window in windows.values()])
    assert white.std().item() == pytest.approx(1, abs=0.03)
    assert not torch.equal(windows[0][:, :, :-2], windows[4][:, :, :-2])
    assert not (windows[0][:, :, :-2, 4] == windows[4][:, :, :-2, 0]).any()


def test_another_seed_moves_otherwise_in_every_window() -> None:
    one, other = (draw_noise(SHAPE, seed, motion=[(1, 0.0)], span=(6, 30)) for seed in (0, 1))
    assert not (one == other).any()
