"""Several processes that compute calls of Wan models together. Read `Group`.

    first     reads, draws noise, samples, decodes, writes       a call of the network: all of them
    others    load the model, then serve calls                        text      other text
                                                              2      0          1
                                                              4      0 1        2 3

Noise, given clips and files are the first one's alone, so nothing can differ between processes. A
call under two texts is dealt by text where the processes are even in number, and the tokens of each
are dealt to those that share it (parallel.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from dcgrid.errors import UsageError
from dcgrid.models.base import CellText, Memory, TokenPlaces
from dcgrid.models.wan.parallel import TokenSplit
from dcgrid.runtime.processes import Processes

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from dcgrid.models.wan.backbone import WanBackbone


def divide(processes: int, texts: int) -> tuple[int, int]:
    """Return in how many branches processes compute so many texts, and how many share a branch."""
    branches = 2 if texts == 2 and processes % 2 == 0 else 1
    return branches, processes // branches


def check_heads(heads: int, texts: int, processes: int) -> None:
    """Check that heads of attention can be dealt to the processes that share a text.

    Raises:
        UsageError: They do not come out even.
    """

    def fits(count: int) -> bool:
        return heads % divide(count, texts)[1] == 0

    if not fits(processes):
        most = next(count for count in range(processes, 0, -1) if fits(count))
        raise UsageError(
            f"{heads} heads of attention cannot be dealt evenly to "
            f"{divide(processes, texts)[1]} processes",
            hint=f"use --nproc-per-node {most}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _UseGiven:
    """Order to treat given cells in another way."""

    model: int
    clean: bool
    first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Predict:
    """Order to take part in a call; cells BKCFYX and times BKF follow."""

    model: int
    places: TokenPlaces | None
    """Of a sampling that begins; None: the one before goes on."""
    fresh: tuple[CellText, ...]
    """Texts that come up for the first time in the sampling, numbered as they come."""
    texts: tuple[int, ...]
    """Numbers of the texts to read, one or two."""
    shape: tuple[int, ...]
    """Of the cells."""
    dtype: torch.dtype
    """Of the cells; times are float32."""


class Group:
    """The processes, seen from one of them: its models, and the sampling that goes on."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._models: list[WanBackbone] = []
        self._memory: Memory | None = None
        self._kept: dict[int, Memory] = {}
        self._places: TokenPlaces | None = None
        self._texts: list[CellText] = []
        self._in_call = False
        self._groups = _groups(processes)

    def join(self, backbone: "WanBackbone") -> None:
        """Let a model be computed together; models are numbered as they come, in every process."""
        self._models.append(backbone)
        backbone.compute_in(self, len(self._models) - 1)

    def use_given(self, model: int, *, clean: bool, first: bool) -> None:
        """Let the others treat given cells as the first process does."""
        if self.processes.is_first:
            self.processes.tell(_UseGiven(model=model, clean=clean, first=first))

    def velocities(
        self,
        model: int,
        cells_BKCFYX: Tensor,
        time_BKF: Tensor,
        texts: Sequence[CellText],
        places: TokenPlaces,
        memory: Memory | None,
    ) -> list[Tensor]:
        """Predict dx/dt of every cell under one text or two, for the first process."""
        cpu = torch.device("cpu")
        begins = memory is None or memory is not self._memory
        if begins:
            self._begin(places, memory)
        fresh = [text for text in texts if not any(text is known for known in self._texts)]
        self._texts.extend(fresh)
        numbers = [next(n for n, one in enumerate(self._texts) if one is text) for text in texts]
        order = _Predict(
            model=model,
            places=places.to(cpu) if begins else None,
            fresh=tuple(text.to(cpu) for text in fresh),
            texts=tuple(numbers),
            shape=tuple(cells_BKCFYX.shape),
            dtype=cells_BKCFYX.dtype,
        )
        cells_BKCFYX, time_BKF = cells_BKCFYX.contiguous(), time_BKF.float().contiguous()
        self._in_call = True
        self.processes.tell(order)
        self.processes.send_first([cells_BKCFYX, time_BKF])
        found = self._compute(order, cells_BKCFYX, time_BKF)
        self._in_call = False
        return found

    def dismiss(self) -> None:
        """Let the others go; nothing where they wait for this one in the middle of a call."""
        if not self._in_call:
            self.processes.tell(None)

    @torch.inference_mode()
    def serve(self, device: torch.device) -> Any:  # noqa: ANN401 - whatever the first one tells
        """Take part in calls until the first process tells of something else; return that."""
        while True:
            match order := self.processes.tell(None):
                case _UseGiven():
                    self._models[order.model].use_given(clean=order.clean, first=order.first)
                case _Predict():
                    self._take_part(order, device)
                case _:
                    return order

    def leave(self) -> None:
        """Let go of torch's groups: it must not find them alive when the process ends."""
        self._groups.clear()

    def _take_part(self, order: _Predict, device: torch.device) -> None:
        if order.places is not None:
            self._begin(order.places.to(device), Memory())
        self._texts.extend(text.to(device) for text in order.fresh)
        batch, cells, _, frames, *_ = order.shape
        cells_BKCFYX = torch.empty(order.shape, dtype=order.dtype, device=device)
        time_BKF = torch.empty(batch, cells, frames, device=device)
        self.processes.send_first([cells_BKCFYX, time_BKF])
        self._compute(order, cells_BKCFYX, time_BKF)

    def _begin(self, places: TokenPlaces, memory: Memory | None) -> None:
        """Begin a sampling; what was kept of the one before goes."""
        # What is kept is each process's own: the first one's memory only tells samplings apart.
        self._places, self._memory = places, memory
        self._kept.clear()
        self._texts.clear()

    def _compute(self, order: _Predict, cells_BKCFYX: Tensor, time_BKF: Tensor) -> list[Tensor]:
        """Do this process's part of a call; the first one returns the velocity of every text."""
        backbone, rank = self._models[order.model], self.processes.rank
        branches, sharing = divide(self.processes.count, len(order.texts))
        check_heads(backbone.heads, len(order.texts), self.processes.count)
        mine = order.texts[rank // sharing :][:1] if branches == 2 else order.texts
        split = None
        if sharing > 1:
            split = TokenSplit(group=self._groups[sharing], rank=rank % sharing, count=sharing)
        if self._places is None:
            raise ValueError("a call comes before any sampling has begun")
        # Guidance may end on the way: more processes share a text then, each with fewer heads.
        kept = self._kept.setdefault(sharing, Memory())
        found = [
            backbone.predict(
                cells_BKCFYX, time_BKF, self._texts[text], self._places, memory=kept, split=split
            )
            for text in mine
        ]
        if branches == 2 and rank == sharing:
            distributed.send(found[0].contiguous(), 0)
        elif branches == 2 and rank == 0:
            found.append(torch.empty_like(found[0]))
            distributed.recv(found[1], sharing)
        return found


def _groups(processes: Processes) -> dict[int, "ProcessGroup"]:
    """Return the processes that may share a call with this one, by their number."""
    count, half = processes.count, processes.count // 2
    world = distributed.group.WORLD
    if world is None:
        raise ValueError("the processes have not been joined")
    found = {count: world}
    if count % 2 == 0 and half > 1:
        # Every process takes part in the making of both.
        both = [distributed.new_group(list(range(n * half, (n + 1) * half))) for n in range(2)]
        found[half] = both[processes.rank // half]
    return found
