"""Weight files: one safetensors a part, with its configuration and its making in the metadata."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from dcgrid.errors import OutputError, WeightsError


def save_weights(
    path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write tensors and facts to `path`, atomically: it holds all of them or what it held before.

    Args:
        path: The file; its folder is made if need be.
        tensors: By name. Matrices and larger ones of floats are stored as `dtype`, others as is.
        facts: What JSON can hold.
        dtype: Precision of the stored matrices.

    Raises:
        OutputError: The file cannot be written.
    """
    stored = {
        name: (t.to(dtype) if t.is_floating_point() and t.ndim > 1 else t).detach().contiguous()
        for name, t in tensors.items()
    }
    metadata = {"facts": json.dumps(dict(facts))}
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not safetensors' own save_file: it makes files that only their owner can read.
        temporary.write_bytes(save(stored, metadata))
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write weights {path}: {error}",
            hint="free some space, or choose another folder",
        ) from error
    finally:
        # Gone already if it took its place.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def load_weights(path: Path, module: nn.Module) -> dict[str, Any]:
    """Load a weight file into a module and return the file's facts.

    Raises:
        WeightsError: The file is missing, damaged, or its names, shapes or numbers cannot be the
            module's.
    """
    tensors, facts = read_weights(path)
    expected = module.state_dict()
    odd = sorted(set(expected) ^ set(tensors))
    if odd:
        raise WeightsError(
            f"{path} does not fit: {len(odd)} of {len(expected)} names differ, first {odd[0]}",
            hint="dcgrid doctor   # lists the weights that belong to each model",
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, "
                f"the model wants {tuple(expected[name].shape)}"
            )
        alike = tensor.is_floating_point() == expected[name].is_floating_point()
        if not alike or not tensor.isfinite().all():
            raise WeightsError(
                f"{path}: {name} holds numbers that no weights are ({tensor.dtype})",
                hint="install dcgrid again, or fetch the weights anew",
            )
    module.load_state_dict(tensors)
    return facts


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return all tensors and the facts of a weight file.

    Raises:
        WeightsError: The file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        facts = json.loads(metadata.get("facts", "{}"))
    except FileNotFoundError as error:
        raise WeightsError(f"no weights at {path}", hint="dcgrid doctor") from error
    except (SafetensorError, OSError, ValueError, RuntimeError, OverflowError) as error:
        raise WeightsError(
            f"weights {path} are damaged: {error}", hint="install dcgrid again, or fetch them anew"
        ) from error
    if not isinstance(facts, dict):
        raise WeightsError(f"weights {path} are damaged: their facts are not a table")
    return tensors, facts


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of a weight file as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
