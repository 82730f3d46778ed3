"""Starts dcgrid in several real processes, as torchrun does, on gloo."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_S = 150


def torchrun_words(processes: int, *words: object) -> list[str]:
    """Return a command line; `--standalone` takes a port that is free."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *launch, *map(str, words)]


def child_env(**more: str) -> dict[str, str]:
    """Return the environment of a child: this checkout's code, one thread each."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    known = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**os.environ, **known, **more}


def torchrun(
    processes: int, *words: object, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `dcgrid` with some words, or a script ("x.py", ...), in so many processes."""
    command = words if str(words[0]).endswith(".py") else ("-m", "dcgrid", *words)
    return subprocess.run(
        torchrun_words(processes, *command),
        env=child_env(**(env or {})),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def told(run: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what the program itself said of errors, without torchrun's own lines."""
    heads = ("error: ", "hint: ", "interrupted")
    return [line for line in run.stderr.splitlines() if line.startswith(heads)]
