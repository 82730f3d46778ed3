"""Load the model that is measured: as `dcgrid edit` does, from a folder in training, or its codec.

Letters: see dcgrid/models/base.py; THWC is a clip as uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.progress import Silent
from dcgrid.adapters.fold import fold_adapter
from dcgrid.adapters.reading import hash_tensors
from dcgrid.errors import UsageError
from dcgrid.grid.routing import Mode
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.model import (
    ADAPTER_NAMES,
    PART_NAMES,
    NativeModel,
    find_native,
    load_text_encoder,
)
from dcgrid.models.native.text import TextEncoder, WordTokenizer
from dcgrid.models.registry import find_model
from dcgrid.models.trunk import NetworkBackbone, NetworkParts
from dcgrid.models.weights import load_weights
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.loading import ModelRequest, adapter_reference, load_model, use_adapter
from dcgrid.pipelines.sampling import to_frames, to_model_range
from dcgrid.runtime import device as runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Which model, and where it runs."""

    model: str = "mini"
    """Name of the model."""
    adapter: str = "default"
    """As `dcgrid edit --adapter`; with a folder of weights "default" is the fill.safetensors in
    it."""
    weights_dir: Path | None = None
    """Folder of weight files; None: the package's own."""
    device: str = "auto"
    """As `dcgrid edit --device`."""
    dtype: str = "auto"
    """As `dcgrid edit --dtype`."""

    def found(self) -> NativeModel:
        """Return the model, its files those of the folder if there is one.

        Raises:
            UsageError: It is none of the program's own.
        """
        model = find_native(self.model)
        if model is None:
            raise UsageError(f"model {self.model!r} has no weights to measure")
        return model if self.weights_dir is None else replace(model, folder=self.weights_dir)

    def place(self) -> tuple[torch.device, torch.dtype]:
        """Return where the model goes and its number format."""
        device = runtime.choose_device(self.device)
        return device, runtime.choose_dtype(self.dtype, device)


def load_choice(
    choice: ModelChoice,
    *,
    adapter: str | None = None,
    parts: Sequence[str] = PART_NAMES,
    mode: Mode = "consistent",
) -> NetworkBackbone:
    """Load a model with its adapter merged into it.

    Args:
        choice: What to load.
        adapter: In place of `choice.adapter`; "none" is the bare base.
        parts: Parts that a folder of weights must have; others are left untrained, for a model
            that is still in the making.
        mode: What grids show that its adapter fills.

    Raises:
        WeightsError: Weights are missing, damaged or of the wrong shape.
        AdapterError: The adapter is damaged or for another model.
    """
    device, dtype = choice.place()
    wanted = adapter or choice.adapter
    if choice.weights_dir is None:
        job = EditJob(input=Path(), model=choice.model, adapter=wanted)
        model = find_model(job.model)
        request = ModelRequest(job=job, model=model, mode=mode, device=device, dtype=dtype)
        return load_model(request, Silent()).backbone
    backbone = load_parts(choice, parts)
    if wanted != "none":
        path = choice.found().files[ADAPTER_NAMES[mode]]
        path = path if wanted == "default" else Path(wanted)
        base_hash = hash_tensors(backbone.network.state_dict())
        report = fold_adapter(backbone.network, path, base=backbone.spec.name, base_hash=base_hash)
        use_adapter(backbone, report.spec)
    return backbone


def has_adapter(choice: ModelChoice) -> bool:
    """Return True if the choice has an adapter that can be left away."""
    if choice.weights_dir is not None:
        return choice.adapter != "none"
    job = EditJob(input=Path(), model=choice.model, adapter=choice.adapter)
    return adapter_reference(job, choice.found(), "consistent") != "none"


def load_codec(choice: ModelChoice) -> NetworkBackbone:
    """Load a model for `encode` and `decode` alone; only its autoencoder must be there.

    Raises:
        UsageError: No such model.
        WeightsError: The autoencoder's file is missing, damaged or of the wrong shape.
    """
    if not choice.found().files:
        return load_choice(choice, adapter="none")
    return load_parts(choice, ("autoencoder",))


def load_parts(choice: ModelChoice, names: Sequence[str]) -> NetworkBackbone:
    """Load some parts of a model from their weight files; the others have fresh weights.

    Raises:
        UsageError: No such model.
        WeightsError: A file of those parts is missing, damaged or of the wrong shape.
    """
    found = choice.found()
    config, files = found.config, found.files
    if config.text is None:
        raise UsageError(f"model {choice.model!r} has no weights to measure")
    parts = NetworkParts(
        autoencoder=Autoencoder(config.autoencoder),
        dit=DiT(config.dit),
        text=TextEncoder(config.text, WordTokenizer(())),
    )
    if "text" in names:
        parts = replace(parts, text=load_text_encoder(choice.model, files["text"]))
    for name in set(names) - {"text"}:
        load_weights(files[name], getattr(parts, name))
    device, dtype = choice.place()
    for module in parts.modules():
        module.to(device)
    return NetworkBackbone(found.spec, parts, dtype)


def codec_pass(backbone: NetworkBackbone, frames_THWC: Tensor) -> Tensor:
    """Return what the codec leaves of a clip: encoded, decoded, as uint8 again."""
    video_BCTHW = to_model_range(frames_THWC).to(backbone.device)
    return to_frames(backbone.decode(backbone.encode(video_BCTHW)))
