"""Training state on disk: weights, averaged weights, optimiser moments, random state, step.

One safetensors file a checkpoint, written under another name and renamed, so that a kill at any
moment leaves the last good one. No pickle is written or read. Weights that processes hold in pieces
are gathered into the same file, one tensor at a time, so any number of processes goes on from it.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dcgrid.errors import WeightsError
from dcgrid.io.atomic import whole_file
from dcgrid.train.scale import gathered, own, put

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

    @property
    def averaged(self) -> dict[str, torch.Tensor]:
        """The averaged weights, or the last ones where no average is kept."""
        return self.ema or {n: p.detach() for n, p in self.parameters.items()}

    @torch.no_grad()
    def take_averaged(self) -> None:
        """Put the averaged weights in place of the trained ones; without an average these stay."""
        for name, average in self.ema.items():
            self.parameters[name].copy_(average)


def save_state(
    folder: Path, state: TrainState, facts: Mapping[str, str], *, writes: bool = True
) -> None:
    """Write the state to `folder/state.safetensors`, all or nothing.

    Args:
        folder: The run's folder.
        state: What to write.
        facts: What the file says of the run.
        writes: False: another process writes; this one sends its pieces of what is in pieces.

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
    metadata = {
        "step": str(state.step),
        "facts": json.dumps(dict(facts)),
        "pending": json.dumps(state.pending),
    }
    if not writes:
        write_tensors(None, tensors, metadata)
        return
    path = folder / STATE_NAME
    with whole_file(path, hint=full_disk_hint(folder)) as part:
        write_tensors(part, tensors, metadata)


def full_disk_hint(folder: Path) -> str:
    """Return what to try where a file of a run cannot be written."""
    if (folder / STATE_NAME).exists():
        return "the last checkpoint is whole; free some space, then run again with --resume"
    return "free some space, then run again"


def load_state(path: Path, state: TrainState) -> None:
    """Fill `state` from a checkpoint.

    Nothing of `state` is changed if the checkpoint does not fit.

    Raises:
        WeightsError: The file is missing or of another model.
        DamagedCheckpoint: It is damaged.
    """
    with _opened(path) as file:
        metadata: Mapping[str, str] = file.metadata()
        stored = _Stored(file)
        _check(path, state, stored)
        step, pending = _step(metadata), _pending(metadata)
        _facts(metadata)
        _fill(state, stored)
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


class _Stored(Mapping[str, torch.Tensor]):
    """The tensors of an open file, each read when it is looked at and not kept."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401 - safetensors has no type for it
        self._file, self._names = file, tuple(file.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


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
    for name in tensors:
        if not name.startswith("optim."):
            continue
        _, key, owner = name.split(".", 2) if name.count(".") > 1 else ("", "", "")
        if owner not in state.parameters:
            raise _damaged(path, f"{name} belongs to no parameter")
        if key != "step":
            expected[name] = state.parameters[owner]
        elif tensors[name].numel() != 1:
            raise _damaged(path, f"{name} is not one number")
    for name, like in expected.items():
        tensor = tensors[name]
        if tensor.shape != like.shape:
            raise _damaged(path, f"{name} has shape {tuple(tensor.shape)}")
        if not tensor.isfinite().all():
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
    state.recall({n.removeprefix("data."): tensors[n] for n in tensors if n.startswith("data.")})
    state.generator.set_state(tensors["rng"])
    for name, parameter in state.parameters.items():
        put(parameter, tensors[f"model.{name}"])
    for name, average in state.ema.items():
        put(average, tensors[f"ema.{name}"])
    moments: dict[str, dict[str, Any]] = {}
    for full_name in tensors:
        if full_name.startswith("optim."):
            _, key, name = full_name.split(".", 2)
            like = state.parameters[name]
            moments.setdefault(name, {})[key] = _moment(key, tensors[full_name], like)
    for name, values in moments.items():
        state.optimizer.state[state.parameters[name]] = values


def _moment(key: str, tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a number of steps, or a moment that lies as its parameter does.

    The fused optimiser walks memory, and a parameter may be channels last or in pieces, while files
    hold whole tensors in plain rows.
    """
    if key == "step":
        return tensor.to(own(like).device, copy=True).reshape(())
    laid_out = torch.zeros_like(like)
    put(laid_out, tensor.reshape(like.shape))
    return laid_out.detach()


def _damaged(path: Path, why: object) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"checkpoint {path} is damaged: {why}",
        hint="run again without --resume to begin anew, or put back a copy of the file",
    )


_TYPES: Mapping[torch.dtype, str] = MappingProxyType(
    {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.bfloat16: "BF16",
        torch.float16: "F16",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
)


def write_tensors(
    path: Path | None, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors to a safetensors file.

    Args:
        path: The file; an earlier one is replaced. None: another process writes, and this one
            gathers with it.
        tensors: By name; of those in pieces all processes call this with the same ones.
        metadata: Texts by name.

    Raises:
        OSError: The file cannot be written.
    """
    # Wide numbers first, so that each tensor begins at a multiple of its number's size.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    if path is None:
        for name in order:
            gathered(tensors[name])
        return
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.itemsize
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in order:
            whole = gathered(tensors[name]).detach().cpu().contiguous()
            file.write(whole.reshape(-1).view(torch.uint8).numpy().data)
