"""Take the time of an edit: the whole process, its stages, and the network beside a matrix product.

    |-- start-up --|-- read --|-- load --|-------- fill --------|-- write --|   whole process
                                         |encode|sample|decode|

Letters: T frames, H W height/width; see dcgrid/models/base.py for the others.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clips import BenchClip
from benchmarks.models import ModelChoice
from benchmarks.progress import StageTimes
from dcgrid.errors import DcgridError
from dcgrid.grid.layout import GridLayout
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.resolve import resolve_edits
from dcgrid.pipelines.sampling import (
    fill_grid,
    grid_request,
    to_model_range,
    token_places,
)

EFFECTS = ("rain", "night", "smoke")
"""The three edits of the measured run."""
REPEATS = 7
"""Times that network and matrix product are timed, in turn; the median counts."""
# Rows, inputs and outputs of the product that the network is held against (a usual MLP's).
_PRODUCT = (1536, 384, 1536)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTimes:
    """Seconds of whole processes."""

    version_s: float
    """`dcgrid --version`: what it costs before torch is imported."""
    whole_s: float
    """`dcgrid edit`, from start to exit."""
    stages_s: Mapping[str, float]
    """Its stages, from the run manifest."""

    @property
    def start_up_s(self) -> float:
        """What is in no stage: interpreter, imports, plan, exit."""
        return self.whole_s - sum(self.stages_s.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpeed:
    """The transformer's forward beside the fastest that the machine multiplies matrices."""

    tokens: int
    """Tokens of the grid."""
    forward_s: float
    """Seconds of one forward; median."""
    forward_flops: int
    """Floating-point operations of one forward: matrix products and convolutions."""
    ceiling_flops_per_s: float
    """Operations a second of a plain linear layer in the same number format; median."""

    @property
    def ratio(self) -> float:
        """Share of the ceiling that the forward reaches; 1 is all of it."""
        return self.forward_flops / self.forward_s / self.ceiling_flops_per_s


def time_processes(clip: Path, choice: ModelChoice, duration_s: float) -> ProcessTimes:
    """Time `dcgrid --version` and `dcgrid edit` with three effects as processes of their own.

    Raises:
        DcgridError: The edit failed; carries what it said.
    """
    version_s, _ = _time_process(["--version"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["edit", str(clip), "--out", folder, "--duration", str(duration_s), "--quiet"]
        arguments += [word for name in EFFECTS for word in ("--effect", name)]
        arguments += ["--model", choice.model, "--adapter", choice.adapter]
        arguments += ["--device", choice.device, "--dtype", choice.dtype, "--format", "json"]
        whole_s, text = _time_process(arguments)
    return ProcessTimes(
        version_s=version_s, whole_s=whole_s, stages_s=json.loads(text)["timings_s"]
    )


def time_fill(backbone: NetworkBackbone, clip: BenchClip) -> dict[str, float]:
    """Return the seconds of the stages inside of `fill`, in this process."""
    times = StageTimes()
    grid = resolve_edits(EditJob(input=clip.path, effects=EFFECTS))
    fill_grid(backbone, grid_request(grid, backbone.spec, [clip.frames_THWC]), times)
    times.stop()
    return times.seconds


def time_network(backbone: NetworkBackbone, clip: BenchClip) -> NetworkSpeed:
    """Time the forward on the clip's grid and a matrix product in turn, in one process.

    Other work on the machine slows both alike, so their ratio says more than seconds.
    """
    layout = GridLayout(rows=2, cols=2)
    cell_BCFYX = backbone.encode(to_model_range(clip.frames_THWC).to(backbone.device))
    cells_BKCFYX = cell_BCFYX[:, None].repeat_interleave(layout.count, dim=1)
    time_BKF = torch.full((1, layout.count, cell_BCFYX.shape[2]), 0.5, device=backbone.device)
    grid = resolve_edits(EditJob(input=clip.path, effects=EFFECTS))
    visible_KS = [[s.cell in (None, k) for s in grid.prompt.segments] for k in range(layout.count)]
    text = backbone.encode_text([grid.prompt], [visible_KS])
    places = token_places(
        layout, cell_BCFYX.shape[2:], backbone.spec.patch, backbone.spec.cell_pitch
    )

    def forward() -> object:
        return backbone.velocity(cells_BKCFYX, time_BKF, text, places)

    with FlopCounterMode(display=False) as counter:
        forward()
    multiply, product_flops = _product(backbone)
    multiply()
    pairs = [(_seconds(forward, backbone), _seconds(multiply, backbone)) for _ in range(REPEATS)]
    return NetworkSpeed(
        tokens=len(places.position_S),
        forward_s=statistics.median(pair[0] for pair in pairs),
        forward_flops=counter.get_total_flops(),
        ceiling_flops_per_s=product_flops / statistics.median(pair[1] for pair in pairs),
    )


def _product(backbone: NetworkBackbone) -> tuple[Callable[[], object], int]:
    """Return a linear layer to time, repeated so that it lasts, and its operations."""
    rows, inputs, outputs = _PRODUCT
    repeats = 4
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, inputs, generator=generator).to(backbone.device, backbone.dtype)
    right = torch.randn(outputs, inputs, generator=generator).to(backbone.device, backbone.dtype)

    def multiply() -> object:
        return [torch.nn.functional.linear(left, right) for _ in range(repeats)]

    return multiply, 2 * rows * inputs * outputs * repeats


def _seconds(work: Callable[[], object], backbone: NetworkBackbone) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        work()
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    return time.perf_counter() - started


def _time_process(arguments: list[str]) -> tuple[float, str]:
    """Run `dcgrid` and return its seconds and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "dcgrid", *arguments], capture_output=True, text=True, check=False
    )
    spent = time.perf_counter() - started
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise DcgridError(f"dcgrid {arguments[0]} ended with {done.returncode}: {said[-500:]}")
    return spent, done.stdout
