"""One block of Wan's transformer over the tokens of a grid. Read `run_block`.

The modules are diffusers'. Letters: see context.py; N heads.
"""

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dcgrid.models.given import Live, attend_given_first
from dcgrid.models.modulation import gate, modulate
from dcgrid.models.wan.context import Context, Foreign, kept
from dcgrid.models.wan.fused import project_together


def run_block(block: Foreign, tokens_BSD: Tensor, context: Context) -> Tensor:
    """Return the tokens after one block; sums in float32, as diffusers has them."""
    return _run(block, tokens_BSD, context, None)


def run_last_block(block: Foreign, tokens_BSD: Tensor, context: Context, live: Live) -> Tensor:
    """Return the live tokens after a block; of the others it computes what the live ones read.

    Args:
        block: The last one: after it nobody reads the others.
        tokens_BSD: All tokens.
        context: Of all tokens.
        live: The generated part.
    """
    return _run(block, tokens_BSD, context, live)


def _run(block: Foreign, tokens_BSD: Tensor, context: Context, live: Live | None) -> Tensor:
    rows = (block.scale_shift_table.float() + context.rows_U6D).unbind(1)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = rows
    normed = shifted_norm(block.norm1, tokens_BSD, (shift_1, scale_1), context.index_BKF)
    attended = _grid_attention(block.attn1, normed, context, live)
    if live is not None:
        tokens_BSD, context = context.live(tokens_BSD, live), context.of_live(live)
    tokens_BSD = _add_gated(tokens_BSD, attended, gate_1, context.index_BKF)
    normed = block.norm2(tokens_BSD.float()).type_as(tokens_BSD)
    tokens_BSD = tokens_BSD + _text_attention(block.attn2, normed, context)
    normed = shifted_norm(block.norm3, tokens_BSD, (shift_2, scale_2), context.index_BKF)
    return _add_gated(tokens_BSD, _feed(block.ffn, normed), gate_2, context.index_BKF)


def shifted_norm(
    norm: Foreign, tokens_BSD: Tensor, rows: tuple[Tensor, Tensor], index_BKF: Tensor
) -> Tensor:
    """Return norm(tokens) * (1 + scale) + shift in float32, then in the dtype of the tokens.

    Args:
        norm: A layer norm of diffusers without numbers of its own.
        tokens_BSD: Tokens.
        rows: Shift and scale, UD each.
        index_BKF: Row of each cell and frame.
    """
    shift_UD, scale_UD = rows
    if len(shift_UD) > 1:
        return modulate(norm(tokens_BSD.float()), shift_UD, scale_UD, index_BKF).type_as(tokens_BSD)
    # One time for all: the norm's kernel scales and shifts as well.
    normed = functional.layer_norm(
        tokens_BSD.float(), norm.normalized_shape, 1 + scale_UD[0], shift_UD[0], norm.eps
    )
    return normed.type_as(tokens_BSD)


def _add_gated(tokens_BSD: Tensor, added_BSD: Tensor, gate_UD: Tensor, index_BKF: Tensor) -> Tensor:
    if len(gate_UD) > 1:
        summed = tokens_BSD.float() + gate(gate_UD, added_BSD.float(), index_BKF)
    else:
        summed = torch.addcmul(tokens_BSD.float(), added_BSD.float(), gate_UD[0])
    return summed.type_as(tokens_BSD)


def _grid_attention(
    attention: Foreign, tokens_BSD: Tensor, context: Context, live: Live | None
) -> Tensor:
    """Attend to all tokens of the grid, or the given ones to the given ones alone.

    With a live part, from its tokens only.
    """
    query, key, value = _projected(attention, tokens_BSD, context, live)
    rotation = context.rotation
    own = rotation if live is None else context.of_live(live).rotation
    query, key = (
        rotate(attention.norm_q(query), own, attention.heads),
        rotate(attention.norm_k(key), rotation, attention.heads),
    )
    value = rearrange(value, "b s (n p) -> b n s p", n=attention.heads)
    attended = _attend_grid(attention, (query, key, value), context, live is not None)
    return _out(attention, rearrange(attended, "b n s p -> b s (n p)"))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_grid(
    attention: Foreign, heads: tuple[Tensor, Tensor, Tensor], context: Context, live: bool
) -> Tensor:
    """Attend from queries (with `live`: those of live tokens) to keys and values BNSP."""
    query, key, value = heads
    given, attend, split = context.given, context.options.attend, context.options.split
    frames = context.index_BKF[0].numel()
    if split is not None:
        together = split.by_heads(torch.cat([query, key, value]), frames, context.places)
        query, key, value = together.chunk(3)
    if given is not None:
        key, value = given.with_tokens(attention, (key, value), context.places)
    if given is None or given.recalled or live:
        attended = attend(query, key, value)
    else:
        known_BS = given.known_tokens(context.places)
        attended = attend_given_first(query, key, value, known_BS, attend)
    return attended if split is None else split.by_tokens(attended, frames)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_text(heads: tuple[Tensor, Tensor, Tensor], context: Context) -> Tensor:
    valid = None if context.valid_BKL is None else context.valid_BKL.flatten(0, 1)
    return context.options.attend(*heads, valid)


