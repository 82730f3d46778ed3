"""What an edit is about, in a few numbers: its words for a network that reads no sentences.

The guided upsampler sees small pictures, in which rain and mist look alike; the words of the edit
say which of the two it is (docs/decisions/0025).

Letters: B texts, L words, E numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dcgrid.models.native.text import RESERVED, WordTokenizer

SUMMARY_WIDTH = 16
"""Numbers that a text becomes."""


class TextSummary(nn.Module):
    """A weighted mean over the words of a text that are known; zero where none is.

    Args:
        vocabulary: The words.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.tokenizer = WordTokenizer(vocabulary)
        self.words = nn.Embedding(self.tokenizer.size, SUMMARY_WIDTH)
        # How much each word counts beside the others: "rain" more than "in".
        self.weight = nn.Embedding(self.tokenizer.size, 1)
        nn.init.zeros_(self.weight.weight)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return what texts are about, BE."""
        summaries = []
        for text in texts:
            found = [token.index for token in self.tokenizer.tokens(text)]
            known = [index for index in found if index >= RESERVED]
            if not known:
                summaries.append(self.words.weight.new_zeros(SUMMARY_WIDTH))
                continue
            index_L = torch.tensor(known, device=self.words.weight.device)
            share_L1 = self.weight(index_L).softmax(0)
            summaries.append((share_L1 * self.words(index_L)).sum(0))
        return torch.stack(summaries)
