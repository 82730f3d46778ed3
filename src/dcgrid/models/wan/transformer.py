"""Our forward over diffusers' Wan transformer, for grids of cells. Read `predict_velocity`.

diffusers' own forward has one text for all tokens and one time a token or a video. Here each cell
has its text, the modulation is computed once for each distinct time (per token it takes 2 to 9 GB),
and rotary positions travel with the tokens. With one cell, one text and one time both are equal.

The modules are diffusers', so that its files and its LoRAs fit.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns, S tokens, D width, N heads,
P head width, L text tokens, E text width, U distinct flow times, A adapters.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from dcgrid.models.attention import attend
from dcgrid.models.base import CellText, Memory, TokenPlaces
from dcgrid.models.given import Call, Given, attend_given_first, carry_out
from dcgrid.models.modulation import gate, modulate
from dcgrid.models.wan.parallel import TokenSplit

Foreign: TypeAlias = Any
"""A module of diffusers, whose parts its types do not tell."""
_T = TypeVar("_T")

TIME_SCALE = 1000
"""Wan's timesteps at flow time 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every block reads beside the tokens."""

    cells: int
    places: int
    """Tokens of one frame of a cell."""
    rows_U6D: Tensor
    """What each distinct time says to all blocks, float32."""
    index_BKF: Tensor
    """Row of each cell and frame."""
    rotation: tuple[Tensor, Tensor]
    """Cosine and sine, each S (P/2)."""
    text_BKLD: Tensor
    """Text of each cell, projected."""
    valid_BKL: Tensor | None
    """True where a text token may be read; None: all may."""
    route_KA: Tensor | None
    given: Given | None
    memory: Memory | None
    text_name: str
    split: TokenSplit | None = None
    """Who holds which tokens; None: this process holds all."""


def predict_velocity(
    model: Foreign,
    cells_BKCFYX: Tensor,
    time_BKF: Tensor,
    text: CellText,
    places: TokenPlaces,
    route_KA: Tensor | None = None,
    memory: Memory | None = None,
    *,
    given_first: bool = False,
    blocks: Iterable[Foreign] | None = None,
    each: "Callable[[Foreign, Tensor, Context], Tensor] | None" = None,
    split: TokenSplit | None = None,
) -> Tensor:
    """Return the velocity of every cell, shape BKCFYX, in the dtype of the cells.

    Args:
        model: A `diffusers.WanTransformer3DModel`.
        cells_BKCFYX: Noisy latents; given cells clean.
        time_BKF: Flow time in [0, 1] of each cell and latent frame.
        text: Embeddings of the text encoder.
        places: Where each token stands.
        route_KA: Weights of routed adapters, per cell.
        memory: What earlier calls of this sampling found; None: nothing is kept.
        given_first: Given cells read given cells alone.
        blocks: The model's blocks, for a caller that brings each to the device when it is asked
            for; None: they are there.
        each: Carries tokens through one block, for a caller that has more to do around it; None:
            `run_block`.
        split: Processes that compute this call together, all of them with the same arguments;
            None: this one alone.

    Raises:
        ValueError: The memory is of a sampling with other given cells, or the grid is larger than
            the model's table of positions.
    """
    call = Call(
        cells_BKCFYX=cells_BKCFYX,
        time_BKF=time_BKF,
        text=text,
        places=places,
        route_KA=route_KA,
        memory=memory,
    )
    patch_frames = int(model.config.patch_size[0])
    chain: Iterable[Foreign] = model.blocks if blocks is None else blocks
    return carry_out(
        call,
        partial(_predict, model, chain, each or run_block, split),
        patch_frames,
        given_first=given_first,
    )


