"""Masked text tokens leave the rows of cells; the rest is as it was."""

import pytest
import torch

from dcgrid.models.native.config import TINY
from dcgrid.models.native.rows import encode_rows
from dcgrid.models.native.text import TextEncoder, WordTokenizer
from dcgrid.models.text_masking import TokenMasking, kept_tokens

WORDS = ("a", "cat", "walks", "in", "heavy", "rain", "smoke", "night", "at")
LONG = {"whole": 4000, "own": 4000, "other": 3000}


def masking(share: float, seed: int = 0) -> TokenMasking:
    return TokenMasking(share=share, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_each_token_is_masked_on_its_own_with_that_probability(share: float) -> None:
    (kept_L,) = kept_tokens([["whole"]], 1, LONG, masking(share))
    gone_L = (~kept_L).double()
    # 4000 draws: three standard deviations are 0.024 at most.
    assert float(gone_L.mean()) == pytest.approx(share, abs=0.024)
    # Independent: neighbours go together as often as chance has it, not in runs.
    assert float((gone_L[1:] * gone_L[:-1]).mean()) == pytest.approx(share**2, abs=0.03)


def test_a_text_is_masked_alike_in_the_cells_of_a_grid_and_anew_in_the_next_grid() -> None:
    rows = [["whole", "own"], ["whole", "other"], ["whole", "own"], ["other"]]
    one, two, three, four = kept_tokens(rows, 2, LONG, masking(0.6))
    assert torch.equal(one[:4000], two[:4000])
    assert not torch.equal(one[:4000], three[:4000])
    assert not torch.equal(two[4000:], four)


def test_a_cell_always_keeps_a_token() -> None:
    rows = [["a", "b"], ["b"], ["a", "b"], ["b"]]
    for seed in range(20):
        for kept_L in kept_tokens(rows, 4, {"a": 3, "b": 2}, masking(1.0, seed)):
            assert int(kept_L.sum()) == 1
    assert all(k.all() for k in kept_tokens(rows, 4, {"a": 3, "b": 2}, masking(0.0)))


def test_rows_hold_what_stays_in_its_order_and_pad_the_rest() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(TINY.text, WordTokenizer(WORDS))
    rows = [["a cat walks", "in heavy rain"], ["a cat walks", "at night"], [""], ["smoke"]]
    plain = encode_rows(encoder, rows, cells=2)
    lengths = {text: len(encoder([text])[0][0]) for row in rows for text in row}
    for seed in range(4):
        text = encode_rows(encoder, rows, 2, masking(0.6, seed))
        kept = kept_tokens(rows, 2, lengths, masking(0.6, seed))
        assert text.valid_BKL.shape[-1] == max(int(kept_L.sum()) for kept_L in kept)
        for number, kept_L in enumerate(kept):
            at = divmod(number, 2)
            whole_LE = plain.tokens_BKLE[at][plain.valid_BKL[at]]
            found_LE = text.tokens_BKLE[at][text.valid_BKL[at]]
            assert torch.equal(found_LE, whole_LE[kept_L])
            assert not text.tokens_BKLE[at][~text.valid_BKL[at]].any()
        # A dropped caption is one token, which stays.
        assert int(text.valid_BKL[1, 0].sum()) == 1
