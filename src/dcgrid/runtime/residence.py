"""Parts of a model that are on the device one at a time. Read `Residence`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

from dcgrid.runtime.offload import Host, InMemory, bring_along, point, versions


class Stage(Protocol):
    """Something that can be on the device or at home."""

    def enter(self) -> None:
        """Come to the device."""

    def leave(self) -> None:
        """Go home and free the device's memory."""


class Whole:
    """A module, or what of it is packed, that visits the device as a whole.

    Args:
        module: What is brought along with it is looked for here.
        host: Its frozen tensors.
        device: Where it goes.
        apart: Tensors that are another stage's, by id.
    """

    def __init__(
        self,
        module: nn.Module,
        host: Host,
        device: torch.device,
        apart: frozenset[int] = frozenset(),
    ) -> None:
        self._module, self._host, self._device = module, host, device
        self._packed = apart | frozenset(map(id, host.tensors))
        self._marks: tuple[int, ...] = ()

    def enter(self) -> None:
        """See `Stage`."""
        with torch.inference_mode(False), torch.no_grad():
            flat = torch.empty(self._host.layout.size, dtype=torch.uint8, device=self._device)
            self._host.copy_to(flat)
            point(self._host.tensors, self._host.layout.views(flat))
        bring_along(self._module, self._packed, self._device)
        self._marks = versions(self._host.tensors)

    def leave(self) -> None:
        """See `Stage`."""
        if isinstance(self._host, InMemory) and self._marks:
            self._host.keep_changes(self._marks)
        self._marks = ()
        self._host.go_home()


class Residence:
    """Keeps at most one of several named parts on the device.

    A part stays until another is asked for, so that a sampling of many calls moves it once.

    Args:
        parts: What each is made of; a name that is not among them is on the device for good.
    """

    def __init__(self, parts: Mapping[str, Sequence[Stage]] | None = None) -> None:
        self._parts = dict(parts or {})
        self._here: str | None = None
        self._used: str | None = None

    @property
    def here(self) -> str | None:
        """Name of the part that is on the device now."""
        return self._here

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Have a part on the device, and no other.

        Raises:
            ValueError: Another one is in use, further up.
        """
        if name not in self._parts:
            yield
            return
        if self._used not in (None, name):
            raise ValueError(f"{name} is asked for while {self._used} is in use")
        outer, self._used = self._used, name
        try:
            self._move_in(name)
            yield
        finally:
            self._used = outer

    def clear(self) -> None:
        """Send home what is on the device."""
        if self._here is not None:
            gone, self._here = self._here, None
            for stage in self._parts[gone]:
                stage.leave()

    def _move_in(self, name: str) -> None:
        if self._here == name:
            return
        self.clear()
        self._here = name
        try:
            for stage in self._parts[name]:
                stage.enter()
        except BaseException:
            # The device was too small: half a part there would hold up the next try.
            self.clear()
            raise
