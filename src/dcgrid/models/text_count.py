"""Counts the tokens of texts as a model's text encoder cuts them, without the model.

Read `text_counter`: tokenizers alone are loaded, and of a checkout only where a text is so long
that its letters do not settle the question.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dcgrid.models.loading import (
    checkout_folder,
    is_here,
    is_native,
    read_vocabulary,
    text_encoder_of,
    weight_files,
)
from dcgrid.models.native.t5 import missing_t5_files, t5_counter
from dcgrid.models.native.text import WordTokenizer

Count = Callable[[str], int]
"""Returns the tokens of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCounter:
    """How a model's texts are counted."""

    of_segment: Count
    """Tokens of a segment as it is encoded, its end token among them."""
    of_words: Count
    """Tokens that a piece of text adds to a segment; no end token."""
    most: Count
    """At least as many as `of_segment` says, found without a tokenizer."""
    whole_cell: bool
    """True: the limit is of all that a cell reads. False: of each segment."""


def text_counter(model: str, tags: Sequence[str] = ()) -> TextCounter | None:
    """Return how the texts of a model are counted; None: its tokenizer is not here yet.

    Args:
        model: Name of the model, or folder of a checkout.
        tags: Tags that texts may name, one token each.

    Raises:
        UsageError: No model has that name, or an extra is not installed.
        WeightsError: A checkout has no tokenizer, or a damaged one.
    """
    if is_native(model) and (source := text_encoder_of(model)):
        return None if missing_t5_files(source) else _t5_counter(source, tags)
    if is_native(model):
        words = WordTokenizer((), tags)

        def count(text: str) -> int:
            return len(words.tokens(text))

        return TextCounter(of_segment=count, of_words=count, most=count, whole_cell=False)
    if not is_here(model):
        return None
    from dcgrid.models.wan.parts import Foreign, load_tokenizer
    from dcgrid.models.wan.text import clean_text

    loaded: list[Foreign] = []

    def pieces(text: str) -> int:
        if not loaded:
            loaded.append(load_tokenizer(checkout_folder(model)))
        # A tag is one embedding between the pieces of the words around it.
        around = re.split("|".join(re.escape(f"[{tag}]") for tag in tags), text) if tags else [text]
        found = (loaded[0](clean_text(part), add_special_tokens=False) for part in around)
        words = sum(len(one.input_ids) for one in found)
        return words + len(around) - 1

    return TextCounter(
        of_segment=lambda text: pieces(text) + 1,
        of_words=pieces,
        most=_most_pieces,
        whole_cell=True,
    )


def word_tokenizer(model: str, tags: Sequence[str] = ()) -> WordTokenizer | None:
    """Return the tokenizer of a model that reads a list of words; None: it reads pieces of words.

    Args:
        model: Name of the model, or folder of a checkout.
        tags: Tags that texts may name.

    Raises:
        WeightsError: Its text encoder is damaged.
    """
    if not is_native(model) or text_encoder_of(model):
        return None
    path = weight_files(model).get("text")
    if path is None or not path.is_file():
        return None
    return WordTokenizer(read_vocabulary(path), tags)


def _t5_counter(source: str, tags: Sequence[str]) -> TextCounter:
    """Return how the texts of a model are counted that reads them with T5."""
    counts: list[Count] = []

    def pieces(text: str) -> int:
        if not counts:
            counts.append(t5_counter(source, tags))
        return counts[0](text)

    return TextCounter(
        of_segment=lambda text: pieces(text) + 1,
        of_words=pieces,
        most=lambda text: len(unicodedata.normalize("NFKC", text).encode()) + 2,
        whole_cell=False,
    )


def _most_pieces(text: str) -> int:
    """Return a number of tokens that UMT5 cannot exceed for a text.

    A piece has a byte at least; a space is put before the first, an end after the last. Signs that
    stand for several letters are taken apart first, as the tokenizer does.
    """
    from dcgrid.models.wan.text import clean_text

    return len(unicodedata.normalize("NFKC", clean_text(text)).encode()) + 2
