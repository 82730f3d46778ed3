"""The training loop, the same for every stage. Read `train` first.

A stage gives parameters and a loss; the loop steps, averages, logs and saves. Progress goes to a
callback; nothing is printed here.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from dcgrid.errors import DeviceError
from dcgrid.train.checkpoint import TrainState, load_state, save_state
from dcgrid.train.settings import OptimSettings, Phase, TrainRecipe


class Stage(Protocol):
    """What the loop needs to know of a stage."""

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Parameters to train, by name."""

    def loss(
        self, phase: Phase, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Draw a batch and return its loss and figures for the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """How a run is kept, beside its recipe."""

    folder: Path
    """Folder of checkpoints and logs."""
    resume: bool = False
    """Go on from the folder's checkpoint."""
    save_every_s: float = 120.0
    """Seconds between checkpoints."""
    log_every: int = 20
    """Steps between lines of log.jsonl."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One report of the loop."""

    step: int
    steps: int
    seconds_per_step: float
    figures: dict[str, float]


def train(
    stage: Stage,
    recipe: TrainRecipe,
    options: LoopOptions,
    on_progress: Callable[[Progress], None],
) -> TrainState:
    """Run a stage to its last step and return its state (averaged weights in `ema`).

    Raises:
        DeviceError: The loss became NaN or infinite; the last good checkpoint stays.
        KeyboardInterrupt: After the state is saved.
    """
    options.folder.mkdir(parents=True, exist_ok=True)
    state = _new_state(stage, recipe)
    if options.resume:
        load_state(options.folder, state)
    facts = {"stage": recipe.stage}
    log = _Log(options, state.step)
    saved_s = time.monotonic()
    try:
        while state.step < recipe.optim.steps:
            figures = _step(stage, recipe, state)
            log.add(state.step, recipe.optim.steps, figures, on_progress)
            if time.monotonic() - saved_s > options.save_every_s:
                save_state(options.folder, state, facts)
                saved_s = time.monotonic()
    except KeyboardInterrupt:
        save_state(options.folder, state, facts)
        raise
    save_state(options.folder, state, facts)
    return state


def learning_rate(optim: OptimSettings, step: int) -> float:
    """Return the rate of one step: linear warm-up, constant, linear cool-down."""
    warm = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    cooling = optim.cooldown * optim.steps
    cool = min(1.0, (optim.steps - step) / cooling) if cooling else 1.0
    return optim.learning_rate * warm * cool


def phase_at(recipe: TrainRecipe, step: int) -> Phase:
    """Return the phase that a step belongs to."""
    part = step / recipe.optim.steps
    for phase in recipe.phases:
        if part < phase.until:
            return phase
    return recipe.phases[-1]


def _new_state(stage: Stage, recipe: TrainRecipe) -> TrainState:
    parameters = stage.parameters()
    optim = recipe.optim
    optimizer = torch.optim.AdamW(
        list(parameters.values()),
        lr=optim.learning_rate,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,
    )
    averaged = (
        {n: p.detach().clone() for n, p in parameters.items()} if optim.ema_decay else {}
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    return TrainState(
        parameters=parameters, optimizer=optimizer, ema=averaged, generator=generator
    )


def _step(stage: Stage, recipe: TrainRecipe, state: TrainState) -> dict[str, float]:
    """Take one optimiser step and return its figures."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(recipe.optim, state.step)
    loss, figures = stage.loss(phase_at(recipe, state.step), state.generator)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DeviceError(
            f"the loss is {value} at step {state.step}; the last checkpoint is whole",
            hint="lower optim.learning_rate in the recipe and run again with --resume",
        )
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.parameters.values(), recipe.optim.clip_norm)
    state.optimizer.step()
    state.step += 1
    _average(state, recipe.optim.ema_decay)
    return {"loss": value, "grad_norm": float(norm), **figures}


@torch.no_grad()
def _average(state: TrainState, decay: float) -> None:
    if not state.ema:
        return
    # A young average must forget the random start faster than an old one.
    weight = 1.0 - min(decay, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(
        list(state.ema.values()), [p.detach() for p in state.parameters.values()], weight
    )


class _Log:
    """Averages figures, appends them to log.jsonl and reports them."""

    def __init__(self, options: LoopOptions, step: int) -> None:
        self.path = options.folder / "log.jsonl"
        self.every = options.log_every
        self.sums: dict[str, list[float]] = {}
        self.since = (step, time.monotonic())

    def add(
        self,
        step: int,
        steps: int,
        figures: dict[str, float],
        on_progress: Callable[[Progress], None],
    ) -> None:
        for name, value in figures.items():
            self.sums.setdefault(name, []).append(value)
        if step % self.every and step != steps:
            return
        means = {n: sum(v) / len(v) for n, v in self.sums.items()}
        now = time.monotonic()
        rate = (now - self.since[1]) / max(step - self.since[0], 1)
        self.sums, self.since = {}, (step, now)
        with self.path.open("a") as stream:
            stream.write(json.dumps({"step": step, "s_per_step": round(rate, 4), **means}) + "\n")
        on_progress(Progress(step=step, steps=steps, seconds_per_step=rate, figures=means))
