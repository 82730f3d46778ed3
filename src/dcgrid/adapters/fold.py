"""Fold an adapter file straight into a network's weights, for inference: W + strength * scale B A.

The same numbers as attaching and merging, without the seconds that PEFT takes to import.

Letters: D width, R rank.
"""

from pathlib import Path

import torch
from torch import nn

from dcgrid.adapters.reading import (
    LoadReport,
    check_base,
    check_fit,
    product_rms,
    product_sides,
    read_adapter,
)
from dcgrid.errors import AdapterError
from dcgrid.models.quantize import QuantLinear


def require_foldable(name: str, layer: nn.Linear) -> None:
    """Check that numbers can be added to a layer's weight.

    Raises:
        AdapterError: The weight is stored as int8 or fp8, whose steps are wider than an update, or
            is read from disk whenever it is needed.
    """
    if isinstance(layer, QuantLinear):
        raise AdapterError(
            f"the weight of {name} is stored as {layer.kind}, an update cannot be added to it",
            hint="Attach the adapter beside the weights, or run with --quantize none.",
        )
    if 0 in layer.weight.stride():
        raise AdapterError(
            f"the weight of {name} is read from disk, an update cannot be added to it",
            hint="Attach the adapter beside the weights, or run with --offload block.",
        )


@torch.no_grad()
def fold_adapter(
    model: nn.Module,
    path: Path,
    *,
    base: str = "",
    base_hash: str = "",
    strength: float = 1.0,
) -> LoadReport:
    """Add the update of an adapter file to the weights; nothing is changed if anything misfits.

    Args:
        model: A network of plain linear layers; changed in place.
        path: The adapter file.
        base: Name of the model; empty: not checked.
        base_hash: Hash of its weights; empty: not checked.
        strength: 0 changes nothing, 1 is as trained.

    Raises:
        AdapterError: As `files.load_adapter`; or a weight is rounded or on disk.
    """
    spec, tensors = read_adapter(path)
    check_base(spec, path, base, base_hash)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
    places = check_fit(shapes, spec, tensors, path)
    for place in places:
        require_foldable(place, layers[place])
    deltas: list[float] = []
    for place in places:
        down_RD, up_DR = product_sides(spec.form, tensors, place)
        weight = layers[place].weight
        delta_DD = (up_DR @ down_RD).to(weight.device) * (strength * spec.scale)
        weight.copy_(weight.float() + delta_DD)
        deltas.append(spec.scale * product_rms(up_DR, down_RD))
    return LoadReport(
        spec=spec, matched=len(places), total=len(places), mean_delta=sum(deltas) / len(deltas)
    )
