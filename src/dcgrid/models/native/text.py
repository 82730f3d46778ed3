"""Mini's own text encoder: known words to vectors, each segment on its own.

Letters: N segments, L text tokens, E text width.

Words are looked up in a fixed vocabulary that travels with the weights; a word it does not hold
becomes "unknown" and is named, so that a user can be told. Tags such as [Cat_identity] are tokens
of their own that are learned later (stage dc). Read `WordTokenizer`, `TextEncoder`.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dcgrid.models.attention import attend
from dcgrid.models.base import CellText
from dcgrid.models.native.config import TextConfig
from dcgrid.models.native.rows import encode_rows
from dcgrid.models.text_masking import TokenMasking
from dcgrid.models.trunk import TextReader

PAD, UNKNOWN, EMPTY = 0, 1, 2
"""Reserved ids: padding, a word never seen, and a text without words (the unconditional one)."""
RESERVED = 3
"""Rows of the embedding table before those of words."""
_WORD = re.compile(r"[^\W_]+")
"""Letters and digits of any script, so that a word in another one is unknown and not silence."""
TAG = re.compile(r"\[([^\[\]]+)\]")
"""What may be a tag; it is one only if the name is known."""
_ENDINGS = ("s", "es", "ed", "ing", "ly", "y", "er")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextToken:
    """One token and the characters it stands for."""

    index: int
    """Row of the embedding table."""
    start: int
    """First character in the text."""
    end: int
    """One past the last character."""


class WordTokenizer:
    """Cuts text into lower-case words and looks them up; known tags are looked up whole.

    a cat [Cat_identity] [TOP LEFT]      ->  a | cat | Cat_identity | top | left
    """

    def __init__(self, vocabulary: Sequence[str], tags: Sequence[str] = ()) -> None:
        """Take words, and tags without their brackets; the ids of tags follow those of words."""
        self.vocabulary = tuple(vocabulary)
        self.tags = tuple(tags)
        self._index = {word: i + RESERVED for i, word in enumerate(self.vocabulary)}
        self._tag_index = {tag: i + self.size for i, tag in enumerate(self.tags)}

    @property
    def size(self) -> int:
        """Rows of the embedding table, which is that of words; tags have one of their own."""
        return len(self.vocabulary) + RESERVED

    def tokens(self, text: str) -> tuple[TextToken, ...]:
        """Return the text's tokens in order; a text without words gives one EMPTY token."""
        found: list[TextToken] = []
        end = 0
        for match in TAG.finditer(text):
            if (index := self._tag_index.get(match.group(1))) is not None:
                found += self._words(text, end, match.start())
                found.append(TextToken(index=index, start=match.start(), end=match.end()))
                end = match.end()
        found += self._words(text, end, len(text))
        return tuple(found) or (TextToken(index=EMPTY, start=0, end=0),)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Return the words of the text that the vocabulary lacks, each once, in order."""
        unknown = (text[t.start : t.end].lower() for t in self.tokens(text) if t.index == UNKNOWN)
        return tuple(dict.fromkeys(unknown))

    def _words(self, text: str, start: int, end: int) -> list[TextToken]:
        """Return the words between two characters of a text."""
        return [
            TextToken(index=self._look_up(_plain(m.group())), start=m.start(), end=m.end())
            for m in _WORD.finditer(text, start, end)
        ]

    def _look_up(self, word: str) -> int:
        """Return a word's id, or that of the same word with or without a common ending."""
        if word in self._index:
            return self._index[word]
        stems = [word[: -len(e)] for e in _ENDINGS if word.endswith(e)]
        forms = [form for stem in stems for form in (stem, stem + "e")]
        forms += [word + ending for ending in _ENDINGS]
        for form in forms:
            # Short stems are other words: "thing" is not "the" with an ending.
            if len(form) > 3 and form in self._index:
                return self._index[form]
        return UNKNOWN


def build_vocabulary(texts: Iterable[str]) -> tuple[str, ...]:
    """Return all words of some texts, sorted."""
    return tuple(sorted({_plain(m.group()) for text in texts for m in _WORD.finditer(text)}))


def _plain(word: str) -> str:
    """Return a word in lower case and without accents."""
    # Words are cut out before this, because lower() may change the length of a text.
    parts = unicodedata.normalize("NFKD", word.lower())
    return "".join(part for part in parts if not unicodedata.combining(part))


