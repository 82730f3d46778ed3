"""What a training run is to do, how it reports, and what its weight files say of it.

run_stage.py does a job; its stage and the plan read it, too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dcgrid.errors import RecipeError, UsageError
from dcgrid.models.native.folder import is_native_folder, read_native_folder
from dcgrid.runtime.device import training_dtype
from dcgrid.runtime.processes import ALONE, Processes
from dcgrid.train.checkpoint import TrainState
from dcgrid.train.facts import TrainFacts, train_facts
from dcgrid.train.log import Progress
from dcgrid.train.loop import LoopOptions, batches_of_step
from dcgrid.train.settings import TrainRecipe

if TYPE_CHECKING:
    from dcgrid.train.validation import GenerateFn

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
    """Those that train together; more than one in stages base, grid and fill."""
    cache_only: bool = False
    """Stage `dc`: make its data and stop."""

    @property
    def facts(self) -> TrainFacts:
        """Facts about the model."""
        return train_facts(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of products, and of a checkout's weights."""
        return training_dtype(self.recipe.precision, self.device)

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
    def text_encoder(self) -> str:
        """The T5 that reads the text, a folder by its full path or `hf:OWNER/REPO[@REVISION]`.

        Stage `base` has it from its recipe, later stages from the folder. Empty: the model has an
        encoder of its own, or stage `base` is still to come.
        """
        native = self.facts.native
        if native is None or native.text is not None:
            return ""
        if self.recipe.stage != "base":
            return read_native_folder(self.out).text_encoder if is_native_folder(self.out) else ""
        named = self.recipe.text_encoder
        if not named or named.startswith("hf:"):
            return named
        return str(Path(named).expanduser().resolve())

    @property
    def stored_as(self) -> torch.dtype:
        """How the weight file keeps matrices."""
        named = {"bf16": torch.bfloat16, "int8": torch.int8, "fp32": torch.float32}
        return named[self.recipe.stored]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """How a run reports and shows what it does."""

    say: Callable[[str], None]
    """Takes a note."""
    progress: Callable[[Progress], None]
    """Takes a report of the loop."""
    generate: "GenerateFn | None" = None
    """Generates validation grids; None: there are no validation videos."""


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
    if job.recipe.stage not in ("base", "grid", "fill"):
        raise UsageError(
            f"stage {job.recipe.stage} runs in one process, not in {count}",
            hint="start it without torchrun; stages base, grid and fill take as many as there are",
        )
    native = job.facts.native
    if job.recipe.stage == "base" and native is not None and native.text and scale.shard != "none":
        raise UsageError(
            f'{job.model} trains a text encoder of its own, which shard = "{scale.shard}" cannot '
            "cut up",
            hint='use shard = "none": it is small',
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


def check_text_encoder(job: TrainJob) -> None:
    """Check that stage `base` names a T5 where the model reads text with one, and only there.

    Raises:
        RecipeError: It does not.
    """
    native = job.facts.native
    if job.recipe.stage != "base" or native is None:
        return
    if native.text is None and not job.recipe.text_encoder:
        raise RecipeError(
            f"{job.model} reads text with T5, but the recipe names none",
            hint='text_encoder = "hf:OWNER/REPO" or a folder with config.json, tokenizer.json and '
            f"model.safetensors, {native.dit.text_width} channels wide",
        )
    if native.text is not None and job.recipe.text_encoder:
        raise RecipeError(
            f"{job.model} trains a text encoder of its own: text_encoder = "
            f"{job.recipe.text_encoder!r} would not be read",
            hint="leave it out, or train a model that reads text with T5, such as paper-small",
        )
