"""Training runs in processes of their own, and the parent that kills them.

Runs are forked, not started: importing torch takes longer than what is trained here. That is safe
as long as the parent computes nothing itself, so that it has no threads.
"""

import importlib
import mmap
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.small_world import write_small_recipe, write_small_world
from dcgrid.errors import DcgridError, UsageError
from dcgrid.train import loop
from dcgrid.train.checkpoint import STATE_NAME
from dcgrid.train.job import Reporter, TrainJob
from dcgrid.train.run import run_stage
from dcgrid.train.settings import load_train_recipe

PLACES = ("while starting", "in a step", "in an eval loss", "in a checkpoint", "in between")
"""Where a kill can fall."""
_STARTING, _STEP, _EVAL, _CHECKPOINT, _BETWEEN = range(5)
_WATCHED = {
    "_step": _STEP,
    "eval_losses": _EVAL,
    "save_state": _CHECKPOINT,
    "keep_state": _CHECKPOINT,
}
"""Functions of the loop during which a run says where it is."""
EARLIER = {"autoencoder": (), "base": ("autoencoder",), "fill": ("autoencoder", "base")}
"""Stages that are trained first, a few steps each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is trained and how often it is killed."""

    model: str
    stage: str
    steps: int
    kills: int
    seed: int


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of the kills."""

    whole: Path
    """Folder of the run that was not killed."""
    killed: Path
    """Folder of the one that was."""
    kills: Counter[str] = field(default_factory=Counter)
    """Kills by where they fell, in the words of PLACES."""


def run_trial(trial: Trial, folder: Path, note: Callable[[str], None]) -> Outcome:
    """Train one run in one go, and the same one with a kill -9 at each random moment.

    Raises:
        UsageError: A run failed by itself, or this system cannot fork.
    """
    if not hasattr(os, "fork"):
        raise UsageError("this benchmark forks its runs, which this system cannot")
    torch.set_num_threads(1)  # more threads would round differently only if their number changed
    importlib.import_module("torch._dynamo")  # the first optimiser step would, in every fork
    whole, killed = folder / "whole", folder / "killed"
    _forked(partial(_prepare, trial, folder))
    shutil.copytree(whole, killed)
    outcome, seen = Outcome(whole=whole, killed=killed), mmap.mmap(-1, 1)
    started = time.monotonic()
    child = _fork(partial(_train, trial, whole, seen))
    while seen[0] == _STARTING and time.monotonic() - started < 120:
        time.sleep(0.002)
    load_s = time.monotonic() - started
    _finished(child)
    train_s = time.monotonic() - started - load_s
    note(f"one run in one go: {load_s:.1f} s to its first step, {train_s:.1f} s of training")
    chance = random.Random(trial.seed)
    while outcome.kills.total() < trial.kills:
        # So much a life that the kills are spread over the whole run, its start included.
        delay = chance.uniform(0.0, load_s + 1.3 * train_s / trial.kills)
        place = _killed_after(delay, partial(_train, trial, killed, seen), seen)
        if place is None:
            break
        outcome.kills[place] += 1
    _forked(partial(_train, trial, killed, seen))
    return outcome


def _prepare(trial: Trial, folder: Path) -> None:
    """Write the world and the recipes, and train the stages that come first."""
    write_small_world(folder)
    kept = "eval_every = 10\neval_grids = 1\nkeep_every = 10\nkeep_last = 2\ntensorboard = false\n"
    for stage in (*EARLIER[trial.stage], trial.stage):
        steps = trial.steps if stage == trial.stage else 4
        write_small_recipe(folder, stage, steps=steps, log=kept)
        if stage != trial.stage:
            run_stage(_job(trial.model, stage, folder / "whole"), _SILENT)
    (folder / "whole").mkdir(exist_ok=True)


def _train(trial: Trial, out: Path, seen: mmap.mmap) -> None:
    """Train the stage from where it is to its end."""
    _say_where(seen)
    run_stage(_job(trial.model, trial.stage, out), _SILENT)


def _job(model: str, stage: str, out: Path) -> TrainJob:
    """Return a run with a checkpoint after every step."""
    return TrainJob(
        recipe=load_train_recipe(out.parent / f"{stage}.toml", model),
        model=model,
        out=out,
        store=out.parent,
        resume=(out / stage / STATE_NAME).exists(),
        save_every_s=0.0,
    )


def _say_where(seen: mmap.mmap) -> None:
    """Have the loop of this process, a fork, write where it is into memory that the parent sees."""
    seen[0] = _STARTING

    def watched(function: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever it takes
            seen[0] = place
            result = function(*arguments, **named)
            seen[0] = _BETWEEN
            return result

        return call

    for name, place in _WATCHED.items():
        setattr(loop, name, watched(getattr(loop, name), place))


def _killed_after(seconds: float, task: Callable[[], None], seen: mmap.mmap) -> str | None:
    """Run a task for some seconds, then kill it; return where it was, or None if it was done."""
    seen[0] = _STARTING
    child = _fork(task)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return PLACES[seen[0]]
    if status:
        raise UsageError("a resumed run failed; its message stands above")
    return None


def _forked(task: Callable[[], None]) -> None:
    _finished(_fork(task))


def _finished(child: int) -> None:
    if os.waitpid(child, 0)[1]:
        raise UsageError("a run failed; its message stands above")


def _fork(task: Callable[[], None]) -> int:
    """Run a task in a fork of this process and return its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        task()
        code = 0
    except DcgridError as error:
        os.write(2, f"error: {error.message}\n".encode())
    finally:
        os._exit(code)  # no clean-up of what belongs to the parent


_SILENT = Reporter(say=lambda line: None, progress=lambda progress: None)
