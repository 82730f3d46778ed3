"""`python -m benchmarks.resume`: kill a training at random moments and see what comes out."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import options as shared
from benchmarks.resume.compare import compare_runs
from benchmarks.resume.runs import EARLIER, PLACES, Trial, run_trial
from dcgrid.errors import DcgridError


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
