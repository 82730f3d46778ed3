"""Adapter files: one safetensors file with the spec and a hash of everything inside.

The format and the checks are in reading.py, which needs no PEFT.

Letters: D width, R rank.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dcgrid.adapters.attach import (
    attach_adapter,
    find_targets,
    linear_shapes,
    require_attached,
    routed_layers,
    set_strength,
)
from dcgrid.adapters.reading import (
    FORMAT,
    INPUT_SIDES,
    OUTPUT_SIDE,
    LoadReport,
    check_base,
    check_fit,
    hash_tensors,
    mean_update,
    read_adapter,
    side_key,
)
from dcgrid.adapters.routed import RoutedLinear
from dcgrid.adapters.spec import AdapterSpec, Form
from dcgrid.errors import AdapterError
from dcgrid.io.atomic import whole_file


def adapter_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Return copies of an attached adapter's tensors on the CPU, under the keys of its file.

    Raises:
        AdapterError: If no adapter has that name.
    """
    require_attached(model, name)
    tensors: dict[str, Tensor] = {}
    for place, layer in routed_layers(model):
        if name in layer.lora_A:
            for side, weight in _sides(layer, name).items():
                tensors[side_key(place, side)] = weight.detach().cpu().clone()
    return tensors


def _sides(layer: RoutedLinear, name: str) -> dict[str, nn.Parameter]:
    """Return an adapter's parameters in one layer under their names in a file."""
    inside = layer.down_parameters(name)
    form: Form = "plain" if len(inside) == 1 else "structured"
    named = dict(zip(INPUT_SIDES[form], inside, strict=True))
    return named | {OUTPUT_SIDE[form]: layer.up_weight(name)}


def save_adapter(model: nn.Module, spec: AdapterSpec, path: Path) -> None:
    """Write an attached adapter to a file, all or nothing.

    Args:
        model: The network that the adapter `spec.name` is attached to.
        spec: Travels in the file.
        path: Replaced if it exists.

    Raises:
        AdapterError: If no adapter has that name, or it holds numbers that are not finite.
        OutputError: If the file cannot be written.
    """
    tensors = adapter_tensors(model, spec.name)
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise AdapterError(
                f"adapter {spec.name!r} holds numbers that are not finite in {key}",
                hint="The training diverged: lower the learning rate.",
            )
    write_adapter(spec, tensors, path)


def write_adapter(spec: AdapterSpec, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a spec and tensors under a file's keys, all or nothing; see `save_adapter`.

    Raises:
        OutputError: If the file cannot be written.
    """
    spec_text = spec.to_json()
    metadata = {
        "format": FORMAT,
        "spec": spec_text,
        "sha256": hash_tensors(tensors, spec_text),
    }
    with whole_file(path) as part:
        part.write_bytes(save(dict(tensors), metadata=metadata))


def load_adapter(
    model: nn.Module,
    path: Path,
    *,
    base: str = "",
    base_hash: str = "",
    strength: float = 1.0,
    trainable: bool = False,
) -> LoadReport:
    """Attach the adapter of a file; nothing is changed if anything does not fit.

    Args:
        model: The network; changed in place.
        path: The adapter file.
        base: Name of the model; empty: not checked.
        base_hash: Hash of its weights; empty: not checked.
        strength: See `set_strength`.
        trainable: True to go on training it.

    Raises:
        AdapterError: If the file is damaged, is for another model, or does not fit the network
            layer by layer.
    """
    spec, tensors = read_adapter(path)
    check_base(spec, path, base, base_hash)
    places = check_fit(linear_shapes(model), spec, tensors, path)
    # Exact names: an ending in the spec's targets may match more in a network that has grown.
    attach_adapter(model, replace(spec, targets=tuple(places)), trainable=trainable)
    layers = dict(routed_layers(model))
    with torch.no_grad():
        for place in places:
            for side, weight in _sides(layers[place], spec.name).items():
                weight.copy_(tensors[side_key(place, side)])
    set_strength(model, spec.name, strength)
    return LoadReport(
        spec=spec,
        matched=len(places),
        total=len(find_targets(model, spec.targets)),
        mean_delta=mean_update(spec, tensors),
    )
