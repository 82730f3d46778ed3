"""Windowed attention, rotary embedding and the norm of queries and keys.

Letters: B batch, S queries, L keys, D width, N heads, P head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dcgrid.models.attention import QUERY_CHUNK


def attend_in_window(
    query_BNQP: torch.Tensor,
    key_BNSP: torch.Tensor,
    value_BNSP: torch.Tensor,
    position_Q: torch.Tensor,
    position_S: torch.Tensor,
    reach: int,
    given_BS: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend to tokens at most `reach` away in grid order; tokens come and go cell-major.

        grid order   . . [ reach | q | reach ] . .

    Args:
        query_BNQP: Queries of some tokens of the grid.
        key_BNSP: Keys of all its tokens.
        value_BNSP: Their values.
        position_Q: Place of each query in grid order.
        position_S: Place of each key; every number below S once.
        reach: Tokens to each side.
        given_BS: True for given tokens (by key), where those read given ones alone.

    Paper: sec. 8, Table 5 (window 6144, centred: reach 3072).
    """
    order_S, order_Q = position_S.argsort(), position_Q.argsort()
    key, value = key_BNSP[:, :, order_S], value_BNSP[:, :, order_S]
    query, rank_Q = query_BNQP[:, :, order_Q], position_Q[order_Q]
    parts = []
    for part, rank in zip(query.split(QUERY_CHUNK, dim=2), rank_Q.split(QUERY_CHUNK), strict=True):
        first, last = max(0, int(rank[0]) - reach), min(len(order_S), int(rank[-1]) + reach + 1)
        columns = torch.arange(first, last, device=rank.device)
        readable = (rank[:, None] - columns).abs() <= reach
        if given_BS is not None:
            given = given_BS[:, order_S]
            hidden = given[:, rank, None] & ~given[:, None, columns]
            readable = (readable & ~hidden)[:, None]
        parts.append(
            F.scaled_dot_product_attention(
                part, key[:, :, first:last], value[:, :, first:last], attn_mask=readable
            )
        )
    return torch.cat(parts, dim=2)[:, :, order_Q.argsort()]


class HeadNorm(nn.Module):
    """RMS norm over the width of a head (QK-normalisation). Paper: sec. 8, Table 5."""

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(head_width))

    def forward(self, heads_BNSP: torch.Tensor) -> torch.Tensor:
        """Normalise queries or keys."""
        return F.rms_norm(heads_BNSP, self.gain.shape, self.gain.to(heads_BNSP.dtype), eps=1e-6)


def rotary_tables(
    coordinates_S3: torch.Tensor, frequencies: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine, each of shape S (P/2), for three axes of coordinates."""
    device = coordinates_S3.device
    angles = [
        coordinates_S3[:, axis, None].float() * frequencies[axis].to(device)[None, :]
        for axis in range(3)
    ]
    angle_SP = torch.cat(angles, dim=1)
    return angle_SP.cos(), angle_SP.sin()


def rotate(
    heads_BNSP: torch.Tensor, cosine_SP: torch.Tensor, sine_SP: torch.Tensor
) -> torch.Tensor:
    """Turn pairs of channels (one from each half) by their token's angles."""
    first, second = heads_BNSP.chunk(2, dim=-1)
    cosine, sine = cosine_SP.to(heads_BNSP.dtype), sine_SP.to(heads_BNSP.dtype)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def axis_frequencies(
    head_width: int, base: float, cell_pitch: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return angular frequencies for frame, row, column: 2:1:1 of the pairs of a head.

    With a cell pitch, most row and column frequencies are whole multiples of one turn a pitch: the
    same point of two cells then gets the same rotation, and a cell finds its place in another one
    without having to learn every offset. The last quarter turns slower and tells cells apart.

    Paper: sec. 8 (2:1:1). Differs: docs/decisions/0004 (periodic frequencies).
    """
    pairs = head_width // 2
    along_T, along_Y = pairs // 2, pairs // 4
    along_X = pairs - along_T - along_Y
    temporal = _geometric(along_T, base)
    if cell_pitch is None:
        return temporal, _geometric(along_Y, base), _geometric(along_X, base)
    return temporal, _periodic(along_Y, cell_pitch), _periodic(along_X, cell_pitch)


def _geometric(count: int, base: float) -> torch.Tensor:
    return base ** -(torch.arange(count, dtype=torch.float32) / max(count, 1))


def _periodic(count: int, pitch: int) -> torch.Tensor:
    slow = max(1, count // 4)
    harmonics = torch.arange(count - slow, dtype=torch.float32) % (pitch // 2) + 1
    turns = torch.cat([harmonics, 0.5 ** (torch.arange(slow, dtype=torch.float32) + 1)])
    return 2 * math.pi * turns / pitch