def _predict(
    model: Foreign,
    blocks: Iterable[Foreign],
    each: Callable[[Foreign, Tensor, Context], Tensor],
    split: TokenSplit | None,
    call: Call,
) -> Tensor:
    cells_BKCFYX = call.cells_BKCFYX
    batch, cells, _, *size = cells_BKCFYX.shape
    patches = model.patch_embedding(
        cells_BKCFYX.flatten(0, 1).to(model.patch_embedding.weight.dtype)
    )
    tokens_BSD = rearrange(patches, "(b k) d f y x -> b (k f y x) d", b=batch)
    context, embedded_UD = _context(model, call, patches.shape[-2] * patches.shape[-1])
    frames = context.index_BKF[0].numel()
    if split is not None:
        tokens_BSD = split.part(tokens_BSD, frames, 1)
        cosine, sine = (split.part(one, frames, 0) for one in context.rotation)
        context = replace(context, rotation=(cosine, sine), split=split)
    for block in blocks:
        tokens_BSD = each(block, tokens_BSD, context)
    table_12D = model.scale_shift_table.float()
    shift_UD, scale_UD = (table_12D + embedded_UD.float()[:, None]).unbind(1)
    normed = modulate(model.norm_out(tokens_BSD.float()), shift_UD, scale_UD, context.index_BKF)
    out_BSD = model.proj_out(normed.type_as(tokens_BSD))
    if split is not None:
        out_BSD = split.gathered(out_BSD, frames, context.places)
    p_f, p_y, p_x = model.config.patch_size
    velocity_BKCFYX: Tensor = rearrange(
        out_BSD,
        "b (k f y x) (r p q c) -> b k c (f r) (y p) (x q)",
        k=cells,
        f=size[0] // p_f,
        y=size[1] // p_y,
        x=size[2] // p_x,
        r=p_f,
        p=p_y,
        q=p_x,
    )
    return velocity_BKCFYX.to(cells_BKCFYX.dtype)


def _context(model: Foreign, call: Call, places: int) -> tuple[Context, Tensor]:
    """Return what all blocks read, and the embedded distinct times UD."""
    embedder, config = model.condition_embedder, model.config
    times_U, index_BKF = torch.unique(
        call.time_BKF[:, :, :: config.patch_size[0]], return_inverse=True
    )
    sinusoids = embedder.timesteps_proj(times_U.float() * TIME_SCALE)
    embedded_UD = embedder.time_embedder(sinusoids.to(_dtype(embedder.time_embedder)))
    # Through the dtype of the network, as diffusers has it, or numbers differ in bfloat16.
    embedded_UD = embedded_UD.to(_dtype(embedder.text_embedder))
    rows_UD = embedder.time_proj(embedder.act_fn(embedded_UD))
    text_BKLD = _kept(
        call.memory, "text", call.text_name, lambda: _projected_text(embedder, call.text)
    )
    context = Context(
        cells=call.cells_BKCFYX.shape[1],
        places=places,
        rows_U6D=rows_UD.unflatten(1, (6, -1)).float(),
        index_BKF=index_BKF,
        rotation=rotary_tables(model.rope, call.places.coordinates_S3),
        text_BKLD=text_BKLD,
        valid_BKL=None if call.text.valid_BKL.all() else call.text.valid_BKL,
        route_KA=call.route_KA,
        given=call.given,
        memory=call.memory,
        text_name=call.text_name,
    )
    return context, embedded_UD


