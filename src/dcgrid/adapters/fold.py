"""Fold an adapter file straight into a network's weights, for inference: W + strength * scale B A.

The same numbers as attaching and merging, without the seconds that PEFT takes to import.
`fold_lora` takes files of other programs, too.

Letters: D width, R rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dcgrid.adapters.foreign import (
    ForeignLora,
    check_foreign_fit,
    is_foreign,
    mean_foreign_update,
    read_foreign,
)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldReport:
    """What folding a LoRA did."""

    naming: str
    """Who names layers so, see `foreign.Naming`; "dcgrid": a file of this program."""
    matched: int
    """Layers, biases and norms that were changed: all that the file holds."""
    mean_delta: float
    """Mean over these of the root mean square of the update at strength 1; 0: it does nothing."""
    scale: str
    """Factors of B A in its layers and, for another program's file, where they stand."""


def fold_lora(
    model: nn.Module, path: Path, *, base: str = "", base_hash: str = "", strength: float = 1.0
) -> FoldReport:
    """Add a LoRA, of this program or of another one, to the weights; all of it or nothing.

    Args:
        model: A network of plain layers; changed in place.
        path: The file.
        base: Name of the model, for files that name theirs; empty: not checked.
        base_hash: Hash of its weights before anything was folded in, likewise.
        strength: 0 changes nothing, 1 is as trained.

    Raises:
        AdapterError: The file is damaged, of another kind, or does not fit the network.
    """
    if is_foreign(path):
        return fold_foreign(model, read_foreign(path), strength)
    report = fold_adapter(model, path, base=base, base_hash=base_hash, strength=strength)
    return _own_report(report)


def attach_lora(
    model: nn.Module, path: Path, *, base: str = "", base_hash: str = "", strength: float = 1.0
) -> FoldReport:
    """Put a LoRA of this program beside the weights, for weights that stay as they are.

    Raises:
        AdapterError: As `files.load_adapter`.
    """
    # PEFT takes seconds to import.
    from dcgrid.adapters.files import load_adapter

    report = load_adapter(model, path, base=base, base_hash=base_hash, strength=strength)
    return _own_report(report)


def _own_report(report: LoadReport) -> FoldReport:
    return FoldReport(
        naming="dcgrid",
        matched=report.matched,
        mean_delta=report.mean_delta,
        scale=f"scale {report.spec.scale:.4g}",
    )


@torch.no_grad()
def fold_foreign(model: nn.Module, lora: ForeignLora, strength: float = 1.0) -> FoldReport:
    """Add the update of another program's LoRA to the weights; see `fold_lora`.

    Raises:
        AdapterError: It does not fit the network.
    """
    parameters = dict(model.named_parameters())
    check_foreign_fit(lora, {name: tuple(one.shape) for name, one in parameters.items()})
    for name, delta in _updates(lora):
        parameter = parameters[name]
        parameter.copy_(parameter.float() + delta.to(parameter.device) * strength)
    return FoldReport(
        naming=lora.naming,
        matched=len(lora.layers) + len(lora.deltas),
        mean_delta=mean_foreign_update(lora),
        scale=lora.scale_line,
    )


def _updates(lora: ForeignLora) -> Iterator[tuple[str, Tensor]]:
    """Yield each parameter and what is added to it, float32; one large matrix at a time."""
    for name, one in lora.layers.items():
        yield f"{name}.weight", (one.up_DR.float() @ one.down_RD.float()) * one.scale
    yield from lora.deltas.items()
