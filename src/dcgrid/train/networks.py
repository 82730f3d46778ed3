"""Load what earlier stages made and later ones do not train: the base and the autoencoder."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dcgrid.adapters.reading import hash_tensors
from dcgrid.models.loading import load_text_encoder
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.config import PRESETS
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.text import TextEncoder
from dcgrid.models.weights import load_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The frozen base, before any adapter."""

    dit: DiT
    """Transformer."""
    text: TextEncoder
    """Text encoder."""
    hash: str
    """Of the transformer's weights; adapters name it."""


def load_base(model: str, folder: Path, device: torch.device) -> Base:
    """Load transformer and text encoder, frozen and at rest.

    Raises:
        WeightsError: A file is missing or damaged, or does not fit.
    """
    text = load_text_encoder(model, folder / "text.safetensors")
    dit = DiT(PRESETS[model].dit)
    load_weights(folder / "dit.safetensors", dit)
    base_hash = hash_tensors(dit.state_dict())
    for network in (text, dit):
        network.to(device).eval().requires_grad_(False)
    return Base(dit=dit, text=text, hash=base_hash)


def load_autoencoder(
    model: str, folder: Path, device: torch.device, *, channels_last: bool = False
) -> Autoencoder:
    """Load the autoencoder, frozen and at rest.

    Args:
        model: Preset of the native model.
        folder: Where the weight files are.
        device: Where it goes.
        channels_last: Lay its weights out as is fastest for stages that encode clips at every
            step; sums are rounded in another order then.

    Raises:
        WeightsError: The file is missing or damaged, or does not fit.
    """
    autoencoder = Autoencoder(PRESETS[model].autoencoder)
    load_weights(folder / "autoencoder.safetensors", autoencoder)
    if channels_last:
        autoencoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return autoencoder.to(device).eval().requires_grad_(False)
