"""Softmax attention, the fastest way that the device has.

Letters: B batch, S queries, L keys, N heads, P head width.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F


class Attend(Protocol):
    """A way to compute attention; see `attend`."""

    def __call__(
        self,
        query_BNSP: torch.Tensor,
        key_BNLP: torch.Tensor,
        value_BNLP: torch.Tensor,
        valid_BL: torch.Tensor | None = None,
        /,
    ) -> torch.Tensor:
        """Return softmax(q k^T / sqrt(P)) v, shape BNSP."""


QUERY_CHUNK = 256
"""Queries a matrix product on the CPU; measured in ../shared/research/perf.md, sec. 6."""


def attend(
    query_BNSP: torch.Tensor,
    key_BNLP: torch.Tensor,
    value_BNLP: torch.Tensor,
    valid_BL: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(P)) v, shape BNSP.

    On a CPU in bfloat16, torch's own kernel is about three times slower than plain matrix products
    over chunks of queries, so those are used there.

    Args:
        query_BNSP: Queries.
        key_BNLP: Keys.
        value_BNLP: Values.
        valid_BL: True where a key may be read; None: all. At least one a row.
    """
    if query_BNSP.device.type == "cpu" and query_BNSP.dtype == torch.bfloat16:
        return _attend_in_chunks(query_BNSP, key_BNLP, value_BNLP, valid_BL)
    readable = None if valid_BL is None else valid_BL[:, None, None, :]
    return F.scaled_dot_product_attention(query_BNSP, key_BNLP, value_BNLP, attn_mask=readable)


def _attend_in_chunks(
    query_BNSP: torch.Tensor,
    key_BNLP: torch.Tensor,
    value_BNLP: torch.Tensor,
    valid_BL: torch.Tensor | None,
) -> torch.Tensor:
    scaled_BNLP = key_BNLP * (1 / math.sqrt(key_BNLP.shape[-1]))
    # Laid out once: a product over a strided view would copy it for every chunk.
    key_BNPL = scaled_BNLP.contiguous().transpose(-1, -2)
    value_BNLP = value_BNLP.contiguous()
    hidden = None if valid_BL is None else ~valid_BL[:, None, None, :]
    parts = []
    for chunk_BNSP in query_BNSP.split(QUERY_CHUNK, dim=2):
        scores_BNSL = chunk_BNSP @ key_BNPL
        if hidden is not None:
            scores_BNSL = scores_BNSL.masked_fill(hidden, float("-inf"))
        parts.append(scores_BNSL.softmax(-1) @ value_BNLP)
    return torch.cat(parts, dim=2)