def _projected(
    attention: Foreign, tokens_BSD: Tensor, context: Context, live: Live | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of self-attention, BSD; with a live part, its queries only."""
    to_q, to_k, to_v = attention.to_q, attention.to_k, attention.to_v
    if context.options.fused and live is None:
        together = project_together((to_q, to_k, to_v), tokens_BSD)
        if together is not None:
            query, key, value = together
            return query, key, value
    asking, route_KA = tokens_BSD, context.route_KA
    if live is not None:
        asking, route_KA = context.live(tokens_BSD, live), context.of_live(live).route_KA
    key, value = _key_value(attention, tokens_BSD, context)
    return project(to_q, asking, route_KA), key, value


def _key_value(attention: Foreign, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Return key and value of tokens, or of text."""
    to_k, to_v = attention.to_k, attention.to_v
    together = project_together((to_k, to_v), tokens) if context.options.fused else None
    if together is None:
        return to_k(tokens), to_v(tokens)
    key, value = together
    return key, value


def _text_attention(attention: Foreign, tokens_BSD: Tensor, context: Context) -> Tensor:
    """Attend, each cell to its own text; keys and values are kept where there is a memory."""
    query = rearrange(
        attention.norm_q(project(attention.to_q, tokens_BSD, context.route_KA)),
        "b (k s) (n p) -> (b k) n s p",
        k=context.cells,
        n=attention.heads,
    )

    def read() -> tuple[Tensor, Tensor]:
        key, value = _key_value(attention, context.text_BKLD.type_as(tokens_BSD), context)
        pair = attention.norm_k(key), value
        # Laid out as attention reads them, once and for all calls.
        key, value = (
            rearrange(t, "b k l (n p) -> (b k) n l p", n=attention.heads).contiguous() for t in pair
        )
        return key, value

    key, value = kept(context.memory, attention, context.text_name, read)
    attended = _attend_text((query, key, value), context)
    return _out(attention, rearrange(attended, "(b k) n s p -> b (k s) (n p)", k=context.cells))


def rotate(tokens_BSD: Tensor, rotation: Tensor, heads: int) -> Tensor:
    """Split tokens into heads BNSP and turn neighbouring pairs of channels by their angles.

    As complex numbers that is one product; compilers, which do not know these, get it in reals.
    """
    pairs = rearrange(tokens_BSD, "b s (n p two) -> b s n p two", n=heads, two=2)
    pairs, turn = pairs.to(rotation.dtype), rotation[:, None]
    if torch.compiler.is_compiling():
        (first, second), (cosine, sine) = pairs.unbind(-1), turn.unbind(-1)
        turned = torch.stack(
            [first * cosine - second * sine, first * sine + second * cosine], dim=-1
        )
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turn))
    return rearrange(turned, "b s n p two -> b n s (p two)").type_as(tokens_BSD)


def project(layer: nn.Module, tokens_BSD: Tensor, route_KA: Tensor | None) -> Tensor:
    """Project tokens; a layer that adapters are attached to also takes the route."""
    if route_KA is None or isinstance(layer, nn.Linear):
        return cast(Tensor, layer(tokens_BSD))
    return cast(Tensor, layer(tokens_BSD, route_KA))


def _feed(ffn: Foreign, tokens_BSD: Tensor) -> Tensor:
    """Return what the feed-forward network makes of tokens.

    On a CPU torch's tanh-GELU takes as long as a matrix product; oneDNN's, which comes with the
    product, a fifth of that. It is asked for the way that torch's own compiler does.
    """
    widen, narrow = ffn.net[0].proj, ffn.net[2]
    usual = tokens_BSD.dtype in (torch.bfloat16, torch.float32)
    usual = usual and not torch.is_autocast_enabled("cpu")
    inference = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
    fits = usual and inference and tokens_BSD.device.type == "cpu"
    if not fits or type(widen) is not nn.Linear or not _has_onednn(tokens_BSD.dtype):
        return cast(Tensor, ffn(tokens_BSD))
    if widen.weight.dtype != tokens_BSD.dtype:
        return cast(Tensor, ffn(tokens_BSD))
    wide = torch.ops.mkldnn._linear_pointwise(
        tokens_BSD, widen.weight, widen.bias, "gelu", [], "tanh"
    )
    return cast(Tensor, narrow(wide))


def _has_onednn(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    library = torch.ops.mkldnn
    if not hasattr(library, "_linear_pointwise"):
        return False
    # Without AVX-512 it has no product of bfloat16 and raises instead of computing another way.
    return dtype != torch.bfloat16 or bool(library._is_mkldnn_bf16_supported())


def _out(attention: Foreign, tokens_BSD: Tensor) -> Tensor:
    linear, _ = attention.to_out  # the second is dropout, which Wan never uses
    return cast(Tensor, linear(tokens_BSD))
