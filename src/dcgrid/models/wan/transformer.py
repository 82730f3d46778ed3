"""Our forward over diffusers' Wan transformer, for grids of cells. Read `predict_velocity`.

diffusers' own forward has one text for all tokens and one time a token or a video. Here each cell
has its text, the modulation is computed once for each distinct time (per token it takes 2 to 9 GB),
and rotary positions travel with the tokens. With one cell, one text and one time both are equal.

The modules are diffusers', so that its files and its LoRAs fit.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns, S tokens, D width, N heads,
P head width, L text tokens, E text width, U distinct flow times, A adapters.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from dcgrid.models.base import CellText, Memory, TokenPlaces
from dcgrid.models.given import Call, generated_part, run_job
from dcgrid.models.wan.blocks import run_block as run_block
from dcgrid.models.wan.blocks import shifted_norm
from dcgrid.models.wan.context import Context as Context
from dcgrid.models.wan.context import Foreign, Options, kept, rotary_table
from dcgrid.models.wan.shortcut import run_blocks

TIME_SCALE = 1000
"""Wan's timesteps at flow time 1."""
_USUAL = Options()


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
    each: Callable[[Foreign, Tensor, Context], Tensor] | None = None,
    options: Options = _USUAL,
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
        options: How it is computed.

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
    way = _Way(blocks=model.blocks if blocks is None else blocks, each=each or run_block)
    return run_job(
        call, partial(_predict, model, way, options), patch_frames, given_first=given_first
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How tokens get through the blocks."""

    blocks: Iterable[Foreign]
    each: Callable[[Foreign, Tensor, Context], Tensor]


def _predict(model: Foreign, way: _Way, options: Options, call: Call) -> Tensor:
    cells_BKCFYX, patch_frames = call.cells_BKCFYX, int(model.config.patch_size[0])
    patches = model.patch_embedding(
        cells_BKCFYX.flatten(0, 1).to(model.patch_embedding.weight.dtype)
    )
    tokens_BSD = rearrange(patches, "(b k) d f y x -> b (k f y x) d", b=len(cells_BKCFYX))
    context, embedded_UD = _context(model, call, patches.shape[-2] * patches.shape[-1], options)
    live, split, frames = None, options.split, context.index_BKF[0].numel()
    if split is not None:
        tokens_BSD = split.part(tokens_BSD, frames, 1)
        context = replace(context, rotation=split.part(context.rotation, frames, 0))
    elif options.skip_given and not (call.given is not None and call.given.recalled):
        live = generated_part(call.time_BKF, patch_frames, call.memory)
    last = len(model.blocks) - 1, live
    tokens_BSD = run_blocks(way.blocks, way.each, tokens_BSD, context, last)
    if split is not None:
        tokens_BSD = split.gathered(tokens_BSD, frames, context.places)
    index_BKF = context.index_BKF
    if live is None:
        return _velocity(model, tokens_BSD, embedded_UD, index_BKF, cells_BKCFYX)
    cells, first = list(live.cells), live.first * patch_frames
    whole_BKCFYX = torch.zeros_like(cells_BKCFYX)
    shown_BKCFYX = cells_BKCFYX[:, cells, :, first:]
    index_BKF = index_BKF[:, cells, live.first :]
    whole_BKCFYX[:, cells, :, first:] = _velocity(
        model, tokens_BSD, embedded_UD, index_BKF, shown_BKCFYX
    )
    return whole_BKCFYX


def _velocity(
    model: Foreign, tokens_BSD: Tensor, embedded_UD: Tensor, index_BKF: Tensor, like_BKCFYX: Tensor
) -> Tensor:
    """Return the velocity that tokens tell, of the shape and dtype of their latents."""
    table_12D = model.scale_shift_table.float()
    shift_UD, scale_UD = (table_12D + embedded_UD.float()[:, None]).unbind(1)
    out_BSD = model.proj_out(
        shifted_norm(model.norm_out, tokens_BSD, (shift_UD, scale_UD), index_BKF)
    )
    _, cells, _, *size = like_BKCFYX.shape
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
    return velocity_BKCFYX.to(like_BKCFYX.dtype)


def _context(model: Foreign, call: Call, places: int, options: Options) -> tuple[Context, Tensor]:
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
    # Looking at numbers makes the host wait for the device, so it is done once a sampling.
    part = "live" if call.given is not None and call.given.recalled else "whole"
    context = Context(
        cells=call.cells_BKCFYX.shape[1],
        places=places,
        rows_U6D=rows_UD.unflatten(1, (6, -1)).float(),
        index_BKF=index_BKF,
        rotation=kept(
            call.memory,
            "rotation",
            part,
            lambda: rotary_table(model.rope, call.places.coordinates_S3),
        ),
        text_BKLD=kept(
            call.memory, "text", call.text_name, lambda: _projected_text(embedder, call.text)
        ),
        valid_BKL=kept(call.memory, "valid", call.text_name, lambda: _padding(call.text)),
        route_KA=call.route_KA,
        given=call.given,
        memory=call.memory,
        text_name=call.text_name,
        options=options,
    )
    return context, embedded_UD


def _padding(text: CellText) -> Tensor | None:
    return None if bool(text.valid_BKL.all()) else text.valid_BKL


def _projected_text(embedder: Foreign, text: CellText) -> Tensor:
    text_BKLE = text.tokens_BKLE.to(_dtype(embedder.text_embedder))
    projected: Tensor = embedder.text_embedder(text_BKLE)
    return projected


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
