"""Pixels to floats and back: every level, beside numpy."""

import numpy as np
import torch

from dcgrid.video.pixels import pixels_of_signed, pixels_of_unit, signed_of, unit_of

LEVELS = np.arange(256, dtype=np.uint8)


def test_every_level_comes_back() -> None:
    levels = torch.from_numpy(LEVELS)
    assert torch.equal(pixels_of_unit(unit_of(levels)), levels)
    assert torch.equal(pixels_of_signed(signed_of(levels)), levels)


def test_floats_are_those_of_single_precision() -> None:
    single = LEVELS.astype(np.float32)
    assert np.array_equal(unit_of(torch.from_numpy(LEVELS)).numpy(), single / np.float32(255))
    signed = single / np.float32(127.5) - np.float32(1)
    assert np.array_equal(signed_of(torch.from_numpy(LEVELS)).numpy(), signed)


def test_what_is_outside_is_cut_off_and_the_rest_is_rounded() -> None:
    values = torch.tensor([-3.0, 0.4 / 255, 0.6 / 255, 1.0, 7.0])
    before = values.clone()
    assert pixels_of_unit(values).tolist() == [0, 0, 1, 255, 255]
    assert pixels_of_signed(2 * values - 1).tolist() == [0, 0, 1, 255, 255]
    assert torch.equal(values, before)
