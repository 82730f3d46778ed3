"""Noise that sampling starts from; in some channels it moves.

Letters: M moving channels, F Y X latent frames/rows/columns.

A model of one step can generate rain only if the noise already says where each drop is.
So the last channels of the noise may move as rain, snow or smoke do, white or smooth in space, and
training renders the moving effects from that very noise. Every number is still standard normal.

    latent frame 0   a b c        moving down by one row a latent frame:
    latent frame 1   d a b        "a" is one drop that falls

Differs: docs/decisions/0009.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NoiseMotion = tuple[int, float]
"""How one channel of noise moves: rows down a latent frame, and the blur in latent rows (one
standard deviation; 0: every number is on its own)."""


def draw_noise(
    shape: tuple[int, ...],
    seed: int,
    *,
    device: torch.device | str = "cpu",
    motion: Sequence[NoiseMotion] = (),
    span: tuple[int, int] | None = None,
) -> Tensor:
    """Return standard normal noise, float32: the same numbers on every device.

    Windows of a long clip with one seed have white noise of their own, and moving noise that goes
    on from window to window: a drop that falls out of one falls on in the next.

    Args:
        shape: B, K, C, F, Y, X.
        seed: Any integer that torch takes.
        device: Where the noise goes after it was made on the CPU.
        motion: How the last channels move; the others do not.
        span: Of a window its first latent frame in the clip, and the clip's latent frames; None:
            the clip is one window.
    """
    first, total = span or (0, shape[3])
    # Each window has white noise of its own; that of the first window is the seed's.
    mixed = (seed + 0x9E3779B97F4A7C15 * first) % 2**63
    generator = torch.Generator().manual_seed(mixed)
    noise = torch.randn(shape, generator=generator)
    if motion:
        if span is not None:
            generator = torch.Generator().manual_seed(seed)
        size_FYX = (total, *shape[-2:])
        for cell_CFYX in noise.flatten(0, 1):
            moving_MFYX = draw_moving(size_FYX, motion, generator)
            cell_CFYX[-len(motion) :] = moving_MFYX[:, first : first + shape[3]]
    return noise.to(device)


def draw_moving(
    size_FYX: Sequence[int], motion: Sequence[NoiseMotion], generator: torch.Generator
) -> Tensor:
    """Return noise that moves, standard normal, shape MFYX, float32, on the CPU.

    Each channel is a window on one large still picture of noise; the window moves.
    """
    frames, rows, columns = size_FYX
    channels = []
    for speed, blur in motion:
        tall = rows + abs(speed) * (frames - 1)
        picture = _picture(tall, columns, blur, generator)
        tops = [speed * (frames - 1 - f) if speed >= 0 else -speed * f for f in range(frames)]
        channels.append(torch.stack([picture[top : top + rows] for top in tops]))
    return torch.stack(channels)


def _picture(rows: int, columns: int, blur: float, generator: torch.Generator) -> Tensor:
    """Return a still picture of noise of unit variance, shape YX, blurred if asked."""
    if blur == 0:
        return torch.randn(rows, columns, generator=generator)
    reach = round(3 * blur)
    white = torch.randn(1, 1, rows + 2 * reach, columns + 2 * reach, generator=generator)
    away = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (away / blur) ** 2)
    kernel = kernel / kernel.norm()  # of unit power, so that the variance stays 1
    smooth = F.conv2d(F.conv2d(white, kernel[None, None, :, None]), kernel[None, None, None])
    return smooth[0, 0]
