"""The preset `paper` in numbers, built on the meta device: no memory, no weights."""

from dataclasses import replace

import torch

from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.config import PAPER
from dcgrid.models.native.dit import DiT


def test_paper_preset_counts_11_5_billion_and_9216_tokens() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in DiT(PAPER.dit).parameters())
    print(f"paper DiT: {count / 1e9:.2f} billion parameters")  # noqa: T201
    assert abs(count / 11.5e9 - 1) <= 0.05
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
