"""Tags: unique tokens that are learned after the words."""

import pytest
import torch

from dcgrid.errors import WeightsError
from dcgrid.models.native.config import TextConfig
from dcgrid.models.native.text import UNKNOWN, TextEncoder, WordTokenizer
from dcgrid.models.tags import load_tags, save_tags
from dcgrid.models.weights import save_weights

WORDS = ("a", "cat", "identity", "left", "top", "walk")
TAGS = ("Cat_identity", "motion_walk")
TEXT = "a cat [Cat_identity] [TOP LEFT] walk [motion_walk]"


def encoder_of(width=16):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = TextConfig(width=width, blocks=1, heads=2, limit=12)
        return TextEncoder(config, WordTokenizer(WORDS)).eval().requires_grad_(False)


def test_without_tags_nothing_changes():
    plain, tagged = encoder_of(), encoder_of()
    names = list(plain.state_dict())
    assert not any("tags" in name for name in names)
    before = plain([TEXT, "a cat walk"])
    tagged.add_tags(TAGS)
    tagged.add_tags(())
    assert list(tagged.state_dict()) == names
    after = tagged([TEXT, "a cat walk"])
    assert torch.equal(before[0], after[0])
    words = [TEXT[t.start : t.end] for t in plain.tokenizer.tokens(TEXT)]
    assert words == ["a", "cat", "Cat", "identity", "TOP", "LEFT", "walk", "motion", "walk"]
    assert plain.tokenizer.unknown_words(TEXT) == ("motion",)


def test_a_known_tag_is_one_token_and_other_brackets_are_words():
    tokenizer = WordTokenizer(WORDS, TAGS)
    tokens = tokenizer.tokens(TEXT)
    words = [TEXT[t.start : t.end] for t in tokens]
    assert words == ["a", "cat", "[Cat_identity]", "TOP", "LEFT", "walk", "[motion_walk]"]
    assert [t.index for t in tokens if t.index >= tokenizer.size] == [
        tokenizer.size,
        tokenizer.size + 1,
    ]
    assert tokenizer.size == WordTokenizer(WORDS).size
    assert tokenizer.unknown_words(TEXT) == ()
    # Without brackets, or in other letters, it is no tag.
    for other in ("motion_walk", "[Motion_walk]"):
        assert tokenizer.tokens(other)[0].index == UNKNOWN
        assert tokenizer.unknown_words(other) == ("motion",)


def test_tags_start_at_zero_and_only_those_named_learn():
    encoder = encoder_of()
    cat_E, walk_E = encoder.add_tags(TAGS)
    assert not cat_E.any()
    assert not walk_E.any()
    # A text without tags gives them no gradient at all, not even zeros.
    assert not encoder(["a cat"])[0].requires_grad
    encoder(["a cat [Cat_identity]"])[0][0, :, 0].sum().backward()
    assert cat_E.grad.any()
    assert not walk_E.grad.any()
    before = encoder(["a cat [Cat_identity]"])[0]
    with torch.no_grad():
        cat_E[0] = 1.0
    assert not torch.equal(before, encoder(["a cat [Cat_identity]"])[0])


def test_tags_that_stand_twice_are_a_bug():
    with pytest.raises(ValueError, match="twice"):
        encoder_of().add_tags(["one", "one"])


def test_saved_tags_come_back(tmp_path):
    encoder = encoder_of()
    with torch.no_grad():
        for number, tag_E in enumerate(encoder.add_tags(TAGS), start=1):
            tag_E.copy_(torch.full((16,), 0.1).cumsum(0) * number)
    save_tags(tmp_path / "tokens.safetensors", encoder, {"model": "tiny"})
    other = encoder_of()
    assert load_tags(tmp_path / "tokens.safetensors", other) == TAGS
    assert torch.equal(encoder([TEXT])[0], other([TEXT])[0])
    assert not any(tag_E.requires_grad for tag_E in other.tags)


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    encoder, path = encoder_of(), tmp_path / "tokens.safetensors"
    encoder.add_tags(TAGS)
    save_tags(path, encoder, {})
    wide = encoder_of(width=32)
    with pytest.raises(WeightsError, match="16 wide, the text encoder's words 32"):
        load_tags(path, wide)
    assert wide.tokenizer.tags == ()
    for tensors, names in (
        ({"words": torch.zeros(2, 16)}, ["a", "b"]),
        ({"tags": torch.zeros(2, 16)}, ["a"]),
        ({"tags": torch.zeros(2, 16)}, ["a", "a"]),
        ({"tags": torch.zeros(2, 16)}, "ab"),
        ({"tags": torch.full((1, 16), float("nan"))}, ["a"]),
    ):
        save_weights(path, tensors, {"tags": names}, torch.float32)
        with pytest.raises(WeightsError, match="tags"):
            load_tags(path, encoder)