def rotary_tables(rope: Foreign, coordinates_S3: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of each token, S (P/2), from the model's own tables.

    Raises:
        ValueError: A coordinate is beyond the tables.
    """
    sides = (rope.t_dim, rope.h_dim, rope.w_dim)
    length = len(cast(Tensor, rope.freqs_cos))
    if int(coordinates_S3.max()) >= length:
        raise ValueError(f"a token stands at {int(coordinates_S3.max())}; the model knows {length}")
    tables = []
    for name in ("freqs_cos", "freqs_sin"):
        # Each angle stands there twice, once for each channel of its pair.
        parts = cast(Tensor, getattr(rope, name))[:, ::2].split([int(n) // 2 for n in sides], dim=1)
        chosen = [part[coordinates_S3[:, axis]] for axis, part in enumerate(parts)]
        tables.append(torch.cat(chosen, dim=1))
    return tables[0], tables[1]


def run_block(block: Foreign, tokens_BSD: Tensor, context: Context) -> Tensor:
    """Return the tokens after one block; sums in float32, as diffusers has them."""
    rows = (block.scale_shift_table.float() + context.rows_U6D).unbind(1)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = rows
    index = context.index_BKF
    normed = modulate(block.norm1(tokens_BSD.float()), shift_1, scale_1, index)
    attended = _grid_attention(block.attn1, normed.type_as(tokens_BSD), context)
    tokens_BSD = (tokens_BSD.float() + gate(gate_1, attended.float(), index)).type_as(tokens_BSD)
    normed = block.norm2(tokens_BSD.float()).type_as(tokens_BSD)
    tokens_BSD = tokens_BSD + _text_attention(block.attn2, normed, context)
    normed = modulate(block.norm3(tokens_BSD.float()), shift_2, scale_2, index)
    fed = block.ffn(normed.type_as(tokens_BSD))
    return (tokens_BSD.float() + gate(gate_2, fed.float(), index)).type_as(tokens_BSD)


def _grid_attention(attention: Foreign, tokens_BSD: Tensor, context: Context) -> Tensor:
    """Attend to all tokens of the grid, or the given ones to the given ones alone."""
    heads = attention.heads
    query = attention.norm_q(project(attention.to_q, tokens_BSD, context.route_KA))
    key = attention.norm_k(attention.to_k(tokens_BSD))
    query, key, value = (
        rearrange(t, "b s (n p) -> b n s p", n=heads)
        for t in (query, key, attention.to_v(tokens_BSD))
    )
    query, key = rotate(query, context.rotation), rotate(key, context.rotation)
    frames, split = context.index_BKF[0].numel(), context.split
    if split is not None:
        together = split.by_heads(torch.cat([query, key, value]), frames, context.places)
        query, key, value = together.chunk(3)
    given = context.given
    if given is not None:
        key, value = given.with_tokens(attention, (key, value), context.places)
    if given is None or given.recalled:
        attended = attend(query, key, value)
    else:
        known_BS = given.known_tokens(context.places)
        attended = attend_given_first(query, key, value, known_BS)
    if split is not None:
        attended = split.by_tokens(attended, frames)
    return _out(attention, rearrange(attended, "b n s p -> b s (n p)"))


def _text_attention(attention: Foreign, tokens_BSD: Tensor, context: Context) -> Tensor:
    """Attend, each cell to its own text; keys and values are kept where there is a memory."""
    query = rearrange(
        attention.norm_q(project(attention.to_q, tokens_BSD, context.route_KA)),
        "b (k s) (n p) -> (b k) n s p",
        k=context.cells,
        n=attention.heads,
    )

    def read() -> tuple[Tensor, Tensor]:
        text = context.text_BKLD.type_as(tokens_BSD)
        pair = attention.norm_k(attention.to_k(text)), attention.to_v(text)
        key, value = (rearrange(t, "b k l (n p) -> (b k) n l p", n=attention.heads) for t in pair)
        return key, value

    key, value = _kept(context.memory, attention, context.text_name, read)
    valid = None if context.valid_BKL is None else context.valid_BKL.flatten(0, 1)
    attended = attend(query, key, value, valid)
    return _out(attention, rearrange(attended, "(b k) n s p -> b (k s) (n p)", k=context.cells))


def rotate(heads_BNSP: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn neighbouring pairs of channels by their token's angles."""
    cosine, sine = rotation
    first, second = heads_BNSP.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.flatten(-2).type_as(heads_BNSP)


def project(layer: nn.Module, tokens_BSD: Tensor, route_KA: Tensor | None) -> Tensor:
    """Project tokens; a layer that adapters are attached to also takes the route."""
    if route_KA is None or isinstance(layer, nn.Linear):
        return cast(Tensor, layer(tokens_BSD))
    return cast(Tensor, layer(tokens_BSD, route_KA))


def _out(attention: Foreign, tokens_BSD: Tensor) -> Tensor:
    linear, _ = attention.to_out  # the second is dropout, which Wan never uses
    return cast(Tensor, linear(tokens_BSD))


def _projected_text(embedder: Foreign, text: CellText) -> Tensor:
    text_BKLE = text.tokens_BKLE.to(_dtype(embedder.text_embedder))
    return cast(Tensor, embedder.text_embedder(text_BKLE))


def _kept(memory: Memory | None, owner: Hashable, name: str, compute: Callable[[], _T]) -> _T:
    """Return what a memory has under an owner and a text, or compute and keep it."""
    if memory is None:
        return compute()
    key = (owner, name)
    if key not in memory.kept:
        memory.kept[key] = compute()
    return cast(_T, memory.kept[key])


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
