"""Faults of what a model generates, and guides that do not fit: what stage `upsampler` must stand.

Read `with_faults` (a truth becomes what a model might have made of it) and `misplaced` (a guide
that shows something else than the edit, as the source does where a model let things move).

Letters: N clips, C channels, T H W frames/height/width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.models.trunk import VideoCodec
from dcgrid.train.world.clips import chance, pick

CODED_SHARE = 0.5
"""How often a truth goes through the autoencoder; other models have another one."""
BLOCK = 8
"""Side of the blocks that are off in tone, in pixels of a cell."""


def with_faults(truth_NCTHW: Tensor, autoencoder: VideoCodec, generator: torch.Generator) -> Tensor:
    """Return clips in [0, 1] with the faults of a generated one: coding, blur, tone, blocks, noise.

    Tone is off smoothly over the picture, by up to a tenth, as a model's guess of it is.
    """
    made_NCTHW = truth_NCTHW
    if chance(generator) < CODED_SHARE:
        coded = autoencoder.decode(autoencoder.encode(truth_NCTHW * 2 - 1))
        made_NCTHW = (coded.float() / 2 + 0.5).clamp(0, 1)
    count, channels, _, height, width = made_NCTHW.shape
    if chance(generator) < 0.4:
        made_NCTHW = _blurred(made_NCTHW, 0.3 + 0.7 * chance(generator))

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(made_NCTHW.device)

    strength = 0.04 * chance(generator)
    gain = 1 + 1.5 * strength * _smooth(drawn(count, channels, 3, 4), (height, width))
    offset = strength * _smooth(drawn(count, channels, 3, 4), (height, width))
    made_NCTHW = made_NCTHW * gain[:, :, None] + offset[:, :, None]
    if chance(generator) < 0.5:
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        blocks = 0.012 * chance(generator) * drawn(count, channels, rows, columns)
        blocks = blocks.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)
        made_NCTHW = made_NCTHW + blocks[:, :, None, :height, :width]
    noise = 0.015 * chance(generator) * drawn(*made_NCTHW.shape)
    return (made_NCTHW + noise).clamp(0, 1)


def misplaced(
    frame_CHW: Tensor, corner: tuple[int, int], side: int, generator: torch.Generator
) -> Tensor:
    """Return a square of a frame that is not the one at `corner`: a guide that does not fit.

    It is shifted, bent, or of somewhere else; or only a part of it is, as where one thing moves.
    """
    top, left = corner
    free = frame_CHW.shape[-2] - side, frame_CHW.shape[-1] - side
    kind = chance(generator)
    if kind < 0.2:
        apart_CHW = _square(
            frame_CHW, pick(free[0] + 1, generator), pick(free[1] + 1, generator), side
        )
        apart_CHW = apart_CHW.flip(-1) if chance(generator) < 0.5 else apart_CHW.flip(-2)
    elif kind < 0.6:
        reach = 4 + int(52 * chance(generator) ** 2)
        angle = 6.2832 * chance(generator)
        down, right = (round(float(reach * f(torch.tensor(angle)))) for f in (torch.sin, torch.cos))
        apart_CHW = _square(
            frame_CHW,
            min(max(top + (down if 0 <= top + down <= free[0] else -down), 0), free[0]),
            min(max(left + (right if 0 <= left + right <= free[1] else -right), 0), free[1]),
            side,
        )
    else:
        apart_CHW = _bent(_square(frame_CHW, top, left, side), generator)
    if chance(generator) < 0.5:
        own_CHW = _square(frame_CHW, top, left, side)
        field = _smooth(torch.randn(1, 1, 4, 4, generator=generator), (side, side))[0]
        inside = torch.sigmoid(40 * field).to(frame_CHW.device)
        apart_CHW = torch.lerp(own_CHW, apart_CHW, inside)
    return apart_CHW


def _square(frame_CHW: Tensor, top: int, left: int, side: int) -> Tensor:
    return frame_CHW[:, top : top + side, left : left + side]


def _bent(square_CHW: Tensor, generator: torch.Generator) -> Tensor:
    """Bend a picture smoothly, by up to about a tenth of its side."""
    side = square_CHW.shape[-1]
    reach = 0.03 + 0.12 * chance(generator)
    shift = reach * _smooth(torch.randn(1, 2, 4, 4, generator=generator), (side, side))
    along = (torch.arange(side) + 0.5) / side * 2 - 1
    place = torch.stack((along.expand(side, side), along[:, None].expand(side, side)), dim=-1)
    place = (place[None] + shift.permute(0, 2, 3, 1)).to(square_CHW.device)
    return F.grid_sample(
        square_CHW[None], place, mode="bilinear", padding_mode="reflection", align_corners=False
    )[0]


def _smooth(coarse_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(coarse_NCHW, size=size, mode="bicubic", align_corners=False)


def _blurred(clip_NCTHW: Tensor, deviation: float) -> Tensor:
    """Blur rows and columns with a normal curve."""
    away = torch.arange(-2, 3, device=clip_NCTHW.device)
    weights = torch.exp(-0.5 * (away / deviation) ** 2)
    weights = weights / weights.sum()
    frames = clip_NCTHW.transpose(1, 2).flatten(0, 1)
    channels = frames.shape[1]
    padded = F.pad(frames, (2, 2, 2, 2), mode="replicate")
    down = weights.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1)
    blurred = F.conv2d(padded, down, groups=channels)
    blurred = F.conv2d(blurred, down.transpose(2, 3), groups=channels)
    result: Tensor = blurred.unflatten(0, (len(clip_NCTHW), -1)).transpose(1, 2)
    return result
