"""Training state on disk: weights, averaged weights, optimiser moments, random state, step.

One safetensors file a checkpoint, written under another name and renamed, so that a kill at any
moment leaves the last good one. No pickle is written or read.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dcgrid.errors import OutputError, WeightsError

STATE_NAME = "state.safetensors"


class DamagedCheckpoint(WeightsError):  # noqa: N818 - a state of the file
    """A checkpoint is cut short or holds what no run wrote (exit code 4)."""


@dataclass(slots=True, kw_only=True)
class TrainState:
    """What a run needs to go on as if it had never stopped."""

    parameters: dict[str, torch.nn.Parameter]
    """Trained parameters by name."""
    optimizer: torch.optim.Optimizer
    """Steps the same parameters, in groups of its own."""
    ema: dict[str, torch.Tensor]
    """Averaged copies by the same names; empty without an average."""
    generator: torch.Generator
    """Source of all randomness of the run (CPU)."""
    step: int = 0
    """Optimiser steps done."""
    pending: dict[str, list[float]] = field(default_factory=dict)
    """Figures of the steps since the last line of the log."""
    remember: Callable[[], Mapping[str, torch.Tensor]] = field(default=dict)
    """Returns what the stage must keep to go on as it would have."""
    recall: Callable[[Mapping[str, torch.Tensor]], None] = field(default=lambda kept: None)
    """Takes back what `remember` returned."""


def save_state(folder: Path, state: TrainState, facts: Mapping[str, str]) -> None:
    """Write the state to `folder/state.safetensors`, all or nothing.

    Raises:
        OutputError: The file cannot be written, for example on a full disk; the old one stays.
    """
    tensors = {f"model.{n}": p.detach() for n, p in state.parameters.items()}
    tensors |= {f"ema.{n}": t for n, t in state.ema.items()}
    for name, parameter in state.parameters.items():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optim.{key}.{name}"] = torch.as_tensor(value)
    tensors |= {f"data.{n}": t for n, t in state.remember().items()}
    tensors["rng"] = state.generator.get_state()
    tensors["rng_torch"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        tensors["rng_cuda"] = torch.cuda.get_rng_state()
    contiguous = {n: t.contiguous().clone() for n, t in tensors.items()}
    metadata = {
        "step": str(state.step),
        "facts": json.dumps(dict(facts)),
        "pending": json.dumps(state.pending),
    }
    temporary = folder / f"{STATE_NAME}.tmp"
    try:
        save_file(contiguous, temporary, metadata)
        temporary.chmod(0o644)  # safetensors makes files for the owner's eyes only
        temporary.replace(folder / STATE_NAME)
    except (SafetensorError, OSError) as error:
        # A full disk comes out of safetensors as an error of its own.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write checkpoint {folder / STATE_NAME}: {error}",
            hint="the last checkpoint is whole; free some space, then run again with --resume",
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove the half-written files that a kill left; nobody else may be writing there."""
    for pattern in ("*.tmp", ".tmp??????"):  # ours, and safetensors' own
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def load_state(path: Path, state: TrainState) -> None:
    """Fill `state` from a checkpoint.

    Nothing of `state` is changed if the checkpoint does not fit.

    Raises:
        WeightsError: The file is missing or of another model.
        DamagedCheckpoint: It is damaged.
    """
    tensors, metadata = _read(path)
    _check(path, state, tensors)
    try:
        step, pending = _step(metadata), _pending(metadata)
        _facts(metadata)
        _fill(state, tensors)
    except (KeyError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(path, error) from error
    state.step = step
    # In place: the log adds to this very table.
    state.pending.clear()
    state.pending.update(pending)


def read_facts(path: Path) -> tuple[int, dict[str, str]]:
    """Return a checkpoint's step and facts without its tensors.

    Raises:
        WeightsError: The file is missing.
        DamagedCheckpoint: It is damaged.
    """
    with _opened(path) as file:
        metadata: Mapping[str, str] = file.metadata()
        step, facts = _step(metadata), _facts(metadata)
    return step, facts


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a checkpoint; whatever goes wrong inside means that it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError as error:
        raise WeightsError(
            f"no checkpoint {path} to resume", hint="run again without --resume"
        ) from error
    except (
        SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError,
    ) as error:  # fmt: skip
        raise _damaged(path, error) from error


def _read(path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    with _opened(path) as file:
        metadata: dict[str, str] = file.metadata()
        keys = file.keys()
        tensors = {key: file.get_tensor(key) for key in keys}
    return tensors, metadata


def _step(metadata: Mapping[str, str] | None) -> int:
    step = int((metadata or {})["step"])
    if step < 0:
        raise ValueError(f"step {step} is below 0")
    return step


def _facts(metadata: Mapping[str, str]) -> dict[str, str]:
    facts = json.loads(metadata["facts"])
    if not isinstance(facts, dict):
        raise ValueError("its facts are not a table")
    return facts


def _pending(metadata: Mapping[str, str]) -> dict[str, list[float]]:
    """Return the figures that the log had not written yet; older checkpoints have none."""
    pending = json.loads(metadata.get("pending", "{}"))
    if not isinstance(pending, dict):
        raise ValueError("its figures are not a table")
    return {str(name): [float(v) for v in values] for name, values in pending.items()}


def _check(path: Path, state: TrainState, tensors: Mapping[str, torch.Tensor]) -> None:
    """Check names, shapes and types, so that filling cannot stop half way."""
    expected: dict[str, torch.Tensor] = {f"model.{n}": p for n, p in state.parameters.items()}
    expected |= {f"ema.{n}": t for n, t in state.ema.items()}
    present = {n for n in tensors if n.startswith(("model.", "ema."))}
    odd = sorted(set(expected) ^ present)
    if odd:
        raise WeightsError(
            f"checkpoint {path} is of another model or stage: "
            f"{len(odd)} names do not match, first {odd[0]}",
            hint="resume with the options of the run that wrote it, or use another --out",
        )
    moments = {n: t for n, t in tensors.items() if n.startswith("optim.")}
    for name, tensor in moments.items():
        _, key, owner = name.split(".", 2) if name.count(".") > 1 else ("", "", "")
        if owner not in state.parameters:
            raise _damaged(path, f"{name} belongs to no parameter")
        if key != "step":
            expected[name] = state.parameters[owner]
        elif tensor.numel() != 1:
            raise _damaged(path, f"{name} is not one number")
    for name, like in expected.items():
        if tensors[name].shape != like.shape:
            raise _damaged(path, f"{name} has shape {tuple(tensors[name].shape)}")
        if not tensors[name].isfinite().all():
            raise _damaged(path, f"{name} holds numbers that are not finite")
    if "rng" not in tensors:
        raise _damaged(path, "it lacks the random state")


def _fill(state: TrainState, tensors: Mapping[str, torch.Tensor]) -> None:
    # The random states first: they are what may still be refused.
    trial = torch.Generator()
    trial.set_state(tensors["rng"])
    if "rng_torch" in tensors:
        trial.set_state(tensors["rng_torch"])
        torch.set_rng_state(tensors["rng_torch"])
    if "rng_cuda" in tensors and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(tensors["rng_cuda"])
    state.recall({n.removeprefix("data."): t for n, t in tensors.items() if n.startswith("data.")})
    state.generator.set_state(tensors["rng"])
    with torch.no_grad():
        for name, parameter in state.parameters.items():
            parameter.copy_(tensors[f"model.{name}"])
        for name, average in state.ema.items():
            average.copy_(tensors[f"ema.{name}"])
    moments: dict[str, dict[str, Any]] = {}
    for full_name, tensor in tensors.items():
        if full_name.startswith("optim."):
            _, key, name = full_name.split(".", 2)
            # The fused optimiser walks memory: moments must lie as their parameter does, which may
            # be channels last, while files hold plain rows.
            like = state.parameters[name]
            if key == "step":
                laid_out = tensor.to(like.device, copy=True)
            else:
                laid_out = torch.zeros_like(like).copy_(tensor)
            moments.setdefault(name, {})[key] = laid_out.reshape(
                () if key == "step" else like.shape
            )
    for name, values in moments.items():
        state.optimizer.state[state.parameters[name]] = values


def _damaged(path: Path, why: object) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"checkpoint {path} is damaged: {why}",
        hint="run again without --resume to begin anew, or put back a copy of the file",
    )
