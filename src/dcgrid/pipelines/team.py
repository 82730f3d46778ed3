"""Several processes that generate one grid: the first leads, the others follow. Read `Team`.

    first     reads, draws noise, samples, decodes, writes       a call of the network: all of them
    others    load the model, then wait for calls                     text      other text
                                                              2      0          1
                                                              4      0 1        2 3

Noise, given clips and files are the first one's alone, so nothing can differ between processes. A
call under two texts is dealt by text where the processes are even in number, and the tokens of each
are dealt to those that share it (models/wan/parallel.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, distributed

from dcgrid import hub
from dcgrid.adapters.spec import Stage
from dcgrid.errors import DcgridError, UsageError
from dcgrid.grid.routing import Mode
from dcgrid.io.progress import NullProgress, Progress
from dcgrid.models.base import CellText, Memory, ModelSpec, TokenPlaces
from dcgrid.models.model import Model
from dcgrid.models.registry import find_model
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.loading import LoadedModel, load_model
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.runtime.processes import ALONE, Processes

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from dcgrid.models.wan.backbone import WanBackbone


def check_team(model: Model, grids: Iterable[ResolvedGrid], processes: Processes) -> str:
    """Check that several processes can generate grids together, before anything is loaded.

    Args:
        model: The model.
        grids: What is generated, sampler values settled.
        processes: Those of the job.

    Returns:
        What each of them does, a sentence; empty for one process.

    Raises:
        UsageError: The model runs in one process, or its heads do not come out even.
    """
    if processes.count == 1:
        return ""
    if model.sizes is None:
        raise UsageError(
            f"{model.name} generates in one process, not in {processes.count}",
            hint="start it without torchrun; Wan models take several",
        )
    heads = int(model.sizes.transformer["num_attention_heads"])
    texts = [1 + any(edit.guidance_scale != 1 for edit in grid.edits) for grid in grids]
    for count in texts:
        _check_heads(heads, count, processes)
    branches = divide(processes.count, max(texts))[0]
    work = "half for each of two texts" if branches == 2 else "each with a part of the tokens"
    return f"Processes: {processes.count}, {work}."


def divide(processes: int, texts: int) -> tuple[int, int]:
    """Return in how many branches processes compute so many texts, and how many share a branch."""
    branches = 2 if texts == 2 and processes % 2 == 0 else 1
    return branches, processes // branches


def _check_heads(heads: int, texts: int, processes: Processes) -> None:
    def fits(count: int) -> bool:
        return heads % divide(count, texts)[1] == 0

    if not fits(processes.count):
        most = next(count for count in range(processes.count, 0, -1) if fits(count))
        raise UsageError(
            f"{heads} heads of attention cannot be dealt evenly to "
            f"{divide(processes.count, texts)[1]} processes",
            hint=f"use --nproc-per-node {most}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """Order to load a model; models are numbered as they come."""

    job: GridJob
    mode: Mode
    dtype: torch.dtype
    offload: str
    threads: int
    """CPU threads of the first one: pixels may depend on them."""
    stage: Stage
    """Which stage's adapter fills the grid."""


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


_Order = _Load | _UseGiven | _Predict | None


