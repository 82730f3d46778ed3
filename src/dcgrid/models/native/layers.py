"""What tokens read: the whole grid, the same place of other cells, their cell's text, the noise.

Letters: B batch, K cells, M moving channels of noise, S tokens, D width, N heads, P head width,
L text tokens, E text width, U distinct flow times, A adapters. Tokens are cell-major,
b (k f y x) d.

Paper: sec. 8, Table 5.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dcgrid.models.attention import attend
from dcgrid.models.base import Memory
from dcgrid.models.given import (
    Given,
    Pair,
    attend_given_first,
    hidden_peers,
)
from dcgrid.models.linear import CellLinear
from dcgrid.models.native.attention import HeadNorm, attend_in_window, rotate
from dcgrid.models.native.config import DiTConfig

NOISE_WIDTH = 96
"""Channels in which a token carries what the noise around it says."""
THRESHOLDS = 6
"""Heights above which a number of the noise is looked at; learned. At first they are spread over
POINT_HEIGHTS where every number is on its own, else over FIELD_HEIGHTS."""
POINT_HEIGHTS, POINT_STEEPNESS = (1.0, 2.2), 6.0
"""A drop is where a number is among the highest few in a hundred, and it is there or not."""
FIELD_HEIGHTS, FIELD_STEEPNESS = (-1.0, 2.0), 2.0

PEER_SHARPNESS = 4.0
"""Factor on the scores of cell attention: normed queries and keys alone could not choose one of
four peers for certain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridShape:
    """Size of a batch of grids in cells and tokens."""

    cells: int
    frames: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every block reads beside the tokens."""

    shape: GridShape
    condition_UD: torch.Tensor
    """Embedded distinct flow times; with text modulation, of every cell and with its text."""
    condition_index_BKF: torch.Tensor
    """Row of `condition_UD` for each cell and frame."""
    cosine_SP: torch.Tensor
    sine_SP: torch.Tensor
    position_S: torch.Tensor
    key_position_S: torch.Tensor
    """That of every key; kept ones come first."""
    text_BKLE: torch.Tensor
    valid_BKL: torch.Tensor
    route_KA: torch.Tensor | None
    luck_BSD: torch.Tensor | None = None
    """What the noise around each token says, NOISE_WIDTH channels; None: it is not looked at."""
    given: Given | None = None
    """What is given, where given tokens read given ones alone; None: all tokens read all."""
    memory: Memory | None = None
    """Where what later calls need again is kept; None: nowhere."""
    text_name: str = ""
    """Tells one text of a sampling from another."""


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

    def forward(self, tokens_BSD: torch.Tensor, context: Context) -> torch.Tensor:
        """Return the attended tokens, BSD."""
        query = self._split(self.query(tokens_BSD, context.route_KA))
        key = self._split(self.key(tokens_BSD))
        value = self._split(self.value(tokens_BSD))
        query = rotate(self.query_norm(query), context.cosine_SP, context.sine_SP)
        key = rotate(self.key_norm(key), context.cosine_SP, context.sine_SP)
        attended = self._attend(query, key, value, context)
        out: torch.Tensor = self.out(rearrange(attended, "b n s p -> b s (n p)"))
        return out

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, context: Context
    ) -> torch.Tensor:
        given, places = context.given, context.shape.rows * context.shape.columns
        known_BS = None
        if given is not None:
            key, value = given.with_tokens(self, (key, value), places)
            # All that are left to ask, once the given are known, may read all.
            known_BS = None if given.recalled else given.known_tokens(places)
        if self.window is not None:
            positions = context.position_S, context.key_position_S
            return attend_in_window(query, key, value, *positions, self.window // 2, known_BS)
        if known_BS is not None:
            return attend_given_first(query, key, value, known_BS)
        return attend(query, key, value)

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

    def forward(self, tokens_BSD: torch.Tensor, context: Context) -> torch.Tensor:
        """Return what each token takes from its peers, BSD."""
        cells, heads = context.shape.cells, self.heads
        query, key, value = (
            _by_place(project(tokens_BSD), cells, heads)
            for project in (self.query, self.key, self.value)
        )
        key, given, hidden = self.key_norm(key), context.given, None
        if given is not None:
            key, value = given.with_peers(self, (key, value), context.shape.frames)
            if not given.recalled:
                places = context.shape.rows * context.shape.columns
                hidden = hidden_peers(given, places, heads)
        taken = _take(self.query_norm(query), key, value, hidden)
        merged = rearrange(taken, "(b s n) k p -> b (k s) (n p)", b=tokens_BSD.shape[0], n=heads)
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

    def forward(self, tokens_BSD: torch.Tensor, context: Context) -> torch.Tensor:
        """Return what each token reads in its cell's text, BSD."""
        cells = context.shape.cells
        query = rearrange(
            self.query(tokens_BSD, context.route_KA),
            "b (k s) (n p) -> (b k) n s p",
            k=cells,
            n=self.heads,
        )
        key, value = self._read(context, tokens_BSD.dtype)
        attended = attend(
            self.query_norm(query),
            key,
            value,
            rearrange(context.valid_BKL, "b k l -> (b k) l"),
        )
        out: torch.Tensor = self.out(rearrange(attended, "(b k) n s p -> b (k s) (n p)", k=cells))
        return out

    def _read(self, context: Context, dtype: torch.dtype) -> Pair:
        """Return keys and values of the text, (B K) N L P; a memory has them from its first use."""
        kept = None if context.memory is None else context.memory.kept
        name = (self, context.text_name)
        if kept is not None and name in kept:
            return cast(Pair, kept[name])
        text = context.text_BKLE.to(dtype)
        key, value = (
            rearrange(project(text), "b k l (n p) -> (b k) n l p", n=self.heads)
            for project in (self.key, self.value)
        )
        read = self.key_norm(key), value
        if kept is not None:
            kept[name] = read
        return read


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


