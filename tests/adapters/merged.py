"""Adapters written into the weights, W + sum alpha/R B A: what adapted layers are compared with."""

import torch
from torch import nn

from dcgrid.adapters.attach import routed_layers


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Add every active adapter to the weights, in float32, and leave plain layers."""
    for name, layer in dict(routed_layers(model)).items():
        weight = layer.plain.weight
        for one in layer.active_adapters:
            product = layer.up_weight(one).float() @ layer.down_weight(one).float()
            weight.copy_(weight.float() + layer.scaling[one] * product)
        model.set_submodule(name, layer.plain)
