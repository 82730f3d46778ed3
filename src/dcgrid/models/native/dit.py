"""The diffusion transformer over the tokens of a grid.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns, S tokens, D width, N heads,
P head width, L text tokens, E text width, U distinct flow times, A adapters.

Tokens are cell-major, b (k f y x) d: self-attention sees the whole grid, text attention one cell
and its own text, modulation one (cell, frame) at a time. Read `DiT.forward` first.

Paper: sec. 8, Table 5.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dcgrid.models.base import CellText, Memory, TokenPlaces
from dcgrid.models.given import Call, run_job
from dcgrid.models.modulation import gate, modulate
from dcgrid.models.native.attention import axis_frequencies, rotary_tables
from dcgrid.models.native.config import DiTConfig
from dcgrid.models.native.layers import (
    NOISE_WIDTH,
    CellAttention,
    Context,
    GridAttention,
    GridShape,
    NoiseReader,
    PeerHead,
    TextAttention,
    TextPool,
)
from dcgrid.models.native.signals import (
    PLACE_CHANNELS,
    TIME_CHANNELS,
    embed_time,
    linear_guess,
    noise_guess,
    place_features,
    velocity_of_mixture,
)
from dcgrid.models.trunk import GridTransformer

Again = Callable[..., torch.Tensor]
"""Calls a function with arguments, and once more in the backward pass in place of keeping all."""


class Block(nn.Module):
    """Self-attention, text attention and MLP, modulated by flow time (AdaLN-zero).

    `again`, if set, computes the block a second time in the backward pass (train/scale.py).
    """

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
        self.again: Again | None = None

    def forward(self, tokens_BSD: torch.Tensor, context: Context) -> torch.Tensor:
        """Return tokens of the same shape."""
        if self.again is None or not torch.is_grad_enabled():
            return self._compute(tokens_BSD, context)
        return self.again(self._compute, tokens_BSD, context)

    def _compute(self, tokens_BSD: torch.Tensor, context: Context) -> torch.Tensor:
        index_BKF = context.condition_index_BKF
        modulation = self.modulation(F.silu(context.condition_UD))
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.chunk(6, dim=-1)
        normed = modulate(_plain_norm(tokens_BSD), shift_1, scale_1, index_BKF)
        attended = self.grid_attention(normed, context)
        if self.cell_attention is not None:
            attended = attended + self.cell_attention(normed, context)
        tokens_BSD = tokens_BSD + gate(gate_1, attended, index_BKF)
        tokens_BSD = tokens_BSD + self.text_attention(self.text_norm(tokens_BSD), context)
        normed = modulate(_plain_norm(tokens_BSD), shift_2, scale_2, index_BKF)
        return tokens_BSD + gate(gate_2, self._mlp(normed), index_BKF)

    def _mlp(self, tokens_BSD: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mlp_out(F.gelu(self.mlp_in(tokens_BSD)))
        return out


class PlaceField(nn.Module):
    """What a cell's text says of each place: how far a glow reaches, where fog is thick.

        places -> first layer, shifted and scaled by flow time and text -> MLP -> one vector a token

    A lamp's glow is a function of place and text alone. Blocks that must find it between all else
    find it slowly.

    Differs: docs/decisions/0007.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        narrow = config.width // 2
        self.place_in = nn.Linear(PLACE_CHANNELS, narrow)
        self.condition_in = nn.Linear(config.time_width or config.width, 2 * narrow)
        self.middle = nn.Linear(narrow, narrow)
        self.out = nn.Linear(narrow, config.width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features_BSP: torch.Tensor, context: Context) -> torch.Tensor:
        """Return a vector for each token, BSD."""
        shift_UD, scale_UD = self.condition_in(F.silu(context.condition_UD)).chunk(2, dim=-1)
        placed = modulate(
            self.place_in(features_BSP), shift_UD, scale_UD, context.condition_index_BKF
        )
        out: torch.Tensor = self.out(F.gelu(self.middle(F.gelu(placed))))
        return out


