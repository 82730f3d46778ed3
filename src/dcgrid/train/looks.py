"""Looks that no effect has: random changes of colour, smooth over the picture.

They keep the upsampler from knowing the shipped effects by heart: Wan's edits look like others.

Letters: C channels, T H W frames/height/width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.train.world.clips import chance


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
