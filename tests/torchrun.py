"""Starts dcgrid in several real processes, as torchrun does, on gloo."""

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
CPU_LIMIT_S = 150
"""Of each process: one that computes for ever ends, however slow the machine."""
WAIT_LIMIT_S = 900
"""Of them all, by the wall: processes that wait for each other for ever end, too."""


def torchrun_words(processes: int, *words: object) -> list[str]:
    """Return a command line; `--standalone` takes a port that is free."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *launch, *map(str, words)]


def child_env(**more: str) -> dict[str, str]:
    """Return the environment of a child: this checkout's code, one thread each."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    known = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**os.environ, **known, **more}


def limit_cpu() -> None:
    """Limit the CPU time of this process and of each that it starts."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))


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
        timeout=WAIT_LIMIT_S,
        preexec_fn=limit_cpu,
        check=False,
    )


def told(run: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what the program itself said of errors, without torchrun's own lines."""
    heads = ("error: ", "hint: ", "interrupted")
    return [line for line in run.stderr.splitlines() if line.startswith(heads)]
