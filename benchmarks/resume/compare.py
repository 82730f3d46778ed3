"""Whether two finished runs are the same, bit for bit."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from dcgrid.train.checkpoint import STATE_NAME
from dcgrid.train.log import LOG_NAME

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
