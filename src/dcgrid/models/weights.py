"""Weight files: one safetensors a part, with its configuration and its making in the metadata.

Matrices may be stored as int8: each row (or output channel) as whole numbers of -127..127 and one
step width. `read_weights` returns float32 again; nothing else in the program knows of it.

Differs: docs/decisions/0012.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from dcgrid.errors import WeightsError
from dcgrid.io.atomic import write_whole

STEP_KEY = "@step"
"""Comes behind a tensor's name for the step widths of its rows."""


def save_weights(
    path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write tensors and facts to `path`, atomically: it holds all of them or what it held before.

    Args:
        path: The file; its folder is made if need be.
        tensors: By name. Matrices and larger ones of floats are stored as `dtype`, others as is.
        facts: What JSON can hold.
        dtype: Precision of the stored matrices; torch.int8: rounded row by row.

    Raises:
        OutputError: The file cannot be written.
    """
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.ndim < 2:
            stored[name] = tensor.detach().contiguous()
        elif dtype == torch.int8:
            stored[name], stored[f"{name}{STEP_KEY}"] = _rounded(tensor.detach())
        else:
            stored[name] = tensor.detach().to(dtype).contiguous()
    metadata = {"facts": json.dumps(dict(facts))}
    # Not safetensors' own save_file: it makes files that only their owner can read.
    write_whole(path, save(stored, metadata), hint="free some space, or choose another folder")


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
    """Return all tensors and the facts of a weight file; rounded matrices are float32 again.

    Raises:
        WeightsError: The file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        tensors = _unrounded(stored)
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


def _rounded(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 numbers and the step width of each row, float32."""
    rows = tensor.float().flatten(1)
    # A row of zeros has no width of its own; any will do.
    steps = rows.abs().amax(dim=1).div(127).clamp(min=torch.finfo(torch.float32).tiny)
    numbers = (rows / steps[:, None]).round().to(torch.int8)
    return numbers.reshape(tensor.shape).contiguous(), steps


def _unrounded(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put rounded matrices and their steps together again.

    Raises:
        ValueError: Steps without a matrix, or not one for each of its rows.
    """
    tensors = {name: t for name, t in stored.items() if not name.endswith(STEP_KEY)}
    for key in stored.keys() - tensors.keys():
        name, steps = key.removesuffix(STEP_KEY), stored[key]
        numbers = tensors.get(name)
        if numbers is None or numbers.dtype != torch.int8 or steps.shape != numbers.shape[:1]:
            raise ValueError(f"{key} fits no matrix")
        widths = steps.float().reshape(-1, *[1] * (numbers.ndim - 1))
        tensors[name] = numbers.float() * widths
    return tensors