class _Member:
    """One process: its models, and the sampling that goes on."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.models: list[WanBackbone] = []
        self.memory: Memory | None = None
        self.kept: dict[int, Memory] = {}
        self.places: TokenPlaces | None = None
        self.texts: list[CellText] = []
        self.in_call = False
        self._groups = _groups(processes)

    def load(
        self, order: _Load, found: Model, device: torch.device, progress: Progress
    ) -> LoadedModel:
        model = load_model(
            order.job,
            found,
            order.mode,
            device,
            order.dtype,
            progress,
            order.offload,
            stage=order.stage,
        )
        self.models.append(cast("WanBackbone", model.backbone))
        return model

    def leave(self) -> None:
        """Let go of the groups: torch must not find them alive when the process ends."""
        self._groups.clear()

    def begin(self, places: TokenPlaces, memory: Memory | None) -> None:
        """Begin a sampling; what was kept of the one before goes."""
        # What is kept is each process's own: the first one's memory only tells samplings apart.
        self.places, self.memory = places, memory
        self.kept.clear()
        self.texts.clear()

    def compute(self, order: _Predict, cells_BKCFYX: Tensor, time_BKF: Tensor) -> list[Tensor]:
        """Do this process's part of a call; the first one returns the velocity of every text."""
        backbone, rank = self.models[order.model], self.processes.rank
        branches, sharing = divide(self.processes.count, len(order.texts))
        _check_heads(backbone.heads, len(order.texts), self.processes)
        mine = order.texts[rank // sharing :][:1] if branches == 2 else order.texts
        split = None
        if sharing > 1:
            from dcgrid.models.wan.parallel import TokenSplit

            group = self._groups[sharing]
            split = TokenSplit(group=group, rank=rank % sharing, count=sharing)
        # Guidance may end on the way: more processes share a text then, each with fewer heads.
        kept = self.kept.setdefault(sharing, Memory())
        found = [
            backbone.velocity(
                cells_BKCFYX,
                time_BKF,
                self.texts[text],
                self._known_places(),
                memory=kept,
                split=split,
            )
            for text in mine
        ]
        if branches == 2 and rank == sharing:
            distributed.send(found[0].contiguous(), 0)
        elif branches == 2 and rank == 0:
            found.append(torch.empty_like(found[0]))
            distributed.recv(found[1], sharing)
        return found

    def _known_places(self) -> TokenPlaces:
        if self.places is None:
            raise ValueError("a call comes before any sampling has begun")
        return self.places


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


class LedBackbone:
    """A model that several processes compute together, for the first of them.

    As `models.base.Backbone`, and it knows calls under two texts at once.
    """

    def __init__(self, member: _Member, number: int) -> None:
        self._member, self._number = member, number
        self._own = member.models[number]
        self.network, self.device = self._own.network, self._own.device
        self.encode, self.decode = self._own.encode, self._own.decode
        self.encode_text = self._own.encode_text
        self.folds = self._own.folds
        self.use_tags = self._own.use_tags

    @property
    def spec(self) -> ModelSpec:
        """Facts about the model; together no process leaves out blocks."""
        return replace(self._own.spec, leaves_out_blocks=False)

    @property
    def attention(self) -> str:
        """The kernel that attends in the first process."""
        return self._own.attention

    @property
    def notes(self) -> tuple[str, ...]:
        """What the first process found out."""
        return self._own.notes

    def use_given(self, *, clean: bool, first: bool) -> None:
        """Treat given cells as the adapter was trained with, in every process."""
        self._member.processes.tell(_UseGiven(model=self._number, clean=clean, first=first))
        self._own.use_given(clean=clean, first=first)

    def use_sampling(
        self, *, noise_scale: float, time_shift: float, self_conditioning: bool
    ) -> None:
        """Let samplers take the numbers of the adapter that was put on; they run here alone."""
        self._own.use_sampling(
            noise_scale=noise_scale, time_shift=time_shift, self_conditioning=self_conditioning
        )

    def velocity(
        self,
        cells_BKCFYX: Tensor,
        time_BKF: Tensor,
        text: CellText,
        places: TokenPlaces,
        route_KA: Tensor | None = None,
        memory: Memory | None = None,
        estimate_BKCFYX: Tensor | None = None,
    ) -> Tensor:
        """Predict dx/dt of every cell, shape BKCFYX.

        Raises:
            ValueError: There is a route, which no filled grid has, or an estimate.
        """
        if route_KA is not None or estimate_BKCFYX is not None:
            raise ValueError("processes that generate together know no routes and no estimates")
        return self.velocities(cells_BKCFYX, time_BKF, [text], places, memory)[0]

    def velocities(
        self,
        cells_BKCFYX: Tensor,
        time_BKF: Tensor,
        texts: Sequence[CellText],
        places: TokenPlaces,
        memory: Memory | None = None,
        estimates: Sequence[Tensor | None] = (),
    ) -> list[Tensor]:
        """Predict dx/dt of every cell under one text or two; there are no estimates."""
        del estimates
        member = self._member
        begins = memory is None or memory is not member.memory
        if begins:
            member.begin(places, memory)
        fresh = [text for text in texts if not any(text is known for known in member.texts)]
        member.texts.extend(fresh)
        numbers = [next(n for n, one in enumerate(member.texts) if one is text) for text in texts]
        order = _Predict(
            model=self._number,
            places=places.to(torch.device("cpu")) if begins else None,
            fresh=tuple(text.to(torch.device("cpu")) for text in fresh),
            texts=tuple(numbers),
            shape=tuple(cells_BKCFYX.shape),
            dtype=cells_BKCFYX.dtype,
        )
        cells_BKCFYX, time_BKF = cells_BKCFYX.contiguous(), time_BKF.float().contiguous()
        member.in_call = True
        member.processes.tell(order)
        member.processes.send_first([cells_BKCFYX, time_BKF])
        found = member.compute(order, cells_BKCFYX, time_BKF)
        member.in_call = False
        return found


class Team:
    """The processes that carry out a job, for the first of them; one process is a team, too."""

    def __init__(self, processes: Processes = ALONE) -> None:
        self.processes = processes
        self._member = _Member(processes) if processes.count > 1 else None

    def load_model(
        self,
        job: GridJob,
        model: Model,
        mode: Mode,
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
        offload: str = "none",
        *,
        stage: Stage = "fill",
    ) -> LoadedModel:
        """Load a model in every process; see `pipelines.loading.load_model`."""
        if self._member is None:
            return load_model(job, model, mode, device, dtype, progress, offload, stage=stage)
        order = _Load(
            job=job,
            mode=mode,
            dtype=dtype,
            offload=offload,
            threads=torch.get_num_threads(),
            stage=stage,
        )
        self.processes.tell(order)
        loaded = self._member.load(order, model, device, progress)
        led = LedBackbone(self._member, len(self._member.models) - 1)
        return replace(loaded, backbone=led, processes=self.processes.count)

    def dismiss(self) -> None:
        """Let the others go; nothing where they wait for this one in the middle of a call."""
        if self._member is not None and not self._member.in_call:
            self.processes.tell(None)

    def leave(self) -> None:
        """Let go of what torch holds of the processes."""
        if self._member is not None:
            self._member.leave()


@contextmanager
def leading(processes: Processes) -> Iterator[Team]:
    """Lead the other processes for as long as the context lasts, then let them go.

    After an error in the middle of a call, or one that nobody foresaw, torchrun ends them.
    """
    team = Team(processes)
    try:
        yield team
    except DcgridError:
        with suppress(RuntimeError):  # they have gone already
            team.dismiss()
        raise
    else:
        team.dismiss()
    finally:
        team.leave()


@torch.inference_mode()
def follow(processes: Processes, device: str) -> None:
    """Take part in what the first process leads, until it lets this one go.

    Raises:
        UsageError: See `check_team`.
        WeightsError: Weights are missing or damaged on this machine.
    """
    member, own = _Member(processes), torch.device(device)
    try:
        _follow_orders(member, own)
    finally:
        member.leave()


def _follow_orders(member: _Member, own: torch.device) -> None:
    while (order := cast(_Order, member.processes.tell(None))) is not None:
        match order:
            case _Load():
                if order.job.offline:
                    hub.go_offline()
                torch.set_num_threads(order.threads)
                # Its folder may be another one on this machine.
                member.load(order, find_model(order.job.model), own, NullProgress())
            case _UseGiven():
                member.models[order.model].use_given(clean=order.clean, first=order.first)
            case _Predict():
                _take_part(member, order, own)


def _take_part(member: _Member, order: _Predict, device: torch.device) -> None:
    if order.places is not None:
        member.begin(order.places.to(device), Memory())
    member.texts.extend(text.to(device) for text in order.fresh)
    batch, cells, _, frames, *_ = order.shape
    cells_BKCFYX = torch.empty(order.shape, dtype=order.dtype, device=device)
    time_BKF = torch.empty(batch, cells, frames, device=device)
    member.processes.send_first([cells_BKCFYX, time_BKF])
    member.compute(order, cells_BKCFYX, time_BKF)
