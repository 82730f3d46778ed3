"""Faults of what a model generates, and guides that do not fit: what stage `upsampler` must stand.

Read `with_faults` (a truth becomes what a model might have made of it) and `misplaced` (a guide
that shows something else than the edit, as the source does where a model let things move).

Letters: N clips, C channels, T H W frames/height/width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.models.trunk import VideoCodec
from dcgrid.synthetic.world_clips import chance, pick

CODED_SHARE = 0.5
"""How often a truth goes through the autoencoder; other models have another one."""
EXACT_SHARE = 1 / 6
"""How often a truth stays what it is."""
BLOCK = 8
"""Side of the blocks that are off in tone, in pixels of a cell."""


def with_faults(
    truth_NCTHW: Tensor, given_CTHW: Tensor, autoencoder: VideoCodec, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return clips with the faults of generated ones, and the clip that was given to the model.

    Faults are those of coding, blur, tone, blocks and noise. Tone is off smoothly over the picture,
    by up to a tenth, as a model's guess of it is. One clip in six has none: where an edit can be
    trusted, its result must not be another. Edits and given clip go through the autoencoder
    together or not at all.

    Args:
        truth_NCTHW: What should have been generated, in [0, 1], at the size of a cell.
        given_CTHW: The clip that was edited, the same.
        autoencoder: Whose faults coding has.
        generator: The only source of chance.
    """
    if chance(generator) < EXACT_SHARE:
        return truth_NCTHW, given_CTHW
    made_NCTHW = truth_NCTHW
    if chance(generator) < CODED_SHARE:
        made_NCTHW = coded(truth_NCTHW, autoencoder)
        given_CTHW = coded(given_CTHW[None], autoencoder)[0]
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
    return (made_NCTHW + noise).clamp(0, 1), given_CTHW


def coded(clips_NCTHW: Tensor, autoencoder: VideoCodec) -> Tensor:
    """Return clips in [0, 1] as the autoencoder gives them back."""
    decoded = autoencoder.decode(autoencoder.encode(clips_NCTHW * 2 - 1))
    return (decoded.float() / 2 + 0.5).clamp(0, 1)


def misplaced(
    frame_CHW: Tensor,
    corner: tuple[int, int],
    size: tuple[int, int],
    generator: torch.Generator,
    *,
    part: bool | None = None,
) -> Tensor:
    """Return a window of a frame that is not the one at `corner`: a guide that does not fit.

    It is shifted, bent, or of somewhere else.

    Args:
        frame_CHW: The frame.
        corner: Row and column of the window that would fit.
        size: Its height and width.
        generator: The only source of chance.
        part: True: only a part of it does not fit, as where one thing moves; None: drawn.
    """
    top, left = corner
    free = frame_CHW.shape[-2] - size[0], frame_CHW.shape[-1] - size[1]
    kind = chance(generator)
    if kind < 0.2:
        place = pick(free[0] + 1, generator), pick(free[1] + 1, generator)
        apart_CHW = _window(frame_CHW, place, size).flip(-1 if chance(generator) < 0.5 else -2)
    elif kind < 0.6:
        reach, angle = 4 + 52 * chance(generator) ** 2, 2 * math.pi * chance(generator)
        down, right = round(reach * math.sin(angle)), round(reach * math.cos(angle))
        place = _step(top, down, free[0]), _step(left, right, free[1])
        apart_CHW = _window(frame_CHW, place, size)
    else:
        apart_CHW = _bent(_window(frame_CHW, corner, size), generator)
    if part or (part is None and chance(generator) < 0.5):
        field = _smooth(torch.randn(1, 1, 4, 4, generator=generator), size)[0]
        inside = torch.sigmoid(40 * field).to(frame_CHW.device)
        apart_CHW = torch.lerp(_window(frame_CHW, corner, size), apart_CHW, inside)
    return apart_CHW


def _step(place: int, way: int, free: int) -> int:
    """Go so far, or back if that leads out of the frame."""
    return min(max(place + way if 0 <= place + way <= free else place - way, 0), free)


def _window(frame_CHW: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return frame_CHW[:, corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]


def _bent(window_CHW: Tensor, generator: torch.Generator) -> Tensor:
    """Bend a picture smoothly, by up to about a tenth of its sides."""
    height, width = window_CHW.shape[-2:]
    reach = 0.03 + 0.12 * chance(generator)
    shift = reach * _smooth(torch.randn(1, 2, 4, 4, generator=generator), (height, width))
    x_HW = ((torch.arange(width) + 0.5) / width * 2 - 1).expand(height, width)
    y_HW = ((torch.arange(height) + 0.5) / height * 2 - 1)[:, None].expand(height, width)
    place = torch.stack((x_HW, y_HW), dim=-1)
    place = (place[None] + shift.permute(0, 2, 3, 1)).to(window_CHW.device)
    return F.grid_sample(
        window_CHW[None], place, mode="bilinear", padding_mode="reflection", align_corners=False
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


def random_look(clip_CTHW: Tensor, generator: torch.Generator) -> Tensor:
    """Return a clip in [0, 1] under a blend of two random grades, one here and the other there."""
    height, width = clip_CTHW.shape[-2:]
    field = torch.randn(1, 1, 3, 4, generator=generator)
    share = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=False)
    share_HW = torch.sigmoid(1.5 * share[0, 0]).to(clip_CTHW.device)
    one_CTHW, other_CTHW = _grade(clip_CTHW, generator), _grade(clip_CTHW, generator)
    return torch.lerp(one_CTHW, other_CTHW, share_HW).clamp(0, 1)


def _grade(clip_CTHW: Tensor, generator: torch.Generator) -> Tensor:
    """Mix channels, bend the curve, scale and lift each colour."""
    device = clip_CTHW.device
    grey = 0.8 * chance(generator)
    mix_33 = (1 - grey) * torch.eye(3) + grey / 3
    mix_33 = mix_33 + 0.08 * torch.randn(3, 3, generator=generator)
    mixed_CTHW = torch.einsum("dc,cthw->dthw", mix_33.to(device), clip_CTHW).clamp_min(1e-3)
    power = float(torch.exp(0.35 * torch.randn((), generator=generator)))
    gain_C = 0.25 + 0.95 * torch.rand(3, generator=generator)
    lift_C = 0.4 * torch.rand(3, generator=generator) * chance(generator)
    if chance(generator) < 0.1:
        gain_C, lift_C = -gain_C, 0.4 + 0.6 * torch.rand(3, generator=generator)
    shape = (3, 1, 1, 1)
    return mixed_CTHW**power * gain_C.reshape(shape).to(device) + lift_C.reshape(shape).to(device)
