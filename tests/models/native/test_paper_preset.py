"""The preset `paper` in numbers, built on the meta device: no memory, no weights."""

from dataclasses import replace

import pytest
import torch

from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.config import PAPER, DiTConfig
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.t5 import count_t5


def count_of(config: DiTConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in DiT(config).parameters())


def test_paper_preset_counts_11_5_billion_with_its_text_encoder() -> None:
    """docs/decisions/0022: what Table 5 lists is 11.06 billion, and no reading of it is 11.5."""
    dit, text = count_of(PAPER.dit), count_t5("hf:google-t5/t5-large")
    assert text == 334_939_648
    assert abs((dit + text) / 11.5e9 - 1) < 0.01
    width, read = PAPER.dit.width, PAPER.dit.text_width
    # Self-attention, attention to the text, MLP, modulation.
    block = 4 * width**2 + 2 * width**2 + 2 * read * width + 8 * width**2 + 6 * width**2
    around = 3 * width**2
    assert dit == pytest.approx(PAPER.dit.blocks * block + around, rel=0.001)
    # Text brought to the width of tokens first is as far off on the other side.
    projected = count_of(replace(PAPER.dit, text_width=width)) + read * width
    assert 1 - dit / 11.5e9 == pytest.approx(0.038, abs=0.001)
    assert projected / 11.5e9 - 1 == pytest.approx(0.032, abs=0.001)


def test_paper_preset_has_9216_tokens() -> None:
    config = PAPER.autoencoder
    frames = 120 // config.total_stride_T + 1
    rows, columns = 576 // config.total_stride_HW, 1024 // config.total_stride_HW
    p_f, p_y, p_x = PAPER.dit.patch
    assert (frames // p_f) * (rows // p_y) * (columns // p_x) == 9216
    assert (config.total_stride_T * p_f, config.total_stride_HW * p_y) == (8, 32)
    assert PAPER.dit.window == 6144
    assert PAPER.dit.width // PAPER.dit.heads == 128


def test_paper_preset_turns_9216_tokens_on_the_meta_device() -> None:
    """Shapes go through the whole forward of the full preset; no memory is needed."""
    with torch.device("meta"):
        dit = DiT(replace(PAPER.dit, blocks=1))
        cells = torch.empty(1, 1, 32, 16, 36, 64)
        inputs = torch.cat([cells, cells], dim=2)
        tokens = dit.patch_in(dit._to_tokens(inputs))
    assert tokens.shape == (1, 9216, 4096)


def test_paper_autoencoder_counts_on_the_meta_device() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in Autoencoder(PAPER.autoencoder).parameters())
    print(f"paper autoencoder: {count / 1e6:.0f} million parameters")  # noqa: T201
    assert 0.5e9 < count < 1.5e9