class NoiseReader(nn.Module):
    """What the moving noise around each token says: where drops are, where smoke is thick.

        each number -> soft thresholds -> mixed at its latent -> sum over the latents around

    A drop is there where a number is high, and drops add up: thresholds and sums are all it takes.

    Differs: docs/decisions/0009.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        _, p_y, p_x = config.patch
        moving = len(config.noise_motion)
        self.each = nn.Conv3d(moving, THRESHOLDS * moving, 1, groups=moving)
        heights, slopes = [], []
        for _, blur in config.noise_motion:
            ends, slope = (
                (FIELD_HEIGHTS, FIELD_STEEPNESS) if blur else (POINT_HEIGHTS, POINT_STEEPNESS)
            )
            heights.append(torch.linspace(*ends, THRESHOLDS))
            # Not torch.full: after diffusers has loaded a model, that one overlooks `torch.device`.
            slopes.append(torch.full_like(heights[-1], slope))
        steepness = torch.cat(slopes)
        with torch.no_grad():
            self.each.weight.copy_(steepness.reshape(-1, 1, 1, 1, 1))
            self.each.bias.copy_(-steepness * torch.cat(heights))  # type: ignore[union-attr]
        self.each_out = nn.Conv3d(THRESHOLDS * moving, 32, 1)
        # A streak reaches further up and down than sideways.
        reach_y, reach_x = 3, 1
        self.pad = (reach_x, reach_x, reach_y, reach_y, 0, 0)
        self.around = nn.Conv3d(
            32,
            NOISE_WIDTH,
            (1, p_y + 2 * reach_y, p_x + 2 * reach_x),
            stride=(1, p_y, p_x),
        )

    def forward(self, noise_BKMFYX: torch.Tensor) -> torch.Tensor:
        """Return NOISE_WIDTH channels for each token, BSD."""
        batch = noise_BKMFYX.shape[0]
        each = self.each_out(F.gelu(self.each(noise_BKMFYX.flatten(0, 1))))
        around = self.around(_mirrored(each, self.pad))
        out: torch.Tensor = rearrange(around, "(b k) d f y x -> b (k f y x) d", b=batch)
        return out


def _mirrored(video_BCFYX: torch.Tensor, pad: tuple[int, ...]) -> torch.Tensor:
    """Pad with a mirror image, or with the edge where the picture is too small for one."""
    small = min(video_BCFYX.shape[-2:]) <= max(pad)
    return F.pad(video_BCFYX, pad, "replicate" if small else "reflect")


class PeerHead(nn.Module):
    """What a cell's output takes straight from the input tokens at the same place of all cells.

        out = project( gate(hidden) * (sum over cells k of share_k * value(input_k) + luck) )

    A change of tone is a product of the given clip and a factor that depends on effect and place.
    The input comes here unspoilt by norms and by what the blocks need their width for, and so does
    what the noise says of drops (docs/decisions/0009).

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
        self.luck = nn.Linear(NOISE_WIDTH, width) if config.noise_motion else None
        self.query_norm = HeadNorm(narrow)
        self.key_norm = HeadNorm(narrow)
        for layer in (self.out, self.luck):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self, hidden_BSD: torch.Tensor, patches_BSD: torch.Tensor, context: Context
    ) -> torch.Tensor:
        """Return what to add to the output patches, BSD."""
        cells = context.shape.cells
        query = self.query_norm(_by_place(self.query(hidden_BSD), cells))
        key = self.key_norm(_by_place(self.key(hidden_BSD), cells))
        value = _by_place(self.value(patches_BSD), cells)
        # What given cells would take here is never read, so nothing is hidden from them.
        if context.given is not None:
            key, value = context.given.with_peers(self, (key, value), context.shape.frames)
        taken = _take(query, key, value)
        taken_BSD = rearrange(taken, "(b s) k d -> b (k s) d", b=hidden_BSD.shape[0])
        if self.luck is not None and context.luck_BSD is not None:
            taken_BSD = taken_BSD + self.luck(context.luck_BSD)
        out: torch.Tensor = self.out(taken_BSD * self.gate(hidden_BSD))
        return out


def _by_place(tokens_BSD: torch.Tensor, cells: int, heads: int = 1) -> torch.Tensor:
    """Bring the tokens at one place of all cells together, (B S N) K P."""
    return rearrange(tokens_BSD, "b (k s) (n p) -> (b s n) k p", k=cells, n=heads)


def _take(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    hidden: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend over the few tokens of one place; all (B S N) K P, queries and keys normed.

    `hidden` is true where a query (row) may not read a key (column), (B S N) K K.
    """
    # Plain products: there are many small ones here, and few keys to each.
    scores = (query * (PEER_SHARPNESS * query.shape[-1] ** -0.5)) @ key.transpose(1, 2)
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    taken: torch.Tensor = scores.float().softmax(-1).to(value.dtype) @ value
    return taken
