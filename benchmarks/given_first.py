"""`python -m benchmarks.given_first`: full attention against given-first, time and operations.

The same network, weights, text, noise and steps; once every token reads every token and each call
computes all of them, once given cells read given cells alone and later calls compute the generated
cells only. Latents are random: what comes out is not looked at here (see benchmarks.ablations).

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import options as shared
from benchmarks.models import load_choice
from dcgrid.grid.layout import GridLayout
from dcgrid.models.base import CellText, Memory
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.pipelines.sampling import token_places

GIVEN = (1, 2, 3)
"""Given cells of four."""
REPEATS = 3
LAYOUT = GridLayout(rows=2, cols=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What is sampled."""

    cells_BKCFYX: Tensor
    given: int
    steps: int
    texts: tuple[CellText, ...]
    """One a guidance branch."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.given_first", description=__doc__)
    shared.add_model_options(parser)
    parser.add_argument("--steps", type=int, default=10, help="calls of a branch (10)")
    parser.add_argument("--frames", type=int, default=9, help="pixel frames of a cell (9)")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 160), metavar=("H", "W"))
    options = parser.parse_args(arguments)
    return shared.run_command(lambda: _run(options))


def sample_once(backbone: NetworkBackbone, sampling: Sampling, *, first: bool, kept: bool) -> None:
    """Make all calls of a sampling; with `kept` they share a memory."""
    backbone.use_given(clean=True, first=first)
    places = token_places(
        LAYOUT, sampling.cells_BKCFYX.shape[3:], backbone.spec.patch, backbone.spec.cell_pitch
    )
    memory = Memory() if kept else None
    frames = sampling.cells_BKCFYX.shape[3]
    for step in range(sampling.steps):
        time_BKF = torch.full((1, LAYOUT.count, frames), 1 - step / sampling.steps)
        time_BKF[:, : sampling.given] = 0
        time_BKF = time_BKF.to(backbone.device)
        for text in sampling.texts:
            backbone.velocity(sampling.cells_BKCFYX, time_BKF, text, places, memory=memory)


def _run(options: argparse.Namespace) -> None:
    backbone = load_choice(shared.model_choice(options), adapter="none")
    spec, (height, width) = backbone.spec, options.size
    shape = (
        1,
        LAYOUT.count,
        spec.latent_channels,
        (options.frames - 1) // spec.stride_T + 1,
        height // spec.stride_HW,
        width // spec.stride_HW,
    )
    cells = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(backbone.device)
    texts = _texts(backbone)
    steps = shared.positive(options.steps, "--steps")
    tokens = cells[0, :, 0].numel() // (spec.patch[0] * spec.patch[1] * spec.patch[2])
    print(f"{spec.name}: {tokens} tokens, {steps} steps, {backbone.device}, {backbone.dtype}")
    print("given  branches  operations  time   of it texts kept alone")
    for branches in (1, 2):
        for given in GIVEN:
            sampling = Sampling(
                cells_BKCFYX=cells, given=given, steps=steps, texts=texts[:branches]
            )
            print(_line(backbone, sampling, branches))


def _line(backbone: NetworkBackbone, sampling: Sampling, branches: int) -> str:
    """Measure the three ways in turn, so that other work on the machine slows them alike."""
    ways: dict[str, Callable[[], None]] = {
        "full": lambda: sample_once(backbone, sampling, first=False, kept=False),
        "texts": lambda: sample_once(backbone, sampling, first=False, kept=True),
        "first": lambda: sample_once(backbone, sampling, first=True, kept=True),
    }
    operations = {name: _operations(way) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            seconds[name].append(_seconds(way, backbone))
    ratios = {
        name: statistics.median(f / s for f, s in zip(seconds["full"], spent, strict=True))
        for name, spent in seconds.items()
    }
    saved = operations["full"] / operations["first"]
    return (
        f"{sampling.given:5}  {branches:8}  {saved:9.2f}x  {ratios['first']:.2f}x  "
        f"{ratios['texts']:.2f}x"
    )


def _texts(backbone: NetworkBackbone) -> tuple[CellText, ...]:
    """Return two texts of a usual length, of random numbers."""
    width = backbone.parts.dit.config.text_width
    generator = torch.Generator().manual_seed(1)
    return tuple(
        CellText(
            tokens_BKLE=torch.randn(1, LAYOUT.count, 32, width, generator=generator).to(
                backbone.device
            ),
            valid_BKL=torch.ones(1, LAYOUT.count, 32, dtype=torch.bool, device=backbone.device),
        )
        for _ in range(2)
    )


def _operations(way: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops()


def _seconds(way: Callable[[], None], backbone: NetworkBackbone) -> float:
    started = time.perf_counter()
    way()
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
