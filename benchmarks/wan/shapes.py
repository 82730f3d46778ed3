"""Where a benchmark runs; Wan transformers of a given size with random weights, and grids for them.

Random weights are as fast as trained ones; their pixels mean nothing.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.models.base import CellText, TokenPlaces

Foreign: TypeAlias = Any
"""A module of diffusers."""
LAYOUT = GridLayout(rows=2, cols=2)
IN_FLOAT32 = ("rope", "time_embedder", "norm1", "norm2", "norm3")
"""What diffusers keeps in float32 when it loads a checkout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A transformer and its grid of 2x2 cells."""

    name: str
    heads: int
    layers: int
    ffn: int
    frames: int
    """Latent frames."""
    rows: int
    """Token rows of a cell."""
    cols: int
    """Token columns of a cell."""
    head_width: int = 128
    text: int = 512
    """Text tokens of a cell."""
    text_width: int = 4096

    @property
    def width(self) -> int:
        """D."""
        return self.heads * self.head_width

    @property
    def tokens(self) -> int:
        """N of the grid."""
        return LAYOUT.count * self.frames * self.rows * self.cols

    @property
    def operations(self) -> int:
        """Of one forward with kept text: linear layers and attention."""
        linear = 2 * self.tokens * (6 * self.width**2 + 2 * self.width * self.ffn)
        attention = 4 * self.tokens * (self.tokens + self.text) * self.width
        return self.layers * (linear + attention)


def mini(frames: int, *, layers: int = 8, heads: int = 2) -> Size:
    """Return the CPU's size: cells of 96x96 pixels."""
    return Size(
        name=f"d{heads * 128} L{layers}", heads=heads, layers=layers, ffn=512 * heads,
        frames=frames, rows=6, cols=6, text=64, text_width=64,
    )  # fmt: skip


TINY = mini(2, layers=3, heads=1)
WAN_1B = Size(name="Wan 1.3B", heads=12, layers=30, ffn=8960, frames=21, rows=15, cols=26)
WAN_14B = Size(name="Wan 14B", heads=40, layers=40, ffn=13824, frames=13, rows=15, cols=26)


def make_model(size: Size, device: torch.device, dtype: torch.dtype) -> Foreign:
    """Return a transformer with random weights, in the number formats that diffusers loads."""
    import diffusers

    torch.manual_seed(0)
    with torch.device(device):
        model: Foreign = diffusers.WanTransformer3DModel(
            num_attention_heads=size.heads, attention_head_dim=size.head_width, in_channels=16,
            out_channels=16, text_dim=size.text_width, ffn_dim=size.ffn, num_layers=size.layers,
        )  # fmt: skip
    kept = {
        name: tensor.clone()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if name.endswith("scale_shift_table") or set(name.split(".")) & set(IN_FLOAT32)
    }
    # Not Module.to of diffusers, which warns of what is mended below.
    nn.Module.to(model, dtype)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in kept:
            tensor.data = kept[name]
    return model.to(device).eval().requires_grad_(False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A grid whose cells read one text at one time, so that diffusers can take it as one video."""

    cells_BKCFYX: Tensor
    time_BKF: Tensor
    text: CellText
    places: TokenPlaces

    def given(self, count: int, time: float = 0.5) -> Tensor:
        """Return times with the first cells given."""
        time_BKF = torch.full_like(self.time_BKF, time)
        time_BKF[:, :count] = 0
        return time_BKF

    def as_video(self, cells_BKCFYX: Tensor) -> Tensor:
        """Return the grid as one video BCFYX."""
        rows = [torch.cat([cells_BKCFYX[:, 2 * r], cells_BKCFYX[:, 2 * r + 1]], -1) for r in (0, 1)]
        return torch.cat(rows, dim=-2)


def make_inputs(size: Size, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Return random latents and text."""
    generator = torch.Generator().manual_seed(1)
    shape = (1, LAYOUT.count, 16, size.frames, 2 * size.rows, 2 * size.cols)
    tokens = torch.randn(1, 1, size.text, size.text_width, generator=generator)
    tokens = tokens.expand(1, LAYOUT.count, -1, -1).to(device, dtype)
    token_shape = TokenShape(frames=size.frames, rows=size.rows, cols=size.cols)
    return Inputs(
        cells_BKCFYX=torch.randn(shape, generator=generator).to(device),
        time_BKF=torch.full((1, LAYOUT.count, size.frames), 0.5, device=device),
        text=CellText(
            tokens_BKLE=tokens,
            valid_BKL=torch.ones(tokens.shape[:3], dtype=torch.bool, device=device),
        ),
        places=TokenPlaces(
            coordinates_S3=token_coordinates(LAYOUT, token_shape, None).to(device),
            position_S=grid_positions(LAYOUT, token_shape).to(device),
        ),
    )


def theirs(model: Foreign, inputs: Inputs) -> Tensor:
    """Return what diffusers' own forward makes of the grid, BCFYX."""
    dtype = model.patch_embedding.weight.dtype
    found: Tensor = model(
        inputs.as_video(inputs.cells_BKCFYX).to(dtype),
        torch.full((1,), 500.0, device=inputs.cells_BKCFYX.device),
        inputs.text.tokens_BKLE[:, 0],
        return_dict=False,
    )[0]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Device and size of a run."""

    device: torch.device
    small: bool
    """True: sizes that take seconds, to see that it runs."""
    repeats: int = 7
    """Times that each way is timed; the median counts."""
