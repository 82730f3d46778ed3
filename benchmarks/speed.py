"""`python -m benchmarks.speed`: the time of an edit by stage, and the network beside a product.

    |-- start-up --|-- read --|-- load --|-------- fill --------|-- write --|   whole process
                                         |encode|sample|decode|

Letters: T frames, H W height/width; see dcgrid/models/base.py for the others.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import options as shared
from benchmarks.clips import BenchClip, find_clips, read_bench_clip
from benchmarks.models import ModelChoice, load_choice
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
from dcgrid.runtime import device as runtime

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    return shared.run_command(lambda: _speed(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Time of `dcgrid edit` with three effects, by stage, and the transformer's "
        "speed beside a plain matrix product.",
    )
    parser.add_argument("clip", nargs="?", default="bigbuckbunny.mp4", help="video file")
    shared.add_clip_options(parser, duration=2.75)
    shared.add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    return parser


def _speed(options: argparse.Namespace) -> None:
    choice = shared.model_choice(options)
    path = find_clips([options.clip], options.clips_dir, allow_seen=True)[0]
    # A process cannot be given a folder of weights, so only the installed ones are timed whole.
    whole = None
    if choice.weights_dir is None:
        whole = time_processes(path, choice, options.duration)
    backbone = load_choice(choice)
    clip = read_bench_clip(path, backbone.spec, options.duration)
    fill_s, network = time_fill(backbone, clip), time_network(backbone, clip)
    if options.json:
        _print_json(choice, path, whole, fill_s, network)
        return
    _print_machine(choice)
    if whole is not None:
        _print_process(whole)
    print("\ninside fill, in a process of its own")
    _print_seconds(fill_s)
    _print_network(network, choice)


def _print_machine(choice: ModelChoice) -> None:
    device, dtype = choice.place()
    print(
        f"Model {choice.model}, {device} {runtime.dtype_name(dtype)}, "
        f"{torch.get_num_threads()} threads, {runtime.usable_cores()} cores, "
        f"torch {torch.__version__}."
    )


def _print_process(whole: ProcessTimes) -> None:
    print(f"\n`dcgrid --version`: {whole.version_s:.2f} s")
    print(f"`dcgrid edit`, whole process: {whole.whole_s:.2f} s")
    _print_seconds({"start-up and exit": whole.start_up_s, **whole.stages_s})


def _print_seconds(stages_s: dict[str, float]) -> None:
    width = max(len(name) for name in stages_s)
    for name, seconds in stages_s.items():
        print(f"  {name.ljust(width)} {seconds:8.2f} s")


def _print_network(network: NetworkSpeed, choice: ModelChoice) -> None:
    dtype = runtime.dtype_name(choice.place()[1])
    print(
        f"\nOne forward of {network.tokens} tokens: {network.forward_s * 1000:.0f} ms, "
        f"{network.forward_flops / 1e9:.1f} GFLOP, "
        f"{network.forward_flops / network.forward_s / 1e9:.0f} GFLOP/s.\n"
        f"A {dtype} linear layer in turn with it: {network.ceiling_flops_per_s / 1e9:.0f} GFLOP/s. "
        f"Ratio: {network.ratio:.2f}."
    )


def _print_json(
    choice: ModelChoice,
    path: Path,
    whole: ProcessTimes | None,
    fill_s: dict[str, float],
    network: NetworkSpeed,
) -> None:
    device, dtype = choice.place()
    values = {
        "model": choice.model,
        "clip": path.name,
        "device": str(device),
        "dtype": runtime.dtype_name(dtype),
        "threads": torch.get_num_threads(),
        "cores": runtime.usable_cores(),
        "process": None if whole is None else {**asdict(whole), "start_up_s": whole.start_up_s},
        "fill_s": fill_s,
        "network": {**asdict(network), "ratio": network.ratio},
    }
    print(json.dumps(values, indent=1))


if __name__ == "__main__":
    sys.exit(main())
