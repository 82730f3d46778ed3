"""Mini's words and how they are encoded."""

import string

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcgrid.models.native.config import TextConfig
from dcgrid.models.native.rows import encode_rows
from dcgrid.models.native.text import (
    EMPTY,
    PAD,
    UNKNOWN,
    TextEncoder,
    WordTokenizer,
    build_vocabulary,
)

WORDS = ("cat", "dance", "heavy", "in", "rain", "smoke", "the", "walk")
TEXTS = ("the cat walks in heavy rain", "", "rain", "smoke, smoke: smoke!", "a zebra in the rain")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    config = TextConfig(width=16, blocks=2, heads=2, limit=6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = TextEncoder(config, WordTokenizer(WORDS))
    return built.eval().requires_grad_(False)


def test_spans_are_the_characters_of_the_words() -> None:
    text = "The CAT's  walk -- in_rain, 4K"
    tokens = WordTokenizer(WORDS).tokens(text)
    words = [text[token.start : token.end] for token in tokens]
    assert words == ["The", "CAT", "s", "walk", "in", "rain", "4K"]
    known = [token.index for token in tokens]
    assert known[0] == WordTokenizer(WORDS).tokens("the")[0].index
    assert UNKNOWN not in (known[i] for i in (0, 1, 3, 4, 5))


@pytest.mark.parametrize("odd", ["\u0130", "\ufb03", "\u00bd", "\u1e9e", "e\u0301"])
def test_spans_hold_where_lower_case_or_normal_form_has_another_length(odd: str) -> None:
    text = f"{odd} the rain"
    last = WordTokenizer(WORDS).tokens(text)[-2:]
    assert [text[token.start : token.end] for token in last] == ["the", "rain"]


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_tokens_of_any_text_are_in_order_and_inside(text: str) -> None:
    tokens = WordTokenizer(WORDS).tokens(text)
    end = 0
    for token in tokens:
        assert end <= token.start <= token.end <= len(text)
        assert token.index != PAD
        end = token.end
    if any(character.isalnum() for character in text):
        assert all(token.start < token.end for token in tokens)
    else:
        assert [token.index for token in tokens] == [EMPTY]


def test_words_with_common_endings_are_known() -> None:
    tokenizer = WordTokenizer(WORDS)
    index = {word: tokenizer.tokens(word)[0].index for word in WORDS}
    for text, word in (("walking", "walk"), ("walked", "walk"), ("rainy", "rain"),
                       ("dancing", "dance"), ("DANCER", "dance"), ("smoked", "smoke")):  # fmt: skip
        assert tokenizer.tokens(text)[0].index == index[word], text
    # A word that only begins like a known one is another word.
    assert WordTokenizer(("car", "the")).unknown_words("card thing") == ("card", "thing")
    assert len(set(index.values())) == len(WORDS)


def test_unknown_words_are_named_once_and_in_order() -> None:
    tokenizer = WordTokenizer(WORDS)
    assert tokenizer.unknown_words("the Zebra in rain, a zebra: quagga") == ("zebra", "a", "quagga")
    assert tokenizer.unknown_words("Heavy rain, the cat walks") == ()
    assert tokenizer.unknown_words("дождь in 雨") == ("дождь", "雨")
    assert WordTokenizer(("cafe",)).unknown_words("Café") == ()


def test_vocabulary_holds_every_word_of_its_texts() -> None:
    texts = ("Heavy rain; the cat's paw", "NIGHT, rain 24 fps")
    words = build_vocabulary(texts)
    assert words == ("24", "cat", "fps", "heavy", "night", "paw", "rain", "s", "the")
    tokenizer = WordTokenizer(words)
    assert all(tokenizer.unknown_words(text) == () for text in texts)
    assert tokenizer.size == len(words) + 3


def test_ascii_words_are_those_of_a_plain_split() -> None:
    text = string.printable + "one_two-three'four5"
    lowered = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    assert build_vocabulary([text]) == tuple(sorted(set(lowered)))


def test_padding_and_neighbours_never_influence_a_segment(encoder: TextEncoder) -> None:
    together_NLE, valid_NL = encoder(TEXTS)
    assert valid_NL.sum(1).tolist() == [6, 1, 1, 3, 5]
    for text, row_LE, valid_L in zip(TEXTS, together_NLE, valid_NL, strict=True):
        alone_NLE, alone_NL = encoder([text])
        assert alone_NL.all()
        torch.testing.assert_close(row_LE[valid_L], alone_NLE[0], rtol=1e-5, atol=1e-5)


def test_order_of_words_matters(encoder: TextEncoder) -> None:
    forward, backward = encoder(["cat smoke rain"])[0], encoder(["rain smoke cat"])[0]
    assert (forward - backward.flip(1)).abs().max() > 1e-2


def test_words_past_the_limit_are_left_out(encoder: TextEncoder) -> None:
    long_NLE, valid_NL = encoder(["rain " * 40])
    assert valid_NL.shape == (1, 6)
    torch.testing.assert_close(long_NLE, encoder(["rain " * 6])[0])


def test_empty_text_is_one_token_of_its_own(encoder: TextEncoder) -> None:
    empty_NLE, valid_NL = encoder(["", " ,. "])
    assert valid_NL.tolist() == [[True], [True]]
    assert torch.equal(empty_NLE[0], empty_NLE[1])
    assert not torch.allclose(empty_NLE[0], encoder(["zebra"])[0][0])


def test_rows_lay_segments_side_by_side(encoder: TextEncoder) -> None:
    rows = [["the cat", "rain"], ["the cat"], [""], ["smoke in the rain", "the cat", "walk"]]
    text = encode_rows(encoder, rows, cells=2)
    assert text.tokens_BKLE.shape == (2, 2, 7, 16)
    assert text.valid_BKL.sum(2).tolist() == [[3, 2], [1, 7]]
    for number, row in enumerate(rows):
        grid, cell = divmod(number, 2)
        expected_LE = torch.cat([encoder([segment])[0][0] for segment in row])
        held_LE = text.tokens_BKLE[grid, cell][text.valid_BKL[grid, cell]]
        torch.testing.assert_close(held_LE, expected_LE, rtol=1e-5, atol=1e-5)
        assert not text.tokens_BKLE[grid, cell][~text.valid_BKL[grid, cell]].any()
