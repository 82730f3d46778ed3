"""What a training run is to do, how it tells, and what its weight files say of it.

run.py carries a job out; dc.py, painter.py and the plan read it, too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dcgrid.errors import UsageError
from dcgrid.runtime.device import choose_dtype
from dcgrid.runtime.processes import ALONE, Processes
from dcgrid.train.checkpoint import TrainState
from dcgrid.train.facts import TrainFacts, train_facts
from dcgrid.train.log import Progress
from dcgrid.train.loop import LoopOptions, batches_of_step
from dcgrid.train.settings import TrainRecipe

if TYPE_CHECKING:
    from dcgrid.train.validation import Painter

DC_NAME = "dc.safetensors"
"""File of the Multi-DC LoRA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """One run of one stage."""

    recipe: TrainRecipe
    """The stage's recipe, overrides applied."""
    model: str
    """Preset of a native model, or the folder of a checkout."""
    out: Path
    """Folder of the weight files."""
    store: Path
    """Folder of the world's pictures."""
    resume: bool = False
    """Go on from the last checkpoint."""
    start: Path | None = None
    """Folder of an earlier edition's weights to start from; None: random ones."""
    decoder_only: bool = False
    """Stage `autoencoder`: keep encoder and latents as they are."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where clips are rendered and networks trained."""
    accept_changes: bool = False
    """With `resume`: go on though the recipe is not the checkpoint's."""
    save_every_s: float = 120.0
    """Seconds between checkpoints."""
    concepts: Path | None = None
    """Stage `dc`: manifest or folder of clips; None: concepts of the procedural world."""
    processes: Processes = ALONE
    """Those that train together; more than one in stages grid and fill."""
    cache_only: bool = False
    """Stage `dc`: make what it learns from and stop."""

    @property
    def facts(self) -> TrainFacts:
        """Facts about the model."""
        return train_facts(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of products, and of a checkout's weights."""
        return choose_dtype(self.recipe.precision, self.device)

    @property
    def loop(self) -> LoopOptions:
        """Where the loop keeps its state."""
        return LoopOptions(
            folder=self.out / self.recipe.run_name,
            resume=self.resume,
            save_every_s=self.save_every_s,
            model=self.model,
            accept_changes=self.accept_changes,
            processes=self.processes,
        )

    @property
    def stored_as(self) -> torch.dtype:
        """How the weight file keeps matrices."""
        named = {"bf16": torch.bfloat16, "int8": torch.int8, "fp32": torch.float32}
        return named[self.recipe.stored]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """How a run tells and shows what it does."""

    say: Callable[[str], None]
    """Takes a remark."""
    progress: Callable[[Progress], None]
    """Takes a report of the loop."""
    paint: "Painter | None" = None
    """Paints validation grids; None: there are no validation videos."""


def facts_of(job: TrainJob, state: TrainState) -> dict[str, str]:
    """Return what a weight file says of its making."""
    return {
        "model": job.model,
        "stage": job.recipe.stage,
        "steps": str(state.step),
        "seed": str(job.recipe.seed),
    }


def check_processes(job: TrainJob) -> None:
    """Check that the processes of a job can do its stage together.

    Raises:
        UsageError: The stage takes one; or the batches of a step, or the processes of a machine,
            do not come out even where weights are shared.
    """
    count, scale = job.processes.count, job.recipe.scale
    if count == 1:
        return
    if job.recipe.stage not in ("grid", "fill"):
        raise UsageError(
            f"stage {job.recipe.stage} runs in one process, not in {count}",
            hint="start it without torchrun; stages grid and fill take as many as there are",
        )
    batches = batches_of_step(job.recipe, job.processes)
    # Pieces of weights are gathered by all at once, so all must call the network as often.
    if scale.shard != "none" and batches % count:
        raise UsageError(
            f"{batches} batches a step (scale.accumulate) cannot be dealt evenly to {count} "
            f'processes, which shard = "{scale.shard}" needs',
            hint=f"use accumulate = {-(-batches // count) * count}",
        )
    if scale.shard == "hybrid" and count % job.processes.local_count:
        raise UsageError(
            f"{count} processes are not as many on every machine, "
            f"{job.processes.local_count} on this one",
            hint='start as many on each, or use shard = "full"',
        )


def averaged(state: TrainState) -> dict[str, torch.Tensor]:
    """Return the averaged weights, or the last ones where no average is kept."""
    return state.ema or {n: p.detach() for n, p in state.parameters.items()}


@torch.no_grad()
def take_averaged(state: TrainState) -> None:
    """Put the averaged weights in place of the trained ones; without an average these stay."""
    for name, average in state.ema.items():
        state.parameters[name].copy_(average)
