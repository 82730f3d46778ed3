"""Adapter files: one safetensors file with the spec and a hash of everything inside.

Keys are those that PEFT writes, so that PEFT alone can load the tensors:

    base_model.model.<layer>.lora_A.weight    (R, inputs)
    base_model.model.<layer>.lora_B.weight    (outputs, R)

Letters: D width, R rank.
"""

import hashlib
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
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
from dcgrid.adapters.spec import AdapterSpec, spec_from_json
from dcgrid.errors import AdapterError, DcgridError, OutputError

FORMAT = "dcgrid-adapter-1"
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_PREFIX = "base_model.model."
_HINT = "Fetch the adapter again, or train it anew with `dcgrid train`."


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What loading an adapter did; print it, for an adapter that does nothing is a common fault."""

    spec: AdapterSpec
    """What the file says of itself."""
    matched: int
    """Layers that took their numbers from the file."""
    total: int
    """Layers that the spec's targets name in this network; always equal to `matched`."""
    mean_delta: float
    """Mean over layers of the root mean square of alpha/R B A; 0: the adapter does nothing."""


def hash_tensors(tensors: Mapping[str, Tensor], prefix: str = "") -> str:
    """Return the sha256 of names, dtypes, shapes and bytes, in the order of the names.

    Args:
        tensors: For example a state dict.
        prefix: Text that goes into the hash first.
    """
    digest = hashlib.sha256(prefix.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def adapter_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Return copies of an attached adapter's tensors on the CPU, under the keys of its file.

    Raises:
        AdapterError: If no adapter has that name.
    """
    require_attached(model, name)
    tensors: dict[str, Tensor] = {}
    for place, layer in routed_layers(model):
        if name in layer.lora_A:
            sides = {"lora_A": layer.down_weight(name), "lora_B": layer.up_weight(name)}
            for side, weight in sides.items():
                tensors[f"{_PREFIX}{place}.{side}.weight"] = weight.detach().cpu().clone()
    return tensors


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
    _write_whole(path, save(dict(tensors), metadata=metadata))


def _write_whole(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, then rename."""
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        # mkstemp makes files for the owner's eyes only; an adapter is an ordinary file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"cannot write adapter {path}: {error.strerror}",
            hint="Check that the folder exists, is writable and has space.",
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def read_adapter(path: Path) -> tuple[AdapterSpec, dict[str, Tensor]]:
    """Read and verify an adapter file; no network is needed.

    Returns:
        The spec, and the tensors under their keys, on the CPU.

    Raises:
        AdapterError: If the file is missing, cut, changed, or not an adapter of this program.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: the file may be replaced while we still hold its tensors.
            keys = file.keys()
            tensors = {key: file.get_tensor(key).clone() for key in keys}
        content_hash = hash_tensors(tensors, metadata.get("spec", ""))
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise AdapterError(f"cannot read adapter {path}: {error}", hint=_HINT) from error
    if metadata.get("format") != FORMAT or "spec" not in metadata:
        raise AdapterError(
            f"{path} is not an adapter that dcgrid wrote (format {metadata.get('format')!r})",
            hint=_HINT,
        )
    if metadata.get("sha256") != content_hash:
        raise AdapterError(f"adapter {path} is damaged: its hash does not agree", hint=_HINT)
    try:
        return spec_from_json(metadata["spec"]), tensors
    except DcgridError as error:
        raise AdapterError(f"{path}: {error.message}", hint=error.hint) from error


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
    _check_base(spec, path, base, base_hash)
    places = _check_fit(model, spec, tensors, path)
    # Exact names: an ending in the spec's targets may match more in a network that has grown.
    attach_adapter(model, replace(spec, targets=tuple(places)), trainable=trainable)
    deltas: list[float] = []
    layers = dict(routed_layers(model))
    with torch.no_grad():
        for place in places:
            down_RD = tensors[f"{_PREFIX}{place}.lora_A.weight"]
            up_DR = tensors[f"{_PREFIX}{place}.lora_B.weight"]
            layers[place].down_weight(spec.name).copy_(down_RD)
            layers[place].up_weight(spec.name).copy_(up_DR)
            deltas.append(spec.scale * product_rms(up_DR, down_RD))
    set_strength(model, spec.name, strength)
    return LoadReport(
        spec=spec,
        matched=len(places),
        total=len(find_targets(model, spec.targets)),
        mean_delta=sum(deltas) / len(deltas),
    )


def _check_base(spec: AdapterSpec, path: Path, base: str, base_hash: str) -> None:
    """Refuse an adapter of another model."""
    if base and spec.base and spec.base != base:
        raise AdapterError(
            f"adapter {path} is for the model {spec.base!r}, not for {base!r}",
            hint=f"Use --model {spec.base}, or an adapter for {base}.",
        )
    if base_hash and spec.base_hash and spec.base_hash != base_hash:
        raise AdapterError(
            f"adapter {path} is for other weights of {spec.base or 'the model'} "
            f"({spec.base_hash[:12]}, these are {base_hash[:12]})",
            hint="Fetch the weights that it was trained on, or train it anew.",
        )


def _check_fit(
    model: nn.Module, spec: AdapterSpec, tensors: Mapping[str, Tensor], path: Path
) -> list[str]:
    """Check keys, shapes and numbers against the network; return the names of the layers."""
    places = find_targets(model, spec.targets)
    shapes = linear_shapes(model)
    wanted: dict[str, tuple[int, int]] = {}
    for place in places:
        outputs, inputs = shapes[place]
        wanted[f"{_PREFIX}{place}.lora_A.weight"] = (spec.rank, inputs)
        wanted[f"{_PREFIX}{place}.lora_B.weight"] = (outputs, spec.rank)
    odd = sorted(set(tensors) ^ set(wanted))
    if odd:
        matched = len(set(tensors) & set(wanted))
        raise AdapterError(
            f"adapter {path} does not fit this model: {matched} of {len(wanted)} tensors match, "
            f"{len(odd)} do not, such as {odd[0][:200]}",
            hint="Use the model that it was trained on.",
        )
    for key, shape in wanted.items():
        tensor = tensors[key]
        if tuple(tensor.shape) != shape or tensor.dtype not in _DTYPES:
            raise AdapterError(
                f"adapter {path}: {key} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"this model needs {shape}",
                hint="Use the model that it was trained on.",
            )
        if not tensor.isfinite().all():
            raise AdapterError(f"adapter {path}: {key} holds numbers not finite", hint=_HINT)
    return places


def product_rms(up_DR: Tensor, down_RD: Tensor) -> float:
    """Return the root mean square of the entries of B A without making that large matrix."""
    up, down = up_DR.double(), down_RD.double()
    # |BA|^2 = trace(A^T B^T B A) = sum of (B^T B) * (A A^T), two matrices of R x R.
    squares = float(((up.T @ up) * (down @ down.T)).sum())
    return math.sqrt(max(squares, 0.0) / (up.shape[0] * down.shape[1]))
