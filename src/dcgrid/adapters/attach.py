"""Put adapters on a network, take them off again, and train structured ones part by part.

Attaching replaces target layers by `RoutedLinear`s that hold the original layer, so detaching
gives back the very same modules and weights. A structured LoRA, as Set-and-Sequence has it:

    q = (W + dW) x      dW = A1 (B1 + B2)      A1 shared_out, B1 appearance_in, B2 motion_in

A1 and B1 learn how a subject looks, from its frames as a set of pictures; then both are frozen and
B2 alone learns how it moves. As dW has rank R, the whole is a plain LoRA of rank R for a reader
that does not care for the parts.
"""

import math
import re
from collections.abc import Iterator, Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from dcgrid.adapters.reading import match_targets
from dcgrid.adapters.routed import Part, RoutedLinear, StructuredIn
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.errors import AdapterError
from dcgrid.models.quantize import product_dtype


def routed_layers(model: nn.Module) -> Iterator[tuple[str, RoutedLinear]]:
    """Yield name and layer of every place where adapters are attached."""
    for name, module in model.named_modules():
        if isinstance(module, RoutedLinear):
            yield name, module


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return name and (outputs, inputs) of every linear layer, with or without adapters on it."""
    attached = {name: layer.plain for name, layer in routed_layers(model)}
    inside = tuple(f"{name}." for name in attached)
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        layer = attached.get(name, module)
        if isinstance(layer, nn.Linear) and not name.startswith(inside):
            shapes[name] = (layer.out_features, layer.in_features)
    return shapes


def find_targets(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Return the full names of the linear layers that `targets` name, in the model's order.

    Args:
        model: The network.
        targets: Full names, or their ends after a dot.

    Raises:
        AdapterError: If a target names no linear layer.
    """
    return match_targets(list(linear_shapes(model)), targets)


def attach_adapter(
    model: nn.Module, spec: AdapterSpec, *, trainable: bool = True, seed: int = 0
) -> list[nn.Parameter]:
    """Add a fresh adapter to a network; it changes nothing until it is trained or loaded.

    All base parameters are frozen, and stay so after `detach_adapter`. Other adapters are kept as
    they are and act too.

    Args:
        model: The network; changed in place.
        spec: Name, rank, targets and so on.
        trainable: True: float32 parameters that learn. False: frozen, in the base layers' dtype.
        seed: Of the initial numbers; the global random state is not touched.

    Returns:
        The adapter's parameters, for the optimizer: A (of a structured adapter its two sides) and
        B of each layer, in the model's order.

    Raises:
        AdapterError: If a target names no linear layer or the name is taken.

    Paper: sec. 3.2
    """
    names = find_targets(model, spec.targets)
    if any(spec.name in layer.lora_A for _, layer in routed_layers(model)):
        raise AdapterError(
            f"an adapter named {spec.name!r} is attached already",
            hint="Rename one of the two adapters.",
        )
    learning = [p for _, layer in routed_layers(model) for p in _learning(layer)]
    _inject(model, spec, names)
    parameters: list[nn.Parameter] = []
    generator = torch.Generator().manual_seed(seed)
    for _, layer in routed_layers(model):
        layer.set_adapter(list(layer.lora_A), inference_mode=True)
        # PEFT makes layers in training mode, whatever the mode of the model is.
        layer.train(layer.plain.training)
        if spec.name in layer.lora_A:
            parameters += _initialise(layer, spec, trainable, generator)
    for parameter in (*learning, *(parameters if trainable else ())):
        parameter.requires_grad_(True)
    return parameters


def _learning(layer: RoutedLinear) -> list[nn.Parameter]:
    """Return the adapter parameters of a layer that learn now."""
    parts = (*layer.lora_A.parameters(), *layer.lora_B.parameters())
    return [parameter for parameter in parts if parameter.requires_grad]


