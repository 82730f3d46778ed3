"""The training loop, the same for every stage. Read `train` first.

A stage gives parameters and a loss; the loop steps, averages, logs and saves. Progress goes to a
callback; nothing is printed here.
"""

import hashlib
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import torch

from dcgrid.errors import DeviceError
from dcgrid.runtime.processes import ALONE, Processes
from dcgrid.train.checkpoint import TrainState, save_state
from dcgrid.train.evaluation import Evaluates, eval_losses, looking_at
from dcgrid.train.log import Progress, RunLog, open_board
from dcgrid.train.resume import (
    check_changes,
    drop_later_states,
    drop_states,
    facts_of_run,
    find_state,
    keep_state,
    load_newest,
)
from dcgrid.train.scale import clip_gradients, own, whole_ones
from dcgrid.train.settings import OptimSettings, Phase, TrainRecipe


class Stage(Protocol):
    """What the loop needs to know of a stage."""

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Parameters to train, by name."""

    def loss(
        self, phase: Phase, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Draw a batch and return its loss and figures for the log."""


@runtime_checkable
class Remembers(Protocol):
    """A stage that depends on more than what it trains: on fitted weights, or on earlier data."""

    def remember(self) -> Mapping[str, torch.Tensor]:
        """Return what a checkpoint must hold beside those for the run to go on as it would have."""

    def recall(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Take back what `remember` returned, or nothing from a checkpoint without it."""


@runtime_checkable
class LeavesData(Protocol):
    """A stage whose batches leave something that later ones draw from."""

    def leave_out(self) -> Mapping[str, torch.Tensor]:
        """Take out again what the batch just drawn has left, and return its record."""

    def take_in(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Put in what all batches of a step have left, in their order."""


@runtime_checkable
class Paced(Protocol):
    """A stage some of whose parameters train at another rate than the recipe's."""

    def paces(self) -> Mapping[str, float]:
        """Return factors of the learning rate by parameter name; others have 1."""


class Validates(Protocol):
    """Shows what a run generates, without a trace in it."""

    def forget(self) -> None:
        """Remove what an earlier run in the same folder has shown."""

    def __call__(self, step: int) -> None:
        """Show the weights as they are at a step. It raises nothing that a run should end for."""


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
    model: str = ""
    """Name of the model, for the checkpoint's facts."""
    accept_changes: bool = False
    """Go on though the recipe is not the checkpoint's."""
    processes: Processes = ALONE
    """Those that train together; the first one writes."""


def train(
    stage: Stage,
    recipe: TrainRecipe,
    options: LoopOptions,
    on_progress: Callable[[Progress], None],
    say: Callable[[str], None] = lambda line: None,
    validation: Validates | None = None,
) -> TrainState:
    """Run a stage to its last step and return its state (averaged weights in `ema`).

    An interrupt (Ctrl-C, SIGTERM) waits for the end of the step, so that what is saved is a whole
    number of steps; a second one does not wait and saves nothing. Notes go to `say`, and
    `validation` is called every `log.validate_every` steps.

    Raises:
        DeviceError: The loss or its gradient became NaN or infinite; the last checkpoint stays.
        OutputError: A checkpoint or the log cannot be written.
        RecipeError: With `resume`: the recipe is not that of the checkpoint.
        WeightsError: With `resume`: there is no checkpoint, or it does not fit.
        KeyboardInterrupt: After the state is saved.
    """
    processes = options.processes
    state = _new_state(stage, recipe)
    if options.resume:
        facts = find_state(options.folder)[2]
        check_changes(facts, recipe, options.model, say, accept=options.accept_changes)
        load_newest(options.folder, state, say)
    processes.wait()  # until all have read what there was
    # Only now: a process that was late would find the later checkpoints gone.
    if processes.is_first:
        _tidy(options, state.step, validation)
    # The same weights everywhere: each process may have drawn its own where nothing was loaded.
    processes.send_first([p.detach() for p in whole_ones(state.parameters.values())])
    with ExitStack() as open_log:
        log = None
        if processes.is_first:
            log = RunLog(
                options.folder,
                state.step,
                every=options.log_every,
                pending=state.pending,
                board=open_board(options.folder, say) if recipe.log.tensorboard else None,
                on_progress=on_progress,
            )
            open_log.callback(log.close)
        _run(stage, recipe, options, _Watch(state=state, log=log, validation=validation))
    return state


def _tidy(options: LoopOptions, step: int, validation: Validates | None) -> None:
    """Make the folder, without what is of another run or of steps that will be taken again."""
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.resume:
        drop_later_states(options.folder, step)
        return
    drop_states(options.folder)  # not to be mistaken for this run's
    if validation is not None:
        validation.forget()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watch:
    """What a run changes, and who looks on."""

    state: TrainState
    log: RunLog | None
    """None: another process writes it."""
    validation: Validates | None


def _run(stage: Stage, recipe: TrainRecipe, options: LoopOptions, watch: _Watch) -> None:
    """Take every step that is left; measure, log and save on the way."""
    facts, steps, kept = facts_of_run(recipe, options.model), recipe.optim.steps, recipe.log
    state, saved_s, processes = watch.state, time.monotonic(), options.processes
    with HeldInterrupts() as interrupts:
        while state.step < steps and not interrupts.pending:
            figures = _step(stage, recipe, state, processes)
            try:
                _measure(stage, recipe, watch)
                if watch.log is not None:
                    watch.log.add(state.step, steps, figures)
            except KeyboardInterrupt:
                interrupts.pending = True  # the step is whole: save as for any interrupt
            keep = kept.keep_last > 0 and state.step % kept.keep_every == 0
            late = time.monotonic() - saved_s > options.save_every_s
            signs = processes.gather((interrupts.pending, late))
            # All save at once, for each may have a piece of the weights; the first one's clock says
            # when. An interrupt is saved by the last lines.
            if keep or signs[0][1]:
                save_state(options.folder, state, facts, writes=processes.is_first)
                saved_s = time.monotonic()
            if keep and processes.is_first:
                keep_state(options.folder, state.step, kept.keep_last)
            interrupts.pending = any(pending for pending, _ in signs)
        save_state(options.folder, state, facts, writes=processes.is_first)
        processes.wait()


def _measure(stage: Stage, recipe: TrainRecipe, watch: _Watch) -> None:
    """Write the eval loss, where the stage has one, and generate, each when it is due."""
    state, log = watch.state, watch.log
    if _is_due(recipe.log.eval_every, state.step, recipe) and isinstance(stage, Evaluates):
        began_s = time.monotonic()
        losses = eval_losses(stage, state, recipe.log.eval_grids)
        if log is not None:
            log.add_eval(state.step, losses, began_s)
    if watch.validation and _is_due(recipe.log.validate_every, state.step, recipe):
        began_s = time.monotonic()
        with looking_at(state):
            watch.validation(state.step)
        if log is not None:
            log.leave_out(began_s)


def _is_due(every: int, step: int, recipe: TrainRecipe) -> bool:
    """Return True at every so many steps (0: never) and at the last."""
    return every > 0 and (step % every == 0 or step == recipe.optim.steps)


def learning_rate(optim: OptimSettings, step: int) -> float:
    """Return the rate of one step: linear warm-up, constant, linear cool-down."""
    warm = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    cooling = optim.cooldown * optim.steps
    cool = min(1.0, (optim.steps - step) / cooling) if cooling else 1.0
    return optim.learning_rate * warm * cool


def batches_of_step(recipe: TrainRecipe, processes: Processes) -> int:
    """Return how many batches an optimiser step has: the recipe's, and at least one a process."""
    return max(recipe.scale.accumulate, processes.count)


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
        _paced_groups(stage, parameters),
        lr=optim.learning_rate,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,
    )
    averaged = {n: p.detach().clone() for n, p in parameters.items()} if optim.ema_decay else {}
    state = TrainState(
        parameters=parameters,
        optimizer=optimizer,
        ema=averaged,
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    if isinstance(stage, Remembers):
        state.remember, state.recall = stage.remember, stage.recall
    return state


def _paced_groups(
    stage: Stage, parameters: Mapping[str, torch.nn.Parameter]
) -> list[dict[str, Any]]:
    """Return groups for the optimiser, one for each factor of the rate."""
    paces = stage.paces() if isinstance(stage, Paced) else {}
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(paces.get(name, 1.0), []).append(parameter)
    return [{"params": members, "pace": pace} for pace, members in groups.items()]


def _step(
    stage: Stage, recipe: TrainRecipe, state: TrainState, processes: Processes
) -> dict[str, float]:
    """Take one optimiser step and return its figures."""
    # The rate follows from the step alone, so that a resumed run needs no schedule's state.
    for group in state.optimizer.param_groups:
        group["lr"] = group["pace"] * learning_rate(recipe.optim, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    value, figures = _gradients(stage, recipe, state, processes)
    norm = clip_gradients(list(state.parameters.values()), recipe.optim.clip_norm)
    # A finite loss can have an infinite gradient: stepping would spoil the weights, and the next
    # checkpoint with them.
    _require_finite("gradient's norm", norm, state.step)
    state.optimizer.step()
    state.step += 1
    _average(state, recipe.optim.ema_decay)
    return {"loss": value, "grad_norm": norm, **figures}


def _gradients(
    stage: Stage, recipe: TrainRecipe, state: TrainState, processes: Processes
) -> tuple[float, dict[str, float]]:
    """Compute the gradients of a step; return its loss and figures, means over its batches.

    A single batch draws from the run's one source of chance. Of several, each has a source of its
    own that follows from its number alone, and what one leaves for later batches (its variants)
    is there for the next step; so it does not matter which process takes which.
    """
    count = batches_of_step(recipe, processes)
    phase = phase_at(recipe, state.step)
    # One batch draws from the run's generator, as it always has: old runs resume bit for bit.
    if count == 1:
        loss, figures = stage.loss(phase.of_batch(state.step), state.generator)
        value = float(loss.detach())
        _require_finite("loss", value, state.step)
        loss.backward()
        return value, figures
    found = []
    for number in processes.share(count):
        seed = _batch_seed(recipe.seed, state.step, number)
        torch.manual_seed(seed)  # dropout draws from it
        shown = phase.of_batch(state.step * count + number)
        loss, figures = stage.loss(shown, torch.Generator().manual_seed(seed))
        left = stage.leave_out() if isinstance(stage, LeavesData) else {}
        found.append(({"loss": float(loss.detach()), **figures}, left))
        (loss / count).backward()
    by_process = processes.gather(found)
    batches = [by_process[n % processes.count][n // processes.count] for n in range(count)]
    if isinstance(stage, LeavesData):
        stage.take_in([left for _, left in batches])
    means = _means([figures for figures, _ in batches])
    _require_finite("loss", means["loss"], state.step)
    # Those of weights in pieces are added up by then, in the backward pass.
    processes.sum_gradients(whole_ones(state.parameters.values()))
    return means.pop("loss"), means


def _batch_seed(seed: int, step: int, number: int) -> int:
    """Return the seed of one batch: another for every step and number."""
    text = f"{seed} {step} {number}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the batches that have it."""
    names = dict.fromkeys(name for one in figures for name in one)
    return {name: statistics.fmean(one[name] for one in figures if name in one) for name in names}


def _require_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise DeviceError(
            f"the {what} is {value} at step {step}; the last checkpoint is whole",
            hint="lower optim.learning_rate in the recipe and run again with "
            "--resume --accept-changes",
        )


@torch.no_grad()
def _average(state: TrainState, decay: float) -> None:
    if not state.ema:
        return
    # A young average must forget the random start faster than an old one.
    weight = 1.0 - min(decay, (1 + state.step) / (10 + state.step))
    torch._foreach_lerp_(
        [own(average) for average in state.ema.values()],
        [own(p.detach()) for p in state.parameters.values()],
        weight,
    )


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class HeldInterrupts:
    """Holds back the first interrupt inside a `with`, and raises it when the block ends well.

    The second one is raised at once. Signals that the process ignores stay ignored. Outside the
    main thread, where Python delivers no signals, nothing is held.

    Raises:
        KeyboardInterrupt: On leaving the block, if one was held back.
    """

    def __init__(self) -> None:
        self.pending = False
        self._number = signal.SIGINT
        self._earlier: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._earlier[number] = signal.signal(number, self._hold)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back and raise what was held."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self.pending and error is None:
            handler = self._earlier.get(self._number)
            if callable(handler):
                handler(self._number, None)  # which sees to it that it isn't lost
            raise KeyboardInterrupt

    def _hold(self, number: int, _frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending, self._number = True, signal.Signals(number)
