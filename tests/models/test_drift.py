"""Drifting noise: points stand where it says, move as it does, and reach the picture's edges."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from dcgrid.flow.noise import draw_moving
from dcgrid.models.drift import (
    BLOCK,
    FALL,
    FALL_FAST,
    FALL_SLOW,
    PLACES,
    RISE,
    SMOOTH,
    SMOOTH_FINE,
    DriftingNoise,
    PointLook,
)
from dcgrid.models.native.config import MOVING_NOISE
from dcgrid.synthetic.effects import DETERMINISTIC, EFFECT_NAMES, render_effect
from dcgrid.synthetic.effects_fields import cell_scale, draw_drift

DOT = PointLook(share=0.1, radius=0.12)


def make_drift(
    values_MFYX: torch.Tensor, frames: int, rows: int = 96, columns: int = 96
) -> DriftingNoise:
    seconds_T = torch.arange(frames) / 12
    return DriftingNoise(
        values_MFYX=values_MFYX, seconds_T=seconds_T, like=torch.zeros(3, frames, rows, columns)
    )


def centre(picture_HW: torch.Tensor) -> tuple[float, float]:
    """Return row and column of the centre of mass, in pixels from the top left corner."""
    rows = torch.arange(picture_HW.shape[0]) + 0.5
    columns = torch.arange(picture_HW.shape[1]) + 0.5
    mass = picture_HW.sum()
    return (
        float((picture_HW.sum(1) * rows).sum() / mass),
        float((picture_HW.sum(0) * columns).sum() / mass),
    )


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_point_stands_where_its_number_says(place: int) -> None:
    values = torch.full((14, 1, 12, 12), -3.0)
    values[FALL_SLOW + place, 0, 5, 6] = 2.0
    drawn_HW = make_drift(values, 1).points(FALL_SLOW, DOT)[0]
    across, down = PLACES[place]
    # Frame 0 is the last of the four that its latent frame would have: 1.5 frames after the middle.
    row, column = centre(drawn_HW)
    assert row == pytest.approx((5 + down + 1.5 / 4) * BLOCK, abs=0.05)
    assert column == pytest.approx((6 + across) * BLOCK, abs=0.05)
    weight = drawn_HW.sum() / (2 * math.pi * (DOT.radius * BLOCK) ** 2)
    assert 0.7 < weight <= 1.0


@pytest.mark.parametrize("group", [FALL_FAST, FALL, FALL_SLOW, RISE])
def test_points_move_evenly_within_and_between_latent_frames(group: int) -> None:
    """One point, followed over 9 frames: 3 latent frames with noise that moves as it should."""
    speed = MOVING_NOISE[group][0]
    values = torch.full((14, 3, 24, 12), -3.0)
    for f in range(3):
        values[group, f, 12 + speed * (f - 1), 6] = 2.0
    drawn_THW = make_drift(values, 9, 192).points(group, DOT)
    ways = [centre(drawn_THW[t]) for t in range(9)]
    steps = [after[0] - before[0] for before, after in pairwise(ways)]
    assert steps == pytest.approx([speed * BLOCK / 4] * 8, abs=0.1)


def test_the_smooth_field_is_the_noise_and_moves_evenly() -> None:
    values = draw_moving((3, 12, 20), MOVING_NOISE, torch.Generator().manual_seed(2))
    drift = make_drift(values, 9, 96, 160)
    for channel in (SMOOTH, SMOOTH_FINE):
        drawn_THW = drift.smooth(channel)
        assert drawn_THW.shape == (9, 96, 160)
        up = -MOVING_NOISE[channel][0] * BLOCK // 4
        inner = drawn_THW[:, 24:-24]
        for t in range(8):
            torch.testing.assert_close(
                inner[t + 1, :-up], inner[t, up:], rtol=0, atol=0.02, msg=f"frame {t}"
            )
        blocks = drawn_THW.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).mean((-1, -2))
        # Frames 2 and 3 stand around the middle of latent frame 1.
        seen = blocks[2:4].mean(0)[2:-2]
        agreement = torch.corrcoef(
            torch.stack([seen.flatten(), values[channel, 1, 2:-2].flatten()])
        )
        assert agreement[0, 1] > 0.95


def test_streaks_are_as_dense_at_the_edges_as_inside() -> None:
    look = PointLook(share=0.07, radius=0.11, length=3.2)
    total = torch.zeros(96, 96)
    for seed in range(40):
        values = draw_moving((2, 12, 12), MOVING_NOISE, torch.Generator().manual_seed(seed))
        total += make_drift(values, 5).points(FALL_FAST, look).mean(0)
    bands = total.mean(1).unflatten(0, (6, 16)).mean(1)
    assert bands.min() > 0.75 * bands.max()


def test_a_share_of_the_blocks_has_a_point() -> None:
    values = draw_moving((1, 60, 60), MOVING_NOISE, torch.Generator().manual_seed(0))
    drift = DriftingNoise(
        values_MFYX=values, seconds_T=torch.zeros(1), like=torch.zeros(3, 1, 96, 96)
    )
    dots = drift.points(FALL, PointLook(share=0.1, radius=0.08))[0]
    # 3 places in each of 144 blocks; points are 0.4 to 1 strong, most in the lower half.
    weight = dots.sum() / (2 * math.pi * (0.08 * BLOCK) ** 2)
    assert 0.1 * 0.5 < weight / (3 * 144) < 0.1 * 0.9


def test_larger_pictures_have_larger_blocks_of_the_same_noise() -> None:
    cell, large = torch.zeros(3, 1, 96, 160), torch.zeros(3, 1, 720, 1200)
    drawn = [
        draw_drift(like, torch.zeros(1), torch.Generator().manual_seed(1), scale)
        for like, scale in ((cell, 1.0), (large, 7.5))
    ]
    assert torch.equal(*drawn)
    assert (
        DriftingNoise(values_MFYX=drawn[0], seconds_T=torch.zeros(1), like=large, scale=7.5).block
        == 60
    )


@pytest.mark.parametrize(
    ("size", "scale"),
    [((96, 160), 1), ((128, 128), 1), ((384, 640), 4), ((512, 512), 4), ((8, 8), 1)],
)
def test_the_scale_of_a_picture_is_told_from_its_size(size: tuple[int, int], scale: int) -> None:
    assert cell_scale(torch.zeros(3, 1, *size)) == scale


@pytest.mark.parametrize("name", sorted(set(EFFECT_NAMES) - DETERMINISTIC))
def test_the_same_drift_gives_the_same_effect_whatever_the_generator(name: str) -> None:
    clip = torch.rand(3, 5, 96, 96, generator=torch.Generator().manual_seed(1)) * 0.5
    seconds_T = torch.arange(5) / 12
    drift = draw_drift(clip, seconds_T, torch.Generator().manual_seed(3))
    assert drift.shape == (14, 2, 12, 12)
    first = render_effect(name, clip, generator=torch.Generator().manual_seed(4), drift_MFYX=drift)
    again = render_effect(name, clip, generator=torch.Generator().manual_seed(5), drift_MFYX=drift)
    assert torch.equal(first, again)
    drawn = render_effect(name, clip, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first, drawn), "without drift it is drawn with the generator, and only that"


def test_a_moment_finds_what_was_drawn_and_another_size_does_not() -> None:
    values = draw_moving((3, 12, 12), MOVING_NOISE, torch.Generator().manual_seed(2))
    streak = PointLook(share=0.1, radius=0.05, length=0.8)
    noise = make_drift(values, frames=1)
    now = noise.at(0.2)
    drawn = now.points(FALL_FAST, streak)
    assert drawn.max() > 0.1
    later = noise.at(0.25)
    assert later._drawn is now._drawn
    fresh = make_drift(values, frames=1)
    torch.testing.assert_close(
        later.points(FALL_FAST, streak), fresh.at(0.25).points(FALL_FAST, streak)
    )
    large = replace(now, like=torch.zeros(3, 1, 192, 192), scale=2.0).points(FALL_FAST, streak)
    averaged = torch.nn.functional.avg_pool2d(large[None], 2)[0]
    assert (averaged - drawn).abs().max() < 0.1
