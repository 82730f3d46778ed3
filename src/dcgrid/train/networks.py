"""Load what earlier stages made and later ones do not train: the base and the autoencoder."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dcgrid.adapters.reading import hash_tensors
from dcgrid.models.loading import (
    checkout_folder,
    is_native,
    load_t5_for,
    load_text_encoder,
    training_spec,
    weight_digests,
)
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.config import PRESETS
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.folder import read_native_folder
from dcgrid.models.native.t5 import T5TextEncoder
from dcgrid.models.trunk import GridTransformer, TextReader, VideoCodec
from dcgrid.models.wan.trunk import load_codec, load_trunk
from dcgrid.models.weights import load_weights
from dcgrid.runtime.device import choose_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The frozen base, before any adapter."""

    dit: GridTransformer
    """Transformer."""
    text: TextReader
    """Text encoder."""
    hash: str
    """Of the transformer's weights; adapters name it."""


def load_base(
    model: str, folder: Path, device: torch.device, dtype: torch.dtype | None = None
) -> Base:
    """Load transformer and text encoder, frozen and at rest.

    Args:
        model: A native model, or the checkout whose networks are the base.
        folder: Where the weight files of a native model are.
        device: Where they go.
        dtype: Of a checkout's weights; None: bfloat16 where that is fast. A native model's are
            float32, and products are in what autocast says.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: A file is missing or damaged, or does not fit.
    """
    if not is_native(model):
        checkout = checkout_folder(model)
        dit, reader = load_trunk(
            checkout, device=device, dtype=dtype or choose_dtype("auto", device)
        )
        return Base(dit=dit, text=reader, hash=weight_digests(model)["transformer"])
    return _load_native(model, folder, device)


def _load_native(model: str, folder: Path, device: torch.device) -> Base:
    config = PRESETS[model]
    text: TextReader
    if config.text is None:
        text = load_trained_t5(model, read_native_folder(folder).text_encoder)
    else:
        text = load_text_encoder(model, folder / "text.safetensors")
    dit = DiT(config.dit)
    load_weights(folder / "dit.safetensors", dit)
    base_hash = hash_tensors(dit.state_dict())
    for network in (text, dit):
        network.to(device).eval().requires_grad_(False)
    return Base(dit=dit, text=text, hash=base_hash)


def load_trained_t5(model: str, source: str) -> T5TextEncoder:
    """Load the T5 that a preset reads its text with, frozen.

    Args:
        model: The preset.
        source: T5 folder or `hf:OWNER/REPO[@REVISION]`, which is downloaded if it is not here.

    Raises:
        UsageError: transformers is not installed.
        WeightsError: It is missing or damaged, or its embeddings have another width.
        NetworkError: A download failed, or would be needed and is forbidden.
    """
    return load_t5_for(PRESETS[model], source, training_spec(model).text_limit)


def load_autoencoder(
    model: str, folder: Path, device: torch.device, *, channels_last: bool = False
) -> VideoCodec:
    """Load the autoencoder, frozen and at rest.

    Args:
        model: A native model, or a checkout.
        folder: Where the weight files of a native model are.
        device: Where it goes.
        channels_last: Lay its weights out as is fastest for stages that encode clips at every
            step; sums are rounded in another order then. A checkout's stay as they are.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: The file is missing or damaged, or does not fit.
    """
    if not is_native(model):
        return load_codec(checkout_folder(model), device=device)
    autoencoder = Autoencoder(PRESETS[model].autoencoder)
    load_weights(folder / "autoencoder.safetensors", autoencoder)
    if channels_last:
        autoencoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return autoencoder.to(device).eval().requires_grad_(False)
