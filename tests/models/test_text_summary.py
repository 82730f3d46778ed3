"""What an edit's words become for the guided upsampler: a weighted mean, and nothing of nothing."""

import torch

from dcgrid.models.text_summary import SUMMARY_WIDTH, TextSummary


def summary() -> TextSummary:
    torch.manual_seed(2)
    return TextSummary(("heavy", "in", "rain", "snow")).requires_grad_(False)


def test_it_is_the_mean_over_known_words_by_their_weights() -> None:
    text = summary()
    heavy, within, rain = text.words.weight[text.tokenizer.tokens("heavy in rain")[0].index :][:3]
    text.weight.weight[text.tokenizer.tokens("rain")[0].index] = 2.0
    share = torch.tensor([1.0, 1.0, torch.e**2])
    expected = share @ torch.stack((heavy, within, rain)) / share.sum()
    found = text(["Heavy, purple rain in Tokyo", "snow"])
    assert found.shape == (2, SUMMARY_WIDTH)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], text.words.weight[text.tokenizer.tokens("snow")[0].index])


def test_texts_without_a_known_word_are_zero() -> None:
    assert not summary()(["", "purple Tokyo"]).any()
    assert not TextSummary(())(["rain"]).any()
