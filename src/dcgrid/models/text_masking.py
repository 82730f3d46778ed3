"""Text token masking: in training some tokens of every text are left away.

    global  a  red  cube  turns           clause  in  heavy  rain
            x        x                                  x           masked
    cell    red  turns  in  rain                                    what the cell reads

Masked tokens leave the row after the text encoder and before padding, so a row is what the
backbone makes of fewer tokens, whatever its padding is.

Letters: L text tokens.

Paper: sec. 8 (text token masking)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMasking:
    """How tokens are masked."""

    share: float
    """Probability of each token, 0 to 1."""
    generator: torch.Generator
    """Draws them, on the CPU."""


def kept_tokens(
    rows: Sequence[Sequence[str]], cells: int, lengths: Mapping[str, int], masking: TokenMasking
) -> list[torch.Tensor]:
    """Draw which tokens of each cell's row stay.

    A text is masked once for all cells of a grid that read it: what one of them would not see,
    the others could tell it through attention.

    Args:
        rows: B * K lists of segment texts, grid after grid; at least one text a list.
        cells: K.
        lengths: Tokens of each text, >= 1.
        masking: Share and generator.

    Returns:
        A mask for each row, shape L of that row's segments side by side; True where a token
        stays. At least one does: attention cannot read nothing.
    """
    kept = []
    for first in range(0, len(rows), cells):
        grid = rows[first : first + cells]
        stays: dict[str, torch.Tensor] = {}
        for text in dict.fromkeys(text for row in grid for text in row):
            drawn_L = torch.rand(lengths[text], generator=masking.generator)
            stays[text] = drawn_L >= masking.share
        for row in grid:
            kept_L = torch.cat([stays[text] for text in row])
            if not kept_L.any():
                kept_L[torch.randint(len(kept_L), (), generator=masking.generator)] = True
            kept.append(kept_L)
    return kept
