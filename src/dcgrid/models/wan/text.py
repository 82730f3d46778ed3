"""UMT5 text for grids: every segment on its own, then the segments that a cell may read.

Letters: B batch, K cells, L text tokens, E text width.
"""

import html
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dcgrid.errors import PromptError
from dcgrid.models.base import CellText
from dcgrid.models.text_masking import TokenMasking, kept_tokens
from dcgrid.models.wan.known import TEXT_LENGTH

Foreign: TypeAlias = Any
"""A module of transformers, whose parts its types do not tell."""


def clean_text(text: str) -> str:
    """Return a text as Wan's pipelines clean it: mended characters, entities and white space."""
    import ftfy

    mended = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", mended).strip()


class SegmentEncoder:
    """Encodes segments once each.

    Args:
        tokenizer: Of the checkpoint.
        encoder: A `transformers.UMT5EncoderModel`.
    """

    def __init__(self, tokenizer: Foreign, encoder: Foreign) -> None:
        self._tokenizer, self.encoder = tokenizer, encoder

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """Return the embeddings LE of one segment, its end token among them.

        Raises:
            PromptError: The segment alone is longer than the transformer reads.
        """
        cleaned = clean_text(text)
        tokens = self._tokenizer(cleaned, add_special_tokens=True, return_tensors="pt")
        count = tokens.input_ids.shape[1]
        if count > TEXT_LENGTH:
            raise _too_long(cleaned, count)
        device = next(self.encoder.parameters()).device
        found = self.encoder(tokens.input_ids.to(device), tokens.attention_mask.to(device))
        states_LE: Tensor = found.last_hidden_state[0]
        return states_LE

    @property
    def end_token(self) -> int:
        """Id of the token that ends a text."""
        return int(self._tokenizer.eos_token_id)

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a piece of text, without an end; none for no words."""
        ids: list[int] = self._tokenizer(clean_text(text), add_special_tokens=False).input_ids
        return ids

    def encode_rows(
        self,
        rows: Sequence[Sequence[str]],
        cells: int,
        encode: Callable[[str], Tensor] | None = None,
        masking: TokenMasking | None = None,
    ) -> CellText:
        """Encode what each cell reads, segments side by side, filled up to TEXT_LENGTH.

        Args:
            rows: B * K lists of segment texts, grid after grid; at least one text a list.
            cells: K.
            encode: Returns the embeddings LE of a segment; None: `encode` of this object.
            masking: Which tokens are left away; None: none.

        Raises:
            PromptError: What a cell reads is longer than the transformer reads.
        """
        encode = encode or self.encode
        known = {text: encode(text) for text in dict.fromkeys(t for row in rows for t in row)}
        read = [torch.cat([known[text] for text in row]) for row in rows]
        for row, row_LE in zip(rows, read, strict=True):
            if len(row_LE) > TEXT_LENGTH:
                raise _too_long(" ".join(row), len(row_LE))
        if masking is not None:
            kept = kept_tokens(rows, cells, {t: len(known[t]) for t in known}, masking)
            read = [
                row_LE[kept_L.to(row_LE.device)] for row_LE, kept_L in zip(read, kept, strict=True)
            ]
        padded = []
        for row_LE in read:
            missing = TEXT_LENGTH - len(row_LE)
            padded.append(torch.cat([row_LE, row_LE.new_zeros(missing, row_LE.shape[1])]))
        tokens_BKLE = torch.stack(padded).unflatten(0, (len(rows) // cells, cells))
        # Wan reads the zeros as well, so all of it is valid and no mask slows attention down.
        valid_BKL = torch.ones(tokens_BKLE.shape[:3], dtype=torch.bool, device=tokens_BKLE.device)
        return CellText(tokens_BKLE=tokens_BKLE, valid_BKL=valid_BKL)


def _too_long(text: str, count: int) -> PromptError:
    return PromptError(
        f"the text of a cell has {count} tokens, Wan reads {TEXT_LENGTH}: {text[:80]!r}...",
        hint="say it in fewer words",
    )
