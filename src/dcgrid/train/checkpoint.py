"""Training state on disk: weights, averaged weights, optimiser moments, random state, step.

One safetensors file a checkpoint, written under another name and renamed, so that a kill at any
moment leaves the last good one. No pickle is written or read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dcgrid.errors import WeightsError

STATE_NAME = "state.safetensors"


@dataclass(slots=True, kw_only=True)
class TrainState:
    """What a run needs to go on as if it had never stopped."""

    parameters: dict[str, torch.nn.Parameter]
    """Trained parameters by name."""
    optimizer: torch.optim.Optimizer
    """Its parameter order is that of `parameters`."""
    ema: dict[str, torch.Tensor]
    """Averaged copies by the same names; empty without an average."""
    generator: torch.Generator
    """Source of all randomness of the run (CPU)."""
    step: int = 0
    """Optimiser steps done."""


def save_state(folder: Path, state: TrainState, facts: Mapping[str, str]) -> None:
    """Write the state to `folder/state.safetensors`, atomically."""
    tensors = {f"model.{n}": p.detach() for n, p in state.parameters.items()}
    tensors |= {f"ema.{n}": t for n, t in state.ema.items()}
    for name, parameter in state.parameters.items():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optim.{key}.{name}"] = torch.as_tensor(value)
    tensors["rng"] = state.generator.get_state()
    contiguous = {n: t.contiguous().clone() for n, t in tensors.items()}
    temporary = folder / f"{STATE_NAME}.tmp"
    save_file(contiguous, temporary, {"step": str(state.step), "facts": json.dumps(dict(facts))})
    temporary.replace(folder / STATE_NAME)


def load_state(folder: Path, state: TrainState) -> dict[str, str]:
    """Fill `state` from the folder's checkpoint and return its facts.

    Raises:
        WeightsError: The file is missing, damaged or of another model.
    """
    path = folder / STATE_NAME
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            _fill(state, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except FileNotFoundError as error:
        raise WeightsError(
            f"no checkpoint {path} to resume", hint="run again without --resume"
        ) from error
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"checkpoint {path} is damaged: {error}") from error
    state.step = int(metadata["step"])
    facts: dict[str, str] = json.loads(metadata["facts"])
    return facts


def _fill(state: TrainState, tensors: dict[str, torch.Tensor]) -> None:
    expected = {f"model.{n}" for n in state.parameters}
    present = {n for n in tensors if n.startswith("model.")}
    if expected != present:
        odd = sorted(expected ^ present)[:3]
        raise WeightsError(f"checkpoint is of another model: {', '.join(odd)} do not match")
    with torch.no_grad():
        for name, parameter in state.parameters.items():
            parameter.copy_(tensors[f"model.{name}"])
            moments = {
                key.split(".")[1]: value
                for key, value in tensors.items()
                if key.startswith("optim.") and key.split(".", 2)[2] == name
            }
            if moments:
                state.optimizer.state[parameter] = {
                    k: v.clone().reshape(()) if k == "step" else v.clone()
                    for k, v in moments.items()
                }
        for name in state.ema:
            state.ema[name].copy_(tensors[f"ema.{name}"])
    state.generator.set_state(tensors["rng"])
