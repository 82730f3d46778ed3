"""Weights that stand on the host and visit the device. Read `BlockRing`, then residence.py.

The weights are frozen, so they only ever travel from host to device: a visit is one copy of a flat
buffer, and going home is pointing the parameters back at it. There are no hooks: a forward asks
for its blocks (`for block in ring.run()`), a model says which part it needs
(`residence.on("vae")`).

    compute stream   |  block 0  |  block 1  |  block 2  |
    copy stream      0 | copy 1 |  | copy 2 |  | copy 0 |        two device buffers in turn

What is not packed (adapters, put on before or after) is small: it moves to the device and stays.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from dcgrid.errors import UsageError

Offload = Literal["none", "model", "block", "disk"]
"""none: all on the device. model: one network at a time. block: of the transformer two blocks at a
time. disk: as block, read from the weight files each time."""
ALIGNMENT = 256
"""Bytes; tensors begin at multiples, as CUDA's kernels like them."""


def check_offload(name: str) -> Offload:
    """Return the mode that a name means ("auto" is decided before, by a planner).

    Raises:
        UsageError: There is no such mode.
    """
    for known in get_args(Offload):
        if name == known:
            return known  # type: ignore[no-any-return]  # get_args is not typed
    raise UsageError(
        f"unknown offload {name!r}", hint="use none, model, block, disk or auto (--offload)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where tensors stand in one flat buffer."""

    starts: tuple[int, ...]
    """First byte of each."""
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    size: int
    """Bytes of the buffer."""

    @staticmethod
    def of(tensors: Sequence[Tensor]) -> "Layout":
        """Lay tensors out one behind the other."""
        starts, size = [], 0
        for tensor in tensors:
            starts.append(size)
            size += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
        return Layout(
            starts=tuple(starts),
            shapes=tuple(t.shape for t in tensors),
            dtypes=tuple(t.dtype for t in tensors),
            size=size,
        )

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return the tensors of a flat uint8 buffer."""
        found = []
        for start, shape, dtype in zip(self.starts, self.shapes, self.dtypes, strict=True):
            stop = start + shape.numel() * dtype.itemsize
            found.append(flat[start:stop].view(dtype).view(shape))
        return found


class Host(Protocol):
    """The home of the frozen tensors of one module."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The parameters and buffers, in the order of the layout."""

    @property
    def layout(self) -> Layout:
        """How they stand in a flat buffer."""

    def copy_to(self, flat: Tensor) -> None:
        """Copy all numbers into a flat buffer on a device, on the current stream."""

    def go_home(self) -> None:
        """Point the tensors at the host again."""


class InMemory:
    """Tensors packed into one flat host buffer; made from where they are now, which is freed.

    Args:
        tensors: Parameters and buffers, changed to be views of the buffer.
        pin: True: page-locked, so that copies run beside compute.
    """

    def __init__(self, tensors: Sequence[Tensor], *, pin: bool) -> None:
        self.tensors = tuple(tensors)
        self.layout = Layout.of(self.tensors)
        with torch.inference_mode(False), torch.no_grad():
            self._flat = torch.empty(self.layout.size, dtype=torch.uint8, pin_memory=pin)
            self._home = self.layout.views(self._flat)
            for home, tensor in zip(self._home, self.tensors, strict=True):
                home.copy_(tensor.data)
                # At once: a network of which there is room for one would else stand there twice.
                tensor.data = home

    def copy_to(self, flat: Tensor) -> None:
        """See `Host`."""
        flat.copy_(self._flat, non_blocking=True)

    def go_home(self) -> None:
        """See `Host`."""
        point(self.tensors, self._home)

    def keep_changes(self, marks: Sequence[int]) -> None:
        """Bring home what was written into a visiting tensor, as folding an adapter in does.

        Args:
            marks: `versions` of the tensors when they arrived.
        """
        for tensor, home, mark, now in zip(
            self.tensors, self._home, marks, versions(self.tensors), strict=True
        ):
            if mark != now:
                home.copy_(tensor.data)


class Staging:
    """One pinned host buffer that weights pass through on their way from disk to a device."""

    def __init__(self, size: int, *, pin: bool) -> None:
        with torch.inference_mode(False):
            self.flat = torch.empty(size, dtype=torch.uint8, pin_memory=pin)
        self._sent: torch.cuda.Event | None = None

    def send(self, layout: Layout, read: Callable[[], Iterable[Tensor]], flat: Tensor) -> None:
        """Read tensors and copy them to a flat device buffer, once the last ones have left."""
        if self._sent is not None:
            self._sent.synchronize()
        part = self.flat[: layout.size]
        for view, tensor in zip(layout.views(part), read(), strict=True):
            view.copy_(tensor)
        flat.copy_(part, non_blocking=True)
        if flat.device.type == "cuda":
            self._sent = torch.cuda.Event()
            self._sent.record()


class OnDisk:
    """Tensors whose numbers are in files and in no memory while they are at home.

    Args:
        tensors: Parameters and buffers of the requested shapes and dtypes; they lose their numbers.
        read: Yields the numbers of each in turn, any dtype; called at every visit.
        staging: What they pass through; None: straight to the device, tensor by tensor.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        read: Callable[[], Iterable[Tensor]],
        staging: Staging | None = None,
    ) -> None:
        self.tensors = tuple(tensors)
        self.layout = Layout.of(self.tensors)
        self._read, self._staging = read, staging
        # One number seen from everywhere: it has shape, dtype and device and takes no memory, and
        # writing to it, as folding an adapter in would, is an error of torch.
        with torch.inference_mode(False):
            self._home = [torch.zeros((), dtype=t.dtype).expand(t.shape) for t in self.tensors]
        self.go_home()

    def copy_to(self, flat: Tensor) -> None:
        """See `Host`."""
        if self._staging is not None:
            self._staging.send(self.layout, self._read, flat)
            return
        for view, tensor in zip(self.layout.views(flat), self._read(), strict=True):
            view.copy_(tensor)

    def go_home(self) -> None:
        """See `Host`."""
        point(self.tensors, self._home)


def point(tensors: Sequence[Tensor], places: Sequence[Tensor]) -> None:
    """Let tensors have their numbers elsewhere; who holds the tensors notices nothing."""
    for tensor, place in zip(tensors, places, strict=True):
        tensor.data = place


def versions(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Return a number for each tensor that grows when it is written to."""
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors)


