"""Draw the noise from which moving effects are rendered (models/drift.py)."""

import math

import torch

from dcgrid.flow.noise import draw_moving
from dcgrid.models.drift import BLOCK, RATE, REACH, STRIDE_T
from dcgrid.models.native.config import MOVING_NOISE

CELL_SIDE = 126
"""Side of a square with about as many pixels as a cell of `mini` (96x160, 128x128)."""


def draw_drift(
    clip_CTHW: torch.Tensor,
    seconds_T: torch.Tensor,
    generator: torch.Generator,
    scale: float = 1.0,
) -> torch.Tensor:
    """Draw the moving noise for a clip of `scale` pixels a pixel of a cell, MFYX on its device."""
    frames = math.ceil(float(seconds_T[-1]) * RATE / STRIDE_T - 1e-4) + 1
    # Mirroring at the edges needs more blocks than it reaches.
    rows, columns = (
        max(REACH + 1, math.ceil(side / (BLOCK * scale) - 1e-4)) for side in clip_CTHW.shape[-2:]
    )
    drawn = draw_moving((frames, rows, columns), MOVING_NOISE, generator)
    return drawn.to(clip_CTHW.device)


def cell_scale(like: torch.Tensor) -> float:
    """Return how many times a cell's size a picture H, W is; at least 1, a whole number."""
    rows, columns = like.shape[-2:]
    return float(max(1, round(math.sqrt(rows * columns) / CELL_SIDE)))
