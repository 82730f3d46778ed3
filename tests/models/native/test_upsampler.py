"""The light upsampler starts as bicubic and adds what it learned."""

import numpy as np
import pytest
import torch

from dcgrid.models.native.config import MINI, UpsamplerConfig
from dcgrid.models.native.upsampler import Upsampler


def cubic(distance: float) -> float:
    """Weight of Keys' cubic convolution with a = -0.75, as image programs mostly have it."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def cubic_matrix(size: int, factor: int) -> np.ndarray:
    """Return the matrix that enlarges one axis: pixel centres line up, borders repeat."""
    matrix = np.zeros((size * factor, size))
    for target in range(size * factor):
        source = (target + 0.5) / factor - 0.5
        for near in range(int(np.floor(source)) - 1, int(np.floor(source)) + 3):
            matrix[target, min(max(near, 0), size - 1)] += cubic(source - near)
    return matrix


@pytest.mark.parametrize("factor", [2, 3])
def test_untrained_equals_bicubic(factor: int) -> None:
    upsampler = Upsampler(UpsamplerConfig(width=4, blocks=1, factor=factor)).requires_grad_(False)
    video = torch.rand(2, 3, 3, 6, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows, columns = cubic_matrix(6, factor), cubic_matrix(9, factor)
    expected = rows @ video.double().numpy() @ columns.T
    enlarged = upsampler(video)
    assert enlarged.shape == (2, 3, 3, 6 * factor, 9 * factor)
    np.testing.assert_allclose(enlarged.numpy(), expected, atol=1e-5)


def test_trained_adds_detail_frame_by_frame() -> None:
    upsampler = Upsampler(MINI.upsampler).requires_grad_(False)
    torch.nn.init.normal_(upsampler.head.weight, std=0.1)
    video = torch.rand(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    together = upsampler(video)
    alone = torch.cat([upsampler(video[:, :, t : t + 1]) for t in range(4)], dim=2)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    torch.nn.init.zeros_(upsampler.head.weight)
    assert (together - upsampler(video)).abs().max() > 1e-3
