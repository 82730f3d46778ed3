"""What a training run is to do, how it tells, and what its weight files say of it.

run.py carries a job out; dc.py, painter.py and the plan read it, too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dcgrid.runtime.device import choose_dtype
from dcgrid.runtime.processes import ALONE, Processes
from dcgrid.train.checkpoint import TrainState
from dcgrid.train.facts import TrainFacts, train_facts
from dcgrid.train.log import Progress
from dcgrid.train.loop import LoopOptions
from dcgrid.train.settings import TrainRecipe
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
    """Those that train together; stages dc, grid and fill on a checkout."""
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
    paint: Painter | None = None
    """Paints validation grids; None: there are no validation videos."""


def facts_of(job: TrainJob, state: TrainState) -> dict[str, str]:
    """Return what a weight file says of its making."""
    return {
        "model": job.model,
        "stage": job.recipe.stage,
        "steps": str(state.step),
        "seed": str(job.recipe.seed),
    }


def averaged(state: TrainState) -> dict[str, torch.Tensor]:
    """Return the averaged weights, or the last ones where no average is kept."""
    return state.ema or {n: p.detach() for n, p in state.parameters.items()}


@torch.no_grad()
def take_averaged(state: TrainState) -> None:
    """Put the averaged weights in place of the trained ones; without an average these stay."""
    for name, average in state.ema.items():
        state.parameters[name].copy_(average)