def bring_along(module: nn.Module, packed: frozenset[int], device: torch.device) -> None:
    """Move what a module has beside its packed tensors (by id) to the device; it stays there."""
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in packed and tensor.device != device:
            tensor.data = tensor.data.to(device)


class BlockRing:
    """Blocks of equal layout that take turns in two device buffers.

    For inference only: a backward would find other weights in the buffers.

    Args:
        blocks: The blocks, in the order of the forward.
        hosts: The home of each block's frozen tensors.
        device: Where they are used.

    Raises:
        ValueError: There is no block, or the blocks differ in layout.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], hosts: Sequence[Host], device: torch.device
    ) -> None:
        if not blocks or len(blocks) != len(hosts):
            raise ValueError(f"{len(blocks)} blocks have {len(hosts)} homes")
        self._layout = hosts[0].layout
        for number, host in enumerate(hosts):
            if host.layout != self._layout:
                raise ValueError(f"block {number} is laid out otherwise than block 0")
        self._blocks, self._hosts, self._device = tuple(blocks), tuple(hosts), device
        self._packed = [frozenset(map(id, host.tensors)) for host in hosts]
        self._slots: tuple[_Slot, _Slot] | None = None
        self._turn = 0
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def enter(self) -> None:
        """Make the two buffers."""
        if self._slots is None:
            first, second = (_Slot(self._layout, self._device, self._copies) for _ in range(2))
            self._slots = (first, second)

    def leave(self) -> None:
        """Free the two buffers."""
        self._slots = None

    def run(self) -> Iterator[nn.Module]:
        """Yield each block in turn, its weights on the device until the next is asked for.

        While a block is used the next one is copied; after the last, the first of the next run.
        """
        self.enter()
        for number, block in enumerate(self._blocks):
            slot = self._fetch(number)
            self._turn += 1
            self._fetch((number + 1) % len(self._blocks))
            bring_along(block, self._packed[number], self._device)
            host = self._hosts[number]
            slot.await_copy()
            point(host.tensors, slot.views)
            try:
                yield block
            finally:
                # Also where the forward failed half-way: the weights are never left in a buffer.
                host.go_home()
                slot.release()

    def _fetch(self, number: int) -> "_Slot":
        """Return the buffer of this turn, with a block in it or on its way."""
        if self._slots is None:
            raise ValueError("the ring's buffers were freed in the middle of a run")
        slot = self._slots[self._turn % 2]
        slot.fetch(number, self._hosts[number])
        return slot


class _Slot:
    """One device buffer of a ring, and what tells when it may be read and when overwritten."""

    def __init__(
        self, layout: Layout, device: torch.device, copies: "torch.cuda.Stream | None"
    ) -> None:
        with torch.inference_mode(False):
            self._flat = torch.empty(layout.size, dtype=torch.uint8, device=device)
            self.views = layout.views(self._flat)
        self._copies, self._device = copies, device
        self._holds: tuple[int, tuple[int, ...]] | None = None
        if copies is not None:
            self._copied, self._free = torch.cuda.Event(), torch.cuda.Event()
            # The allocator may give memory that queued kernels still use: on this stream only.
            self._free.record(torch.cuda.current_stream(device))
            # When the buffer is freed, a copy may be on its way.
            self._flat.record_stream(copies)

    def fetch(self, number: int, host: Host) -> None:
        """Start copying a block into the buffer, unless it is there as it is at home."""
        held = (number, versions(host.tensors))
        if self._holds == held:
            return
        self._holds = held
        with torch.inference_mode(False), torch.no_grad():
            if self._copies is None:
                host.copy_to(self._flat)
                return
            self._copies.wait_event(self._free)
            with torch.cuda.stream(self._copies):
                host.copy_to(self._flat)
                self._copied.record(self._copies)

    def await_copy(self) -> None:
        """Let compute queued from now on wait for the copy."""
        if self._copies is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(self._copied)
            self._flat.record_stream(stream)

    def release(self) -> None:
        """Let copies into the buffer wait for the compute queued so far."""
        if self._copies is not None:
            self._free.record(torch.cuda.current_stream(self._device))
