"""Fold adapters into the weights for fast inference, and take them out again exactly.

Letters: D width, R rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcgrid.adapters.attach import routed_layers
from dcgrid.adapters.fold import require_foldable
from dcgrid.adapters.routed import RoutedLinear
from dcgrid.errors import AdapterError


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedAdapters:
    """What `unmerge_adapters` needs to bring the adapters back."""

    layers: dict[str, RoutedLinear]
    """The layers with adapters, by name."""
    weights: dict[str, Tensor]
    """The base weights as they were before."""


@torch.no_grad()
def merge_adapters(model: nn.Module) -> MergedAdapters:
    """Add every attached adapter to the weights and leave plain layers: W + sum alpha/R B A.

    The sum is made in float32 and rounded once to the weight's dtype, so that a merged float32
    model equals the adapted one up to rounding.

    Raises:
        AdapterError: If an adapter is routed: cells would need weights of their own; or a
            weight is rounded or on disk.
    """
    layers = dict(routed_layers(model))
    for name, layer in layers.items():
        if layer.routed:
            raise AdapterError(
                f"adapters {', '.join(layer.routed)} act on each cell differently at {name}",
                hint="Adapters of composition mode cannot be merged; run them unmerged.",
            )
        require_foldable(name, layer.plain)
    weights: dict[str, Tensor] = {}
    for name, layer in layers.items():
        plain = layer.plain
        weights[name] = plain.weight.detach().clone()
        plain.weight.copy_(plain.weight.float() + layer_delta(layer))
        model.set_submodule(name, plain)
    return MergedAdapters(layers=layers, weights=weights)


@torch.no_grad()
def unmerge_adapters(model: nn.Module, merged: MergedAdapters) -> None:
    """Undo `merge_adapters`: the weights come back bit for bit, the adapters act as before."""
    for name, layer in merged.layers.items():
        layer.plain.weight.copy_(merged.weights[name])
        model.set_submodule(name, layer)


def layer_delta(layer: RoutedLinear) -> Tensor:
    """Return what the active adapters of a layer add to its weight, float32."""
    delta = torch.zeros_like(layer.plain.weight, dtype=torch.float32)
    for name in layer.active_adapters:
        up_DR, down_RD = layer.up_weight(name).float(), layer.down_weight(name).float()
        delta.addmm_(up_DR, down_RD, alpha=layer.scaling[name])
    return delta
