"""Several processes that do one job, started by torchrun. Read `Processes`, then `join_processes`.

    torchrun --nproc-per-node 8 -m dcgrid train --stage fill --model wan2.2-5b

torchrun tells each process its number through the environment and ends all when one fails. Only
the first process writes files and speaks. Without torchrun there is one process, and nothing here
costs anything.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from dcgrid.errors import DeviceError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The processes of a job, seen from one of them."""

    rank: int = 0
    """Number of this one, from 0."""
    count: int = 1
    """How many there are."""
    local_count: int = 1
    """How many of them are on this machine."""

    @property
    def is_first(self) -> bool:
        """True: this one writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return which of `count` pieces of work are this one's: every `self.count`-th."""
        return range(self.rank, count, self.count)

    def any(self, flag: bool) -> bool:
        """Return True if the flag is set in any process."""
        return flag if self.count == 1 else any(self.gather(flag))

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401 - whatever is sent comes back
        """Return a small value of every process, in their order.

        Raises:
            DeviceError: Another process has ended.
        """
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _told():
            distributed.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Add up the gradients of all processes; a parameter that no process used keeps none.

        Raises:
            DeviceError: Another process has ended.
        """
        if self.count == 1 or not parameters:
            return
        used = torch.tensor([float(p.grad is not None) for p in parameters])
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.reshape(-1).float() for g in grads] + [used.to(grads[0].device)])
        with _told():
            distributed.all_reduce(flat)
        counts = flat[-len(parameters) :].tolist()
        summed = flat[: -len(parameters)].split([p.numel() for p in parameters])
        for parameter, total, times in zip(parameters, summed, counts, strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype) if times else None

    @torch.no_grad()
    def send_first(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's numbers, in place.

        Raises:
            DeviceError: Another process has ended.
        """
        if self.count == 1:
            return
        with _told():
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def wait(self) -> None:
        """Wait for all processes.

        Raises:
            DeviceError: Another process has ended.
        """
        if self.count > 1:
            self.gather(None)


ALONE = Processes()


@contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, str]]:
    """Join the processes that torchrun started, for as long as the context lasts.

    Args:
        device: auto, cpu, cuda or cuda:N; each process takes the GPU of its number on its machine.

    Yields:
        The processes, and the device of this one.

    Raises:
        UsageError: A device is named that all processes would share, or torchrun's variables are
            not numbers.
    """
    count = _number("WORLD_SIZE", 1)
    if count == 1:
        yield ALONE, device
        return
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if ":" in device:
        raise UsageError(
            f"{count} processes cannot share {device}", hint="use --device cuda: one GPU each"
        )
    local = _number("LOCAL_RANK", 0)
    if on_gpu:
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield (
            Processes(
                rank=distributed.get_rank(),
                count=distributed.get_world_size(),
                local_count=_number("LOCAL_WORLD_SIZE", count),
            ),
            f"cuda:{local}" if on_gpu else "cpu",
        )
    finally:
        distributed.destroy_process_group()


@contextmanager
def _told() -> Iterator[None]:
    """Say in a sentence that another process has ended; its own message says why."""
    try:
        yield
    except RuntimeError as error:
        raise DeviceError(
            "another process of this job has ended",
            hint="its own message says why; a training run goes on with --resume, on any number "
            "of processes",
        ) from error


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}, not a number", hint="start it with torchrun")
    return int(text)
