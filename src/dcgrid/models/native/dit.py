"""The diffusion transformer over the tokens of a grid.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns, S tokens, D width, N heads,
P head width, L text tokens, E text width, U distinct flow times, A adapters.

Tokens are cell-major, b (k f y x) d: self-attention sees the whole grid, text attention one cell
and its own text, modulation one (cell, frame) at a time. Read `DiT.forward` first.

Paper: sec. 8, Table 5.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dcgrid.models.base import CellText, TokenPlaces
from dcgrid.models.linear import CellLinear
from dcgrid.models.native.attention import (
    HeadNorm,
    attend,
    attend_in_window,
    axis_frequencies,
    rotary_tables,
    rotate,
)
from dcgrid.models.native.config import DiTConfig
from dcgrid.models.native.signals import (
    PLACE_CHANNELS,
    TIME_CHANNELS,
    embed_time,
    linear_guess,
    place_features,
    velocity_of_mixture,
)

PEER_SHARPNESS = 4.0
"""Factor on the scores of cell attention: normed queries and keys alone could not choose one of
four peers for certain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Size of a batch of grids in cells and tokens."""

    cells: int
    frames: int
    rows: int
    columns: int

    @property
    def token_size(self) -> tuple[int, int, int]:
        """Tokens of one cell along time, rows, columns."""
        return self.frames, self.rows, self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What every block reads beside the tokens."""

    shape: _Shape
    condition_UD: torch.Tensor
    """Embedded distinct flow times; with text modulation, of every cell and with its text."""
    condition_index_BKF: torch.Tensor
    """Row of `condition_UD` for each cell and frame."""
    cosine_SP: torch.Tensor
    sine_SP: torch.Tensor
    position_S: torch.Tensor
    text_BKLE: torch.Tensor
    valid_BKL: torch.Tensor
    route_KA: torch.Tensor | None


