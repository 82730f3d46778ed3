"""The text of cells: segments, each encoded on its own, side by side.

Letters: B batch, K cells, N segments, L text tokens, E text width.
"""

from collections.abc import Callable, Sequence

import torch

from dcgrid.models.base import CellText
from dcgrid.models.text_masking import TokenMasking, kept_tokens

SegmentEncoder = Callable[[Sequence[str]], tuple[torch.Tensor, torch.Tensor]]
"""Takes N texts, returns their embeddings NLE and valid_NL, True where a token is real."""


def encode_rows(
    encoder: SegmentEncoder,
    rows: Sequence[Sequence[str]],
    cells: int,
    masking: TokenMasking | None = None,
) -> CellText:
    """Encode the segments that each cell reads and lay them side by side, padded.

    Args:
        encoder: Takes N texts, returns embeddings NLE and valid_NL.
        rows: B * K lists of segment texts, grid after grid; at least one text a list.
        cells: K.
        masking: Which tokens are left away; None: none.
    """
    texts = list(dict.fromkeys(text for row in rows for text in row))
    encoded_NLE, valid_NL = encoder(texts)
    known = {text: encoded_NLE[i][valid_NL[i]] for i, text in enumerate(texts)}
    read = [torch.cat([known[text] for text in row]) for row in rows]
    if masking is not None:
        kept = kept_tokens(rows, cells, {text: len(known[text]) for text in texts}, masking)
        read = [row_LE[kept_L.to(row_LE.device)] for row_LE, kept_L in zip(read, kept, strict=True)]
    longest = max(len(row_LE) for row_LE in read)
    padded, valid = [], []
    for row_LE in read:
        padding = row_LE.new_zeros(longest - len(row_LE), row_LE.shape[-1])
        padded.append(torch.cat([row_LE, padding]))
        valid.append(torch.arange(longest, device=valid_NL.device) < len(row_LE))
    grids = len(rows) // cells
    return CellText(
        tokens_BKLE=torch.stack(padded).unflatten(0, (grids, cells)),
        valid_BKL=torch.stack(valid).unflatten(0, (grids, cells)),
    )
