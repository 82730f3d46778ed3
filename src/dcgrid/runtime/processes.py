"""Several processes that do one job, started by torchrun. Read `Processes`, then `join_processes`.

    torchrun --nproc-per-node 8 -m dcgrid train --stage fill --model wan2.2-5b

torchrun tells each process its number through the environment and ends all when one fails. Only
the first process writes files and speaks, and of those that fail only the one that failed first
says why. Without torchrun there is one process, nothing here costs anything, and torch stays out.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dcgrid.errors import AlreadyToldError, DeviceError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.distributed_c10d import Store

LONGEST_WAIT = timedelta(hours=2)
"""How long a process waits for another one. Those that end are noticed at once; this is for work
that one does alone, such as the decoding of a long clip."""
_FROM_TORCHRUN = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOST = ("Connection closed", "Connection reset", "Broken pipe", "Socket", "NCCL", "gloo")
"""Parts of what torch says when another process is gone; it has no class for all of it."""
_FAILED = "dcgrid/failed"
"""Where those that fail are counted."""


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
        """Return a small value of every process, in their order."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def tell(self, value: Any) -> Any:  # noqa: ANN401 - whatever is sent comes out
        """Return the first one's value in every process; what others bring is not looked at."""
        if self.count == 1:
            return value
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values, 0)
        return values[0]

    def sum_gradients(self, parameters: Sequence["nn.Parameter"]) -> None:
        """Add up the gradients of all processes; a parameter that no process used keeps none."""
        if self.count == 1 or not parameters:
            return
        import torch
        from torch import distributed

        with torch.no_grad():
            used = torch.tensor([float(p.grad is not None) for p in parameters])
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            flat = torch.cat([g.reshape(-1).float() for g in grads] + [used.to(grads[0].device)])
            distributed.all_reduce(flat)
            counts = flat[-len(parameters) :].tolist()
            summed = flat[: -len(parameters)].split([p.numel() for p in parameters])
            for parameter, total, times in zip(parameters, summed, counts, strict=True):
                parameter.grad = total.view_as(parameter).to(parameter.dtype) if times else None

    def send_first(self, tensors: Sequence["Tensor"]) -> None:
        """Give every process the first one's numbers, in place."""
        if self.count == 1:
            return
        from torch import distributed

        for tensor in tensors:
            distributed.broadcast(tensor, 0)

    def wait(self) -> None:
        """Wait for all processes."""
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
            missing or not numbers.
        DeviceError: There are fewer GPUs than processes; or, out of the context, another process
            has ended.
        AlreadyToldError: Out of the context: this process failed after another one.
    """
    count = _number("WORLD_SIZE", 1)
    if count <= 1:
        yield ALONE, device
        return
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore

    missing = [name for name in _FROM_TORCHRUN if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {count}, but {missing[0]} is not set",
            hint="start several processes with torchrun; for one, unset WORLD_SIZE",
        )
    rank = _number("RANK", 0)
    store = _open_store(rank, count)
    with _told_once(store):
        own = _own_device(device, count)
        distributed.init_process_group(
            "nccl" if own.startswith("cuda") else "gloo",
            store=PrefixStore("dcgrid", store),
            rank=rank,
            world_size=count,
            timeout=LONGEST_WAIT,
        )
        local = _number("LOCAL_WORLD_SIZE", count)
        yield Processes(rank=rank, count=count, local_count=local), own
        # Not after an error: it may wait for those that wait for this one, and leaving is enough.
        distributed.destroy_process_group()


def _own_device(device: str, count: int) -> str:
    """Return the device of this process, and make it torch's present one."""
    import torch

    from dcgrid.runtime.device import choose_device

    kind = choose_device(device).type
    if ":" in device or kind == "mps":
        raise UsageError(
            f"{count} processes cannot share {device}",
            hint="use --device cuda, one GPU each, or --device cpu",
        )
    if kind == "cpu":
        return "cpu"
    chosen = choose_device(f"cuda:{_number('LOCAL_RANK', 0)}")
    torch.cuda.set_device(chosen)
    return str(chosen)


def _open_store(rank: int, count: int) -> "Store":
    """Open torchrun's table of keys and values, which outlives every process of the job."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, not listed

    at_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store: Store = TCPStore(
        os.environ["MASTER_ADDR"],
        _number("MASTER_PORT", 0),
        count,
        is_master=rank == 0 and not at_torchrun,
        timeout=LONGEST_WAIT,
    )
    return store


@contextmanager
def _told_once(store: "Store") -> Iterator[None]:
    """Let only the first process that fails say why: the others fail because of it, or as it did.

    Raises:
        AlreadyToldError: This one is not the first.
        DeviceError: It is, and what failed is that another process has gone.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        failures = 1
        with suppress(RuntimeError):  # the table is gone, too, and with it whoever kept it
            failures = store.add(_FAILED, 1)
        if failures > 1:
            interrupted = isinstance(error, KeyboardInterrupt)
            raise AlreadyToldError(
                130 if interrupted else getattr(error, "exit_code", 1)
            ) from error
        if isinstance(error, RuntimeError) and any(part in str(error) for part in _LOST):
            raise DeviceError(
                "another process of this job has ended, and with it the job",
                hint="torchrun names it below; a training run goes on with --resume, on any number "
                "of processes",
            ) from error
        raise


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}, not a number", hint="start it with torchrun")
    return int(text)
