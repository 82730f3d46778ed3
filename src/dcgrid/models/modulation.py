"""Shift, scale and gate tokens by rows of a table, one row for each cell and frame.

Letters: B batch, K cells, F token frames, S tokens, D width, U rows of the table. Tokens are
cell-major, b (k f n) d.
"""

import torch
from einops import rearrange


def gate(
    factor_UD: torch.Tensor, tokens_BSD: torch.Tensor, index_BKF: torch.Tensor
) -> torch.Tensor:
    """Multiply tokens by the factor of their cell and frame; no per-token copy is ever made."""
    _, cells, frames = index_BKF.shape
    factor = factor_UD[index_BKF][:, :, :, None]
    split = rearrange(tokens_BSD, "b (k f n) d -> b k f n d", k=cells, f=frames)
    return rearrange(split * factor.to(split.dtype), "b k f n d -> b (k f n) d")


def modulate(
    tokens_BSD: torch.Tensor,
    shift_UD: torch.Tensor,
    scale_UD: torch.Tensor,
    index_BKF: torch.Tensor,
) -> torch.Tensor:
    """Return tokens * (1 + scale) + shift, with the row of their cell and frame."""
    _, cells, frames = index_BKF.shape
    split = rearrange(tokens_BSD, "b (k f n) d -> b k f n d", k=cells, f=frames)
    scale = (1 + scale_UD[index_BKF][:, :, :, None]).to(split.dtype)
    shift = shift_UD[index_BKF][:, :, :, None].to(split.dtype)
    return rearrange(split * scale + shift, "b k f n d -> b (k f n) d")