class _TextBlock(nn.Module):
    """A small transformer block over the words of one segment."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_1 = nn.LayerNorm(config.width)
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm_2 = nn.LayerNorm(config.width)
        self.mlp_in = nn.Linear(config.width, 2 * config.width)
        self.mlp_out = nn.Linear(2 * config.width, config.width)

    def forward(self, tokens_NLE: torch.Tensor, valid_NL: torch.Tensor) -> torch.Tensor:
        """Return tokens of the same shape."""
        projected = self.query_key_value(self.norm_1(tokens_NLE))
        query, key, value = rearrange(projected, "b l (c n p) -> c b n l p", c=3, n=self.heads)
        attended = rearrange(attend(query, key, value, valid_NL), "b n l p -> b l (n p)")
        tokens_NLE = tokens_NLE + self.out(attended)
        hidden: torch.Tensor = self.mlp_out(F.gelu(self.mlp_in(self.norm_2(tokens_NLE))))
        return tokens_NLE + hidden


class TextEncoder(TextReader):
    """Encodes segments of words. Differs: the paper has T5 (docs/decisions/0005).

    `tags` holds one embedding a tag of the tokenizer, shape E; empty until `add_tags`.
    """

    def __init__(self, config: TextConfig, tokenizer: WordTokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.words = nn.Embedding(tokenizer.size, config.width, padding_idx=PAD)
        self.blocks = nn.ModuleList(_TextBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.tags = nn.ParameterList()

    def add_tags(self, tags: Sequence[str]) -> list[nn.Parameter]:
        """Let the encoder know tags, in place of any that it knew; words stay what they are.

        Args:
            tags: Names without brackets, all different.

        Returns:
            Their embeddings in order, zero and trainable, shape E each.

        Raises:
            ValueError: A name stands twice.

        Paper: sec. 3.1 (unique tokens)
        """
        if len(set(tags)) != len(tags):
            raise ValueError(f"tags stand twice: {tags}")
        self.tokenizer = WordTokenizer(self.tokenizer.vocabulary, tags)
        zero_E = self.words.weight.new_zeros(self.config.width)
        self.tags = nn.ParameterList(nn.Parameter(zero_E.clone()) for _ in tags)
        return list(self.tags)

    def forward(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode segments, each on its own.

        Args:
            texts: N texts; words past the limit are left out.

        Returns:
            Embeddings of shape NLE and valid_NL, True where a token is real.
        """
        indices = [
            [token.index for token in self.tokenizer.tokens(text)][: self.config.limit]
            for text in texts
        ]
        longest = max(len(row) for row in indices)
        padded = [row + [PAD] * (longest - len(row)) for row in indices]
        index_NL = torch.tensor(padded, device=self.words.weight.device)
        valid_NL = index_NL != PAD
        tokens_NLE = self._embed(index_NL) + self._positions(longest)
        for block in self.blocks:
            tokens_NLE = block(tokens_NLE, valid_NL)
        encoded: torch.Tensor = self.norm(tokens_NLE)
        return encoded, valid_NL

    @property
    def tag_width(self) -> int:
        """E of the tags' embeddings."""
        return self.config.width

    @property
    def tag_names(self) -> tuple[str, ...]:
        """Names of the tags, without brackets."""
        return self.tokenizer.tags

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Return the words of a text that the vocabulary lacks, each once, in order."""
        return self.tokenizer.unknown_words(text)

    def read_rows(
        self,
        rows: Sequence[Sequence[str]],
        cells: int,
        masking: TokenMasking | None = None,
    ) -> CellText:
        """Encode the segments that each cell reads, each on its own, and pad; see `encode_rows`."""
        return encode_rows(self, rows, cells, masking)

    def _embed(self, index_NL: torch.Tensor) -> torch.Tensor:
        """Look up words and tags, shape NLE."""
        if not (index_NL >= self.tokenizer.size).any():
            # Without its table in the graph, a tag gets no gradient from texts that do not name it.
            words_NLE: torch.Tensor = self.words(index_NL)
            return words_NLE
        table = torch.cat([self.words.weight, torch.stack(list(self.tags))])
        return F.embedding(index_NL, table, padding_idx=PAD)

    def _positions(self, count: int) -> torch.Tensor:
        """Return sinusoids of word positions, shape LE."""
        half = self.config.width // 2
        weight = self.words.weight
        rates = torch.exp(-math.log(1000.0) * torch.arange(half, device=weight.device) / half)
        angle = torch.arange(count, device=weight.device)[:, None] * rates[None, :]
        return torch.cat([angle.sin(), angle.cos()], dim=1).to(weight.dtype)
