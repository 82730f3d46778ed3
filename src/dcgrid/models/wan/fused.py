"""Several projections of the same tokens as one matrix product, without a second copy of weights.

`lay_side_by_side` moves the weights of a block's projections into one tensor, of which each layer
keeps its part as a view: whoever changes, saves or moves a layer's weight notices nothing. Whether
layers still lie so is seen from their addresses each time, so a layer that was replaced (adapters,
rounded weights) or moved (offload) is simply computed by itself.

For inference. Letters: B batch, S tokens, D width, O outputs.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

Foreign: TypeAlias = Any
"""A module of diffusers, whose parts its types do not tell."""


@torch.no_grad()
def lay_side_by_side(blocks: Iterable[Foreign]) -> None:
    """Let q, k, v of self-attention and k, v of text attention have their weights in one tensor.

    Layers that are anything but plain linear layers of one dtype are left as they are. The largest
    extra memory, meanwhile, is one attention's weights.

    Args:
        blocks: Blocks of Wan's transformer, on the device where they compute.
    """
    for block in blocks:
        own, text = block.attn1, block.attn2
        for layers in ([own.to_q, own.to_k, own.to_v], [text.to_k, text.to_v]):
            if _alike(layers) and _as_one(layers) is None:
                _join([layer.weight for layer in layers])
                _join([layer.bias for layer in layers])


def project_together(layers: Sequence[Foreign], tokens_BSD: Tensor) -> tuple[Tensor, ...] | None:
    """Return what each layer makes of the tokens, views BSO of one product.

    None: their weights do not lie side by side, or a compiler looks on, which knows no addresses.
    """
    one = None
    if not torch.compiler.is_compiling() and _alike(layers):
        one = _as_one(layers)
    if one is None:
        return None
    outputs = [int(layer.out_features) for layer in layers]
    together: tuple[Tensor, ...] = functional.linear(tokens_BSD, *one).split(outputs, dim=-1)
    return together


def _alike(layers: Sequence[Foreign]) -> bool:
    """Return True for plain linear layers with biases, of one dtype, device and input width."""
    if any(type(layer) is not nn.Linear or layer.bias is None for layer in layers):
        return False
    kinds = {(one.weight.dtype, one.weight.device, one.in_features) for one in layers}
    return len(kinds) == 1 and all(one.bias.dtype == one.weight.dtype for one in layers)


def _join(parameters: Sequence[nn.Parameter]) -> None:
    joined = torch.cat([parameter.data for parameter in parameters])
    sizes = [len(parameter) for parameter in parameters]
    for parameter, part in zip(parameters, joined.split(sizes), strict=True):
        parameter.data = part


def _as_one(layers: Sequence[Foreign]) -> tuple[Tensor, Tensor] | None:
    """Return weight and bias of all layers together, if they lie so."""
    weight = _stretched([layer.weight for layer in layers])
    bias = _stretched([layer.bias for layer in layers])
    return None if weight is None or bias is None else (weight, bias)


def _stretched(parts: Sequence[Tensor]) -> Tensor | None:
    """Return one view over tensors that lie one behind the other in the same memory."""
    first = parts[0]
    storage, place = first.untyped_storage().data_ptr(), first.storage_offset()
    for part in parts:
        there = part.untyped_storage().data_ptr() == storage and part.storage_offset() == place
        if not there or not part.is_contiguous():
            return None
        place += part.numel()
    rows = sum(len(part) for part in parts)
    return first.as_strided((rows, *first.shape[1:]), first.stride())