class GridAttention(nn.Module):
    """Self-attention over all tokens of the grid; only the queries can be routed."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.window = config.window
        self.query = CellLinear(config.width, config.width)
        self.key = CellLinear(config.width, config.width)
        self.value = CellLinear(config.width, config.width)
        self.out = CellLinear(config.width, config.width)
        self.query_norm = HeadNorm(config.width // config.heads)
        self.key_norm = HeadNorm(config.width // config.heads)

    def forward(self, tokens_BSD: torch.Tensor, context: _Context) -> torch.Tensor:
        """Return the attended tokens, BSD."""
        query = self._split(self.query(tokens_BSD, context.route_KA))
        key = self._split(self.key(tokens_BSD))
        value = self._split(self.value(tokens_BSD))
        query = rotate(self.query_norm(query), context.cosine_SP, context.sine_SP)
        key = rotate(self.key_norm(key), context.cosine_SP, context.sine_SP)
        if self.window is None:
            attended = attend(query, key, value)
        else:
            attended = attend_in_window(query, key, value, context.position_S, self.window // 2)
        out: torch.Tensor = self.out(rearrange(attended, "b n s p -> b s (n p)"))
        return out

    def _split(self, tokens_BSD: torch.Tensor) -> torch.Tensor:
        return rearrange(tokens_BSD, "b s (n p) -> b n s p", n=self.heads)


class CellAttention(nn.Module):
    """Attention over the K tokens at the same place of all cells.

        cell 0   cell 1   cell 2   cell 3
        . a .    . b .    . c .    . d .      b looks at a, b, c, d and nowhere else

    What a copy of another cell needs, without a search over the whole grid.

    Differs: docs/decisions/0007.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        narrow = config.width // 4
        self.query = CellLinear(config.width, narrow)
        self.key = CellLinear(config.width, narrow)
        self.value = CellLinear(config.width, config.width)
        self.out = CellLinear(config.width, config.width)
        self.query_norm = HeadNorm(narrow // config.heads)
        self.key_norm = HeadNorm(narrow // config.heads)

    def forward(self, tokens_BSD: torch.Tensor, context: _Context) -> torch.Tensor:
        """Return what each token takes from its peers, BSD."""
        cells, heads = context.shape.cells, self.heads
        query, key, value = (
            rearrange(project(tokens_BSD), "b (k s) (n p) -> (b s n) k p", k=cells, n=heads)
            for project in (self.query, self.key, self.value)
        )
        scale = PEER_SHARPNESS * query.shape[-1] ** -0.5
        # Plain products: there are many small ones here, and few keys to each.
        scores = (self.query_norm(query) * scale) @ self.key_norm(key).transpose(1, 2)
        taken = scores.float().softmax(-1).to(value.dtype) @ value
        batch = tokens_BSD.shape[0]
        merged = rearrange(taken, "(b s n) k p -> b (k s) (n p)", b=batch, n=heads)
        out: torch.Tensor = self.out(merged)
        return out


class TextAttention(nn.Module):
    """Cross-attention of each cell to the text that it may read."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = CellLinear(config.width, config.width)
        self.key = CellLinear(config.text_width, config.width)
        self.value = CellLinear(config.text_width, config.width)
        self.out = CellLinear(config.width, config.width)
        self.query_norm = HeadNorm(config.width // config.heads)
        self.key_norm = HeadNorm(config.width // config.heads)

    def forward(self, tokens_BSD: torch.Tensor, context: _Context) -> torch.Tensor:
        """Return what each token reads in its cell's text, BSD."""
        cells = context.shape.cells
        query = rearrange(
            self.query(tokens_BSD), "b (k s) (n p) -> (b k) n s p", k=cells, n=self.heads
        )
        text = context.text_BKLE.to(tokens_BSD.dtype)
        key, value = (
            rearrange(project(text), "b k l (n p) -> (b k) n l p", n=self.heads)
            for project in (self.key, self.value)
        )
        attended = attend(
            self.query_norm(query),
            self.key_norm(key),
            value,
            rearrange(context.valid_BKL, "b k l -> (b k) l"),
        )
        out: torch.Tensor = self.out(rearrange(attended, "(b k) n s p -> b (k s) (n p)", k=cells))
        return out


class TextPool(nn.Module):
    """One vector for the text that a cell reads: a weighted mean of its tokens, projected.

    Differs: docs/decisions/0008.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.score = nn.Linear(config.text_width, 1)
        self.out = nn.Linear(config.text_width, config.time_width or config.width)

    def forward(self, text_BKLE: torch.Tensor, valid_BKL: torch.Tensor) -> torch.Tensor:
        """Return a vector for each cell, BKD."""
        score_BKL = self.score(text_BKLE).squeeze(-1).float()
        share_BKL = score_BKL.masked_fill(~valid_BKL, float("-inf")).softmax(-1)
        pooled_BKE = torch.einsum("bkl,bkle->bke", share_BKL.to(text_BKLE.dtype), text_BKLE)
        out: torch.Tensor = self.out(pooled_BKE)
        return out


class PeerHead(nn.Module):
    """What a cell's output takes straight from the input tokens at the same place of all cells.

        out = project( gate(hidden) * sum over cells k of share_k * value(input_k) )

    A change of tone is a product of the given clip and a factor that depends on effect and place.
    The input comes here unspoilt by norms and by what the blocks need their width for.

    Differs: docs/decisions/0007.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width, patch = config.width, config.latent_channels * math.prod(config.patch)
        narrow = width // 4
        self.query = nn.Linear(width, narrow)
        self.key = nn.Linear(width, narrow)
        self.value = nn.Linear(patch, width)
        self.gate = nn.Linear(width, width)
        self.out = nn.Linear(width, patch)
        self.query_norm = HeadNorm(narrow)
        self.key_norm = HeadNorm(narrow)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, hidden_BSD: torch.Tensor, patches_BSD: torch.Tensor, context: _Context
    ) -> torch.Tensor:
        """Return what to add to the output patches, BSD."""
        cells = context.shape.cells
        query = self.query_norm(_by_place(self.query(hidden_BSD), cells))
        key = self.key_norm(_by_place(self.key(hidden_BSD), cells))
        value = _by_place(self.value(patches_BSD), cells)
        scores = (query * (PEER_SHARPNESS * query.shape[-1] ** -0.5)) @ key.transpose(1, 2)
        taken = scores.float().softmax(-1).to(value.dtype) @ value
        batch = hidden_BSD.shape[0]
        taken_BSD = rearrange(taken, "(b s) k d -> b (k s) d", b=batch)
        out: torch.Tensor = self.out(taken_BSD * self.gate(hidden_BSD))
        return out


def _by_place(tokens_BSD: torch.Tensor, cells: int) -> torch.Tensor:
    """Bring the tokens at one place of all cells together."""
    return rearrange(tokens_BSD, "b (k s) d -> (b s) k d", k=cells)


class Block(nn.Module):
    """Self-attention, text attention and MLP, modulated by flow time (AdaLN-zero)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = nn.Linear(config.time_width or width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.grid_attention = GridAttention(config)
        self.cell_attention = CellAttention(config) if config.cell_attention else None
        self.text_norm = nn.LayerNorm(width)
        self.text_attention = TextAttention(config)
        self.mlp_in = nn.Linear(width, config.mlp_ratio * width)
        self.mlp_out = nn.Linear(config.mlp_ratio * width, width)

    def forward(self, tokens_BSD: torch.Tensor, context: _Context) -> torch.Tensor:
        """Return tokens of the same shape."""
        modulation = self.modulation(F.silu(context.condition_UD))
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.chunk(6, dim=-1)
        normed = _modulate(_plain_norm(tokens_BSD), shift_1, scale_1, context)
        attended = self.grid_attention(normed, context)
        if self.cell_attention is not None:
            attended = attended + self.cell_attention(normed, context)
        tokens_BSD = tokens_BSD + _per_frame(gate_1, attended, context)
        tokens_BSD = tokens_BSD + self.text_attention(self.text_norm(tokens_BSD), context)
        normed = _modulate(_plain_norm(tokens_BSD), shift_2, scale_2, context)
        return tokens_BSD + _per_frame(gate_2, self._mlp(normed), context)

    def _mlp(self, tokens_BSD: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mlp_out(F.gelu(self.mlp_in(tokens_BSD)))
        return out


def _plain_norm(tokens_BSD: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(tokens_BSD, tokens_BSD.shape[-1:])


def _per_frame(
    factor_UD: torch.Tensor, tokens_BSD: torch.Tensor, context: _Context
) -> torch.Tensor:
    """Multiply tokens by the factor of their (cell, frame); no per-token copy is ever made."""
    shape = context.shape
    factor = factor_UD[context.condition_index_BKF][:, :, :, None]
    split = rearrange(tokens_BSD, "b (k f n) d -> b k f n d", k=shape.cells, f=shape.frames)
    return rearrange(split * factor.to(split.dtype), "b k f n d -> b (k f n) d")


def _modulate(
    tokens_BSD: torch.Tensor, shift_UD: torch.Tensor, scale_UD: torch.Tensor, context: _Context
) -> torch.Tensor:
    shape = context.shape
    index = context.condition_index_BKF
    split = rearrange(tokens_BSD, "b (k f n) d -> b k f n d", k=shape.cells, f=shape.frames)
    scale = (1 + scale_UD[index][:, :, :, None]).to(split.dtype)
    shift = shift_UD[index][:, :, :, None].to(split.dtype)
    return rearrange(split * scale + shift, "b k f n d -> b (k f n) d")


def _with_text(
    time_UD: torch.Tensor, index_BKF: torch.Tensor, text_BKD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a row for every (cell, distinct time), and where each cell and frame finds its own."""
    batch, cells, _ = text_BKD.shape
    rows = time_UD + rearrange(text_BKD, "b k d -> (b k) 1 d").to(time_UD.dtype)
    first_BK = torch.arange(batch * cells, device=index_BKF.device).reshape(batch, cells, 1)
    return rows.flatten(0, 1), index_BKF + first_BK * len(time_UD)


class DiT(nn.Module):
    """Predicts the velocity of every cell of a grid.

    `latent_spread` (one number a channel, with the weights) is that of the latents it is trained
    on; only the prediction "mixture" needs it.

    Paper: sec. 8, Table 5.
    """

    latent_spread: torch.Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        inputs = config.latent_channels * (2 if config.self_conditioning else 1)
        volume = math.prod(config.patch)
        self.patch_in = nn.Linear(inputs * volume, width)
        self.place_in = nn.Linear(PLACE_CHANNELS, width) if config.place_embedding else None
        time_width = config.time_width or width
        self.time_in = nn.Linear(TIME_CHANNELS, time_width)
        self.time_out = nn.Linear(time_width, time_width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.modulation = nn.Linear(time_width, 2 * width)
        self.patch_out = nn.Linear(width, config.latent_channels * volume)
        self.text_pool = TextPool(config) if config.text_modulation else None
        self.peer_head = PeerHead(config) if config.peer_head else None
        if config.prediction == "mixture":
            self.register_buffer("latent_spread", torch.ones(config.latent_channels))
        for layer in (self.modulation, self.patch_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.frequencies = axis_frequencies(
            width // config.heads, config.rope_base, config.cell_pitch
        )

    def forward(
        self,
        cells_BKCFYX: torch.Tensor,
        time_BKF: torch.Tensor,
        text: CellText,
        places: TokenPlaces,
        route_KA: torch.Tensor | None = None,
        estimate_BKCFYX: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the velocity of every cell.

        Args:
            cells_BKCFYX: Noisy latents; given cells clean.
            time_BKF: Flow time in [0, 1] of each cell and latent frame.
            text: What each cell reads.
            places: Where each token stands.
            route_KA: Weights of the routed adapters, per cell.
            estimate_BKCFYX: Earlier estimate of the clean latents (self-conditioning); None: zeros.

        Returns:
            Velocity, shape BKCFYX. Where the time is 0 it means nothing; samplers do not read it.
        """
        inputs = cells_BKCFYX
        if self.config.prediction == "mixture":
            inputs = linear_guess(cells_BKCFYX, time_BKF, self.latent_spread)
        if self.config.self_conditioning:
            if estimate_BKCFYX is None:
                estimate_BKCFYX = torch.zeros_like(cells_BKCFYX)
            inputs = torch.cat([cells_BKCFYX, estimate_BKCFYX], dim=2)
        patches_BSD = self._to_tokens(inputs)
        tokens_BSD = self.patch_in(patches_BSD)
        context = self._context(cells_BKCFYX, time_BKF, text, places, route_KA)
        if self.place_in is not None:
            features = place_features(context.shape.token_size, tokens_BSD.device)
            placed = self.place_in(features.to(self.place_in.weight.dtype))
            tokens_BSD = tokens_BSD + placed.repeat(context.shape.cells, 1).to(tokens_BSD.dtype)
        for block in self.blocks:
            tokens_BSD = block(tokens_BSD, context)
        shift_UD, scale_UD = self.modulation(F.silu(context.condition_UD)).chunk(2, dim=-1)
        tokens_BSD = _modulate(_plain_norm(tokens_BSD), shift_UD, scale_UD, context)
        out_BSD = self.patch_out(tokens_BSD)
        if self.peer_head is not None:
            out_BSD = out_BSD + self.peer_head(tokens_BSD, patches_BSD, context)
        predicted = self._to_cells(out_BSD, context.shape)
        if self.config.prediction == "velocity":
            return predicted.to(cells_BKCFYX.dtype)
        mixture = predicted.to(cells_BKCFYX.dtype)
        return velocity_of_mixture(cells_BKCFYX, mixture, time_BKF, self.latent_spread)

    def _context(
        self,
        cells_BKCFYX: torch.Tensor,
        time_BKF: torch.Tensor,
        text: CellText,
        places: TokenPlaces,
        route_KA: torch.Tensor | None,
    ) -> _Context:
        _, cells, _, frames, rows, columns = cells_BKCFYX.shape
        patch = self.config.patch
        times_U, index_BKF = torch.unique(time_BKF[:, :, :: patch[0]], return_inverse=True)
        cosine_SP, sine_SP = rotary_tables(places.coordinates_S3, self.frequencies)
        embedded = embed_time(times_U).to(self.time_in.weight.dtype)
        condition_UD = self.time_out(F.silu(self.time_in(embedded)))
        if self.text_pool is not None:
            pooled_BKD = self.text_pool(text.tokens_BKLE, text.valid_BKL)
            condition_UD, index_BKF = _with_text(condition_UD, index_BKF, pooled_BKD)
        return _Context(
            shape=_Shape(
                cells=cells,
                frames=frames // patch[0],
                rows=rows // patch[1],
                columns=columns // patch[2],
            ),
            condition_UD=condition_UD,
            condition_index_BKF=index_BKF,
            cosine_SP=cosine_SP,
            sine_SP=sine_SP,
            position_S=places.position_S,
            text_BKLE=text.tokens_BKLE,
            valid_BKL=text.valid_BKL,
            route_KA=route_KA,
        )

    def _to_tokens(self, cells_BKCFYX: torch.Tensor) -> torch.Tensor:
        p_f, p_y, p_x = self.config.patch
        return rearrange(
            cells_BKCFYX,
            "b k c (f r) (y p) (x q) -> b (k f y x) (c r p q)",
            r=p_f,
            p=p_y,
            q=p_x,
        )

    def _to_cells(self, patches_BSD: torch.Tensor, shape: _Shape) -> torch.Tensor:
        p_f, p_y, p_x = self.config.patch
        return rearrange(
            patches_BSD,
            "b (k f y x) (c r p q) -> b k c (f r) (y p) (x q)",
            k=shape.cells,
            f=shape.frames,
            y=shape.rows,
            x=shape.columns,
            r=p_f,
            p=p_y,
            q=p_x,
        )
