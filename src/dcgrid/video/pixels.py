"""Pixels as uint8 and as floats, in the two ranges that the program has; any layout of axes."""

import torch
from torch import Tensor


def unit_of(pixels: Tensor) -> Tensor:
    """Turn uint8 into [0, 1], float32."""
    return pixels / 255


def pixels_of_unit(values: Tensor) -> Tensor:
    """Turn [0, 1] into uint8, rounded to nearest; what is outside is cut off."""
    return (values * 255).round().clamp(0, 255).to(torch.uint8)


def signed_of(pixels: Tensor) -> Tensor:
    """Turn uint8 into [-1, 1], float32, the range of the networks."""
    return (pixels / 127.5).sub_(1)


def pixels_of_signed(values: Tensor) -> Tensor:
    """Turn [-1, 1] into uint8, rounded to nearest; what is outside is cut off."""
    return values.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