def _inject(model: nn.Module, spec: AdapterSpec, names: list[str]) -> None:
    """Let PEFT swap the named layers."""
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT divides, any number will do
        lora_dropout=spec.dropout if spec.form == "plain" else 0.0,
        # One exact pattern: PEFT would match a list by name endings.
        target_modules="|".join(map(re.escape, names)),
    )
    config._register_custom_module({nn.Linear: RoutedLinear})
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, model, adapter_name=spec.name)
    # PEFT notes its config on the model; our own spec says it all, and the note would outlive us.
    del model.peft_config


def _initialise(
    layer: RoutedLinear, spec: AdapterSpec, trainable: bool, generator: torch.Generator
) -> list[nn.Parameter]:
    """Give one layer's adapter its form, dtype and first numbers: A random, all else zero."""
    name, dtype = spec.name, torch.float32 if trainable else product_dtype(layer.plain)
    if spec.form == "structured":
        inside = StructuredIn(layer.plain.in_features, spec.rank).train(layer.training)
        layer.lora_A[name] = inside.to(layer.plain.weight.device)
    layer.lora_A[name].to(dtype)
    layer.lora_B[name].to(dtype)
    first_side, *others = (*layer.down_parameters(name), layer.up_weight(name))
    with torch.no_grad():
        first_RD = torch.empty(first_side.shape)
        nn.init.kaiming_uniform_(first_RD, a=math.sqrt(5), generator=generator)
        first_side.copy_(first_RD)
        for other in others:
            other.zero_()
    for parameter in (first_side, *others):
        # Sides that came after PEFT had frozen its own would learn unasked.
        parameter.requires_grad_(False)
    return [first_side, *others]


def adapter_names(model: nn.Module) -> list[str]:
    """Return the names of all attached adapters, first attached first."""
    return list(dict.fromkeys(name for _, layer in routed_layers(model) for name in layer.lora_A))


def detach_adapter(model: nn.Module, name: str | None = None) -> None:
    """Take an adapter off; without a name, all of them. The last one gives back the plain layers.

    Raises:
        AdapterError: If no adapter has that name.
    """
    if name is not None:
        require_attached(model, name)
    for place, layer in list(routed_layers(model)):
        learning = _learning(layer)
        for gone in [name] if name is not None else list(layer.lora_A):
            if gone in layer.lora_A:
                layer.delete_adapter(gone)
                layer.routed = tuple(kept for kept in layer.routed if kept != gone)
        if not layer.lora_A:
            model.set_submodule(place, layer.plain)
            continue
        # PEFT would set the adapters that stay learning, frozen ones too.
        layer.set_adapter(list(layer.lora_A), inference_mode=True)
        for parameter in learning:
            parameter.requires_grad_(True)


def require_attached(model: nn.Module, name: str) -> None:
    """Check that an adapter is attached.

    Raises:
        AdapterError: If no adapter has that name.
    """
    names = adapter_names(model)
    if name not in names:
        raise AdapterError(
            f"no adapter {name!r} is attached", hint=f"Attached: {', '.join(names) or 'none'}."
        )


def set_strength(model: nn.Module, name: str, strength: float) -> None:
    """Set how much an adapter counts: 0 off (and free), 1 as trained.

    Raises:
        AdapterError: If no adapter has that name.

    Paper: sec. 3.2 (reducing the effect of the Multi-DC LoRA)
    """
    require_attached(model, name)
    for _, layer in routed_layers(model):
        layer.set_scale(name, strength)


def set_routed(model: nn.Module, names: Sequence[str]) -> None:
    """Say which adapters follow the route argument; column a of a route is for names[a].

    Args:
        model: The network with the adapters attached.
        names: Routed adapters; all others act everywhere. Empty: none is routed.

    Raises:
        AdapterError: If no adapter has one of the names.

    Paper: sec. 3.2, eqs. 1-3
    """
    for name in names:
        require_attached(model, name)
    for _, layer in routed_layers(model):
        layer.routed = tuple(names)


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
