"""Train a structured LoRA part by part, as Set-and-Sequence does.

    q = (W + dW) x      dW = A1 (B1 + B2)      A1 shared_out, B1 appearance_in, B2 motion_in

A1 and B1 learn how a subject looks, from its frames as a set of pictures; then both are frozen and
B2 alone learns how it moves. As dW has rank R, the whole is a plain LoRA of rank R for a reader
that does not care for the parts.
"""

from collections.abc import Iterator

from torch import nn

from dcgrid.adapters.attach import require_attached, routed_layers
from dcgrid.adapters.routed import Part, StructuredIn
from dcgrid.errors import AdapterError


def learn_part(model: nn.Module, name: str, part: Part, dropout: float) -> list[nn.Parameter]:
    """Let one part of an attached structured adapter learn and freeze the rest of the adapter.

    Args:
        model: The network with the adapter on it.
        name: The adapter's.
        part: "appearance" (A1 and B1) or "motion" (B2 alone).
        dropout: Share of the numbers of B1 or B2 that each forward in training leaves out; the
            others are scaled up to make good for them. In [0, 1).

    Returns:
        What learns now, for the optimizer.

    Raises:
        AdapterError: No adapter has that name, or it is not structured.
        ValueError: The dropout is out of range.

    Paper: sec. 3.1
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    require_attached(model, name)
    learning: list[nn.Parameter] = []
    for inside, shared_out in _sides(model, name):
        inside.learns, inside.dropout = part, dropout
        looks, moves = [inside.appearance_in, shared_out], [inside.motion_in]
        chosen, frozen = (looks, moves) if part == "appearance" else (moves, looks)
        for parameter in chosen:
            parameter.requires_grad_(True)
        for parameter in frozen:
            parameter.requires_grad_(False)
        learning += chosen
    return learning


def _sides(model: nn.Module, name: str) -> Iterator[tuple[StructuredIn, nn.Parameter]]:
    """Yield the two input sides and the output side of each layer."""
    for place, layer in routed_layers(model):
        if name not in layer.lora_A:
            continue
        inside = layer.lora_A[name]
        if not isinstance(inside, StructuredIn):
            raise AdapterError(
                f"adapter {name!r} has no parts for appearance and motion at {place}",
                hint="Only adapters of stage dc have; train one with `dcgrid train --stage dc`.",
            )
        yield inside, layer.up_weight(name)