def _plain_norm(tokens_BSD: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(tokens_BSD, tokens_BSD.shape[-1:])


def _with_text(
    time_UD: torch.Tensor, index_BKF: torch.Tensor, text_BKD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a row for every (cell, distinct time), and where each cell and frame finds its own."""
    batch, cells, _ = text_BKD.shape
    rows = time_UD + rearrange(text_BKD, "b k d -> (b k) 1 d").to(time_UD.dtype)
    first_BK = torch.arange(batch * cells, device=index_BKF.device).reshape(batch, cells, 1)
    return rows.flatten(0, 1), index_BKF + first_BK * len(time_UD)


class DiT(GridTransformer):
    """Predicts the velocity of every cell of a grid.

    `latent_spread` (one number a channel, with the weights) is that of the latents it is trained
    on; only the prediction "mixture" needs it.

    Paper: sec. 8, Table 5.
    """

    config: DiTConfig
    latent_spread: torch.Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.given_first = config.given_first
        width = config.width
        inputs = config.latent_channels * (2 if config.self_conditioning else 1)
        volume = math.prod(config.patch)
        self.patch_in = nn.Linear(inputs * volume, width)
        self.noise_reader = NoiseReader(config) if config.noise_motion else None
        self.noise_in = nn.Linear(NOISE_WIDTH, width) if config.noise_motion else None
        self.place_in = nn.Linear(PLACE_CHANNELS, width) if config.place_embedding else None
        self.place_field = PlaceField(config) if config.place_embedding else None
        time_width = config.time_width or width
        self.time_in = nn.Linear(TIME_CHANNELS, time_width)
        self.time_out = nn.Linear(time_width, time_width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.modulation = nn.Linear(time_width, 2 * width)
        self.patch_out = nn.Linear(width, config.latent_channels * volume)
        self.text_pool = TextPool(config) if config.text_modulation else None
        self.peer_head = PeerHead(config) if config.peer_head else None
        if config.noise_motion and config.prediction != "mixture":
            raise ValueError("noise that moves needs the spread of latents: prediction mixture")
        if config.prediction == "mixture":
            self.register_buffer("latent_spread", torch.ones(config.latent_channels))
        quiet = [self.modulation, self.patch_out]
        if self.noise_in is not None:
            quiet.append(self.noise_in)
        for layer in quiet:
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
        memory: Memory | None = None,
    ) -> torch.Tensor:
        """Return the velocity of every cell.

        Args:
            cells_BKCFYX: Noisy latents; given cells clean.
            time_BKF: Flow time in [0, 1] of each cell and latent frame.
            text: What each cell reads.
            places: Where each token stands.
            route_KA: Weights of the routed adapters, per cell.
            estimate_BKCFYX: Earlier estimate of the clean latents (self-conditioning); None: zeros.
            memory: What earlier calls of this sampling found, see `given`; None: nothing is kept.

        Returns:
            Velocity, shape BKCFYX. Where the time is 0 it means nothing; samplers do not read it.

        Raises:
            ValueError: The memory is of a sampling with other given cells.
        """
        if self.config.self_conditioning and estimate_BKCFYX is None:
            estimate_BKCFYX = torch.zeros_like(cells_BKCFYX)
        call = Call(
            cells_BKCFYX=cells_BKCFYX,
            time_BKF=time_BKF,
            text=text,
            places=places,
            route_KA=route_KA,
            memory=memory,
            estimate_BKCFYX=estimate_BKCFYX,
        )
        return run_job(call, self._predict, self.config.patch[0], given_first=self.given_first)

    def _predict(self, call: Call) -> torch.Tensor:
        """Return the velocity of the cells of a call."""
        cells_BKCFYX, time_BKF = call.cells_BKCFYX, call.time_BKF
        inputs = cells_BKCFYX
        if self.config.prediction == "mixture":
            inputs = linear_guess(cells_BKCFYX, time_BKF, self.latent_spread)
        patches_BSD = read_BSD = self._to_tokens(inputs)
        if call.estimate_BKCFYX is not None:
            read_BSD = torch.cat([patches_BSD, self._to_tokens(call.estimate_BKCFYX)], dim=2)
        tokens_BSD = self.patch_in(read_BSD)
        context = self._context(call)
        if self.noise_in is not None:
            tokens_BSD = tokens_BSD + self.noise_in(context.luck_BSD)
        field_BSD = None
        if self.place_in is not None and self.place_field is not None:
            features_BSP = self._place_features(call, context.shape)
            field_BSD = self.place_field(features_BSP, context).to(tokens_BSD.dtype)
            placed_BSD = self.place_in(features_BSP).to(tokens_BSD.dtype)
            tokens_BSD = tokens_BSD + placed_BSD + field_BSD
        for block in self.blocks:
            tokens_BSD = block(tokens_BSD, context)
        if field_BSD is not None:
            tokens_BSD = tokens_BSD + field_BSD
        shift_UD, scale_UD = self.modulation(F.silu(context.condition_UD)).chunk(2, dim=-1)
        tokens_BSD = modulate(
            _plain_norm(tokens_BSD), shift_UD, scale_UD, context.condition_index_BKF
        )
        out_BSD = self.patch_out(tokens_BSD)
        if self.peer_head is not None:
            out_BSD = out_BSD + self.peer_head(tokens_BSD, patches_BSD, context)
        predicted = self._to_cells(out_BSD, context.shape)
        if self.config.prediction == "velocity":
            return predicted.to(cells_BKCFYX.dtype)
        mixture = predicted.to(cells_BKCFYX.dtype)
        return velocity_of_mixture(cells_BKCFYX, mixture, time_BKF, self.latent_spread)

    def _place_features(self, call: Call, shape: GridShape) -> torch.Tensor:
        """Return where in its cell each token stands, shape B S PLACE_CHANNELS."""
        frames, device = call.first + shape.frames, call.cells_BKCFYX.device
        size = (frames, shape.rows, shape.columns)
        features = place_features(size, device, call.places.margin)
        features = features[call.first * shape.rows * shape.columns :]
        dtype = self.patch_in.weight.dtype
        return features.to(dtype).repeat(len(call.cells_BKCFYX), shape.cells, 1)

    def _context(self, call: Call) -> Context:
        _, cells, _, frames, rows, columns = call.cells_BKCFYX.shape
        patch, text = self.config.patch, call.text
        times_U, index_BKF = torch.unique(call.time_BKF[:, :, :: patch[0]], return_inverse=True)
        cosine_SP, sine_SP = rotary_tables(call.places.coordinates_S3, self.frequencies)
        embedded = embed_time(times_U).to(self.time_in.weight.dtype)
        condition_UD = self.time_out(F.silu(self.time_in(embedded)))
        if self.text_pool is not None:
            pooled_BKD = self.text_pool(text.tokens_BKLE, text.valid_BKL)
            condition_UD, index_BKF = _with_text(condition_UD, index_BKF, pooled_BKD)
        return Context(
            shape=GridShape(
                cells=cells,
                frames=frames // patch[0],
                rows=rows // patch[1],
                columns=columns // patch[2],
            ),
            condition_UD=condition_UD,
            condition_index_BKF=index_BKF,
            cosine_SP=cosine_SP,
            sine_SP=sine_SP,
            position_S=call.places.position_S,
            key_position_S=call.key_position_S,
            text_BKLE=text.tokens_BKLE,
            valid_BKL=text.valid_BKL,
            route_KA=call.route_KA,
            luck_BSD=self._luck(call.cells_BKCFYX, call.time_BKF),
            given=call.given,
            memory=call.memory,
            text_name=call.text_name,
        )

    def _luck(self, cells_BKCFYX: torch.Tensor, time_BKF: torch.Tensor) -> torch.Tensor | None:
        """Return what the moving noise in the cells says, where the model looks at it."""
        if self.noise_reader is None:
            return None
        moving = len(self.config.noise_motion)
        last_BKMFYX = cells_BKCFYX[:, :, -moving:]
        guess = noise_guess(last_BKMFYX, time_BKF, self.latent_spread[-moving:])
        luck_BSD: torch.Tensor = self.noise_reader(guess)
        return luck_BSD

    def _to_tokens(self, cells_BKCFYX: torch.Tensor) -> torch.Tensor:
        p_f, p_y, p_x = self.config.patch
        return rearrange(
            cells_BKCFYX,
            "b k c (f r) (y p) (x q) -> b (k f y x) (c r p q)",
            r=p_f,
            p=p_y,
            q=p_x,
        )

    def _to_cells(self, patches_BSD: torch.Tensor, shape: GridShape) -> torch.Tensor:
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
