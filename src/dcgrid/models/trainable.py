"""The networks of a loaded model as training knows them: for methods that learn a single clip.

Adapters that are attached to them act in the loaded model, too, since the layers are the same.
"""

from dataclasses import dataclass

import torch

from dcgrid.errors import UsageError
from dcgrid.models.base import Backbone
from dcgrid.models.trunk import GridTransformer, NetworkBackbone, TextReader
from dcgrid.models.wan.backbone import WanBackbone
from dcgrid.models.wan.trunk import WanText, WanTransformer


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainable:
    """What a loaded model is made of, frozen and at rest."""

    dit: GridTransformer
    """Transformer."""
    text: TextReader
    """Text encoder."""
    dtype: torch.dtype
    """Number format of products."""


def trainable(backbone: Backbone) -> Trainable:
    """Return the networks of a loaded model, to put an adapter on and train it.

    Raises:
        UsageError: Its weights are rounded, are not all on the device, or several processes
            compute it.
    """
    if isinstance(backbone, NetworkBackbone):
        parts = backbone.parts
        return Trainable(dit=parts.dit, text=parts.text, dtype=backbone.dtype)
    if not isinstance(backbone, WanBackbone) or backbone.in_group:
        raise UsageError(
            f"{backbone.spec.name} is computed by several processes, which cannot learn a clip",
            hint="start it without torchrun",
        )
    if backbone.parts.offload != "none" or backbone.parts.quantize != "none":
        raise UsageError(
            f"the weights of {backbone.spec.name} are rounded or not all on the device, and a "
            "clip cannot be learnt so",
            hint="use --offload none and --quantize none",
        )
    transformer = backbone.network
    return Trainable(
        dit=WanTransformer(transformer, backbone.spec),
        text=WanText(backbone.parts.segments),
        dtype=next(transformer.parameters()).dtype,
    )
