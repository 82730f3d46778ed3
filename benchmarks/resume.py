"""`python -m benchmarks.resume`: kill a training at random moments, is it the same bit for bit?

Training runs are forked, not started: importing torch takes longer than what is trained here. That
is safe as long as the parent, which kills them, computes nothing itself, so that it has no threads.
"""

import argparse
import importlib
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from benchmarks import options as shared
from benchmarks.small_world import write_small_recipe, write_small_world
from dcgrid.errors import DcgridError, UsageError
from dcgrid.train import loop
from dcgrid.train.checkpoint import STATE_NAME
from dcgrid.train.job import Reporter, TrainJob
from dcgrid.train.log import LOG_NAME
from dcgrid.train.run_stage import run_stage
from dcgrid.train.settings import load_train_recipe

KINDS = {
    "weights": ("model.",),
    "averaged weights": ("ema.",),
    "optimiser": ("optim.",),
    "random states": ("rng",),
    "data position": ("data.",),
}
"""Parts of a checkpoint by the beginnings of their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Same:
    """One thing compared."""

    what: str
    count: int
    """Tensors, lines or files compared."""
    different: int
    """How many of them differ or are in one run only."""


def compare_runs(one: Path, other: Path, stage: str) -> list[Same]:
    """Compare checkpoints, logs and weight files of two output folders."""
    first, second = (_tensors(folder / stage / STATE_NAME) for folder in (one, other))
    results = []
    for what, starts in KINDS.items():
        names = sorted(n for n in first.keys() | second.keys() if n.startswith(starts))
        odd = sum(not _equal(first.get(name), second.get(name)) for name in names)
        if names:
            results.append(Same(what=what, count=len(names), different=odd))
    lines = [_log(folder / stage / LOG_NAME) for folder in (one, other)]
    odd = sum(a != b for a, b in zip(*lines, strict=False)) + abs(len(lines[0]) - len(lines[1]))
    results.append(Same(what="lines of the log", count=len(lines[0]), different=odd))
    files = sorted({path.name for folder in (one, other) for path in folder.glob("*.safetensors")})
    odd = sum(not _same_file(one / name, other / name) for name in files)
    results.append(Same(what="weight files", count=len(files), different=odd))
    return results


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def _log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log without what the clock says."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: v for name, v in line.items() if name != "s_per_step"} for line in lines]


def _same_file(one: Path, other: Path) -> bool:
    """Compare what two files hold; safetensors writes its table of facts in any order."""
    if not (one.is_file() and other.is_file()):
        return False
    first, second = _tensors(one), _tensors(other)
    same = all(_equal(first.get(name), second.get(name)) for name in first.keys() | second.keys())
    return same and _facts(one) == _facts(other)


def _facts(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


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


class NotTheSame(DcgridError):  # noqa: N818 - what was found, not a fault of the program's use
    """A killed and resumed run is not the one that was not killed (exit code 1)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    return shared.run_command(lambda: _resume(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resume",
        description="Train a small run in one go, and the same one with kill -9 at random "
        "moments, each time resumed; compare the two bit for bit. A checkpoint is written after "
        "every step, so that kills fall into them.",
    )
    parser.add_argument("--kills", type=int, default=30, help="how many kills (30)")
    parser.add_argument("--model", default="tiny", help="native model (tiny)")
    parser.add_argument("--stage", default="fill", choices=list(EARLIER), help="stage (fill)")
    parser.add_argument("--steps", type=int, default=60, help="steps of the run (60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (0)")
    return parser


def _resume(options: argparse.Namespace) -> None:
    trial = Trial(
        model=options.model,
        stage=options.stage,
        steps=shared.positive(options.steps, "--steps"),
        kills=shared.positive(options.kills, "--kills"),
        seed=options.seed,
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dcgrid-resume-") as folder:
        print(f"stage {trial.stage} of {trial.model}, {trial.steps} steps", flush=True)
        outcome = run_trial(trial, Path(folder), lambda line: print(line, flush=True))
        results = compare_runs(outcome.whole, outcome.killed, trial.stage)
    fell = ", ".join(f"{outcome.kills[p]} {p}" for p in PLACES if outcome.kills[p])
    print(f"killed and resumed {outcome.kills.total()} times: {fell or 'never'}")
    for same in results:
        verdict = f"{same.different} DIFFER" if same.different else "bit-identical"
        print(f"{same.what:<18} {same.count:>4}  {verdict}")
    print(f"{time.monotonic() - started:.0f} s")
    if any(same.different for same in results):
        raise NotTheSame("the resumed run is not the one in one go")
    if outcome.kills.total() < trial.kills:
        print(f"note: the run was over before all {trial.kills} kills", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
