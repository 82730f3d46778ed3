"""Frames as networks take them, against Pillow."""

import pytest
import torch

from dcgrid.eval.encoders.preprocess import chunks, normalised, resize, square
from tests.eval.places import lacks


def noise(*size):
    return torch.randint(
        0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("size", [(120, 200), (200, 120), (20, 30), (33, 47)])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@lacks("PIL", "numpy")
def test_resizing_is_pillows(size, mode):
    import numpy as np
    from PIL import Image

    # Pillow cuts values off between rows and columns, we after both: no extremes.
    frames = noise(*size) // 3 + 80
    wanted = [
        np.asarray(Image.fromarray(one.numpy()).resize((31, 44), Image.Resampling[mode.upper()]))
        for one in frames
    ]
    apart = resize(frames, 44, 31, mode).int() - torch.from_numpy(np.stack(wanted)).int()
    assert apart.abs().max() <= 1


@pytest.mark.parametrize(("size", "at"), [((32, 64), (0, 16)), ((64, 32), (16, 0))])
def test_the_middle_square_is_taken(size, at):
    frames = noise(*size)
    top, left = at
    found = square(frames, 32, 32)
    assert torch.equal(found, frames[:, top : top + 32, left : left + 32].permute(0, 3, 1, 2))


def test_pieces_and_normalising():
    frames = noise(8, 8)
    assert [len(piece) for piece in chunks(frames.repeat(3, 1, 1, 1), 4)] == [4, 2]
    pixels = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    found = normalised(pixels, (0.5, 0.0, 1.0), (0.5, 0.25, 1.0), torch.device("cpu"))
    assert found[0, :, 0, 0].tolist() == [1, 4, 0]
