"""Counts the bytes of all tensors alive, as torch makes and frees them, on any device."""

import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Foreign: TypeAlias = Any
"""What torch passes to a mode, without types."""


class LiveBytes(TorchDispatchMode):
    """Follows every storage that an operation returns until it is freed.

    Memory that a kernel takes and frees inside itself is not seen.

    Args:
        resident: Tensors that are there from the start.
        device: Storages on other devices are not counted.
        note: Told of every operation that sets a new peak, for looking into one.
    """

    def __init__(
        self,
        resident: "list[Tensor] | tuple[Tensor, ...]" = (),
        device: torch.device | str = "cpu",
        note: Callable[[str, int], None] | None = None,
    ) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._device = torch.device(device)
        self._known: dict[int, weakref.ref[Any]] = {}
        self._note = note
        for tensor in resident:
            self._follow(tensor)

    def reset_peak(self) -> None:
        """Begin anew from what is alive."""
        self.peak = self.now

    def __torch_dispatch__(
        self, func: Foreign, types: Foreign, args: Foreign = (), kwargs: Foreign = None
    ) -> Foreign:
        """Carry out an operation and follow what it returns."""
        found = func(*args, **(kwargs or {}))
        before = self.peak
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._follow(leaf)
        if self._note is not None and self.peak > before:
            self._note(str(func), self.peak)
        return found

    def _follow(self, tensor: Tensor) -> None:
        if tensor.device.type != self._device.type:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._known.get(key)
        if known is not None and known() is not None:
            return
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed(_: Foreign) -> None:
            self.now -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, freed)
