"""The text of cells: segments, each encoded on its own, side by side.

Letters: B batch, K cells, N segments, L text tokens, E text width.
"""

from collections.abc import Callable, Sequence

import torch

from dcgrid.models.base import CellText

SegmentEncoder = Callable[[Sequence[str]], tuple[torch.Tensor, torch.Tensor]]
"""Takes N texts, returns their embeddings NLE and valid_NL, True where a token is real."""


def encode_rows(encoder: SegmentEncoder, rows: Sequence[Sequence[str]], cells: int) -> CellText:
    """Encode the segments that each cell reads and lay them side by side, padded.

    Args:
        encoder: Takes N texts, returns embeddings NLE and valid_NL.
        rows: B * K lists of segment texts, grid after grid; at least one text a list.
        cells: K.
    """
    texts = list(dict.fromkeys(text for row in rows for text in row))
    encoded_NLE, valid_NL = encoder(texts)
    number = {text: i for i, text in enumerate(texts)}
    lengths = [sum(int(valid_NL[number[t]].sum()) for t in row) for row in rows]
    longest = max(lengths)
    padded, valid = [], []
    for row, length in zip(rows, lengths, strict=True):
        pieces = [encoded_NLE[number[t]][valid_NL[number[t]]] for t in row]
        padding = encoded_NLE.new_zeros(longest - length, encoded_NLE.shape[-1])
        padded.append(torch.cat([*pieces, padding]))
        valid.append(torch.arange(longest, device=valid_NL.device) < length)
    grids = len(rows) // cells
    return CellText(
        tokens_BKLE=torch.stack(padded).unflatten(0, (grids, cells)),
        valid_BKL=torch.stack(valid).unflatten(0, (grids, cells)),
    )
