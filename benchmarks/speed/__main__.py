"""`python -m benchmarks.speed`: the time of an edit, by stage. See measure.py."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import options as shared
from benchmarks.clips import find_clips, read_bench_clip
from benchmarks.models import ModelChoice, load_choice
from benchmarks.speed.measure import (
    NetworkSpeed,
    ProcessTimes,
    time_fill,
    time_network,
    time_processes,
)
from dcgrid.runtime import device as runtime


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
