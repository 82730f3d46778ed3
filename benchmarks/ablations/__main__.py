"""`python -m benchmarks.ablations`: train the variants of the method with seeds and compare them.

Each training and its figures are kept in --work, so that a run that was stopped goes on. With
--report nothing is trained.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import options as shared
from benchmarks.ablations.data import held_out_clips, held_out_scenes, training_pools
from benchmarks.ablations.measure import Inputs, measure
from benchmarks.ablations.report import report
from benchmarks.ablations.training import (
    TrainingStock,
    adapter_files,
    load_networks,
    sample_grids,
    train_variant,
    trained_networks,
)
from benchmarks.ablations.variants import VARIANTS, Variant
from benchmarks.clips import CLIPS_DIR
from dcgrid import hub

MARK = "<!-- what follows is written by python -m benchmarks.ablations --report --write -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of adapters and figures")
    parser.add_argument("--world", type=Path, help="folder of the world's pictures")
    parser.add_argument("--clips-dir", type=Path, default=CLIPS_DIR, help="where clips are")
    parser.add_argument("--steps", type=int, default=400, help="training steps of a run (400)")
    parser.add_argument("--clips", type=int, default=8, help="held-out clips (8)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=[v.name for v in VARIANTS])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--report", action="store_true", help="print the table of what is there")
    parser.add_argument("--write", type=Path, help="put the table into this page, after its mark")
    options = parser.parse_args(arguments)
    return shared.run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    shared.positive(options.steps, "--steps")
    chosen = [v for v in VARIANTS if not options.only or v.name in options.only]
    if not options.report:
        torch.set_num_threads(shared.positive(options.threads, "--threads"))
        for seed in options.seeds:
            _run_seed(options, chosen, seed)
    table = report(options.work)
    print(table)
    if options.write:
        text, mark, _ = options.write.read_text().partition(MARK)
        options.write.write_text(f"{text}{mark or MARK}\n\n{table}\n")


def _run_seed(options: argparse.Namespace, chosen: Sequence[Variant], seed: int) -> None:
    store = options.world or hub.cache_dir() / "world"
    missing = [v for v in chosen if not _figures_path(options.work, v, seed).is_file()]
    if not missing:
        return
    options.work.mkdir(parents=True, exist_ok=True)
    held_out = store, options.clips_dir, options.clips
    inputs = Inputs(clips=held_out_clips(*held_out), scenes=held_out_scenes(*held_out), seed=seed)
    stock: TrainingStock | None = None
    for variant in missing:
        started = time.monotonic()
        source = next((v for v in VARIANTS if v.name == variant.trained_as), variant)
        if not all(path.is_file() for path in adapter_files(source, seed, options.work)):
            stock = stock or _stock(options.work, store, seed, missing)
            train_variant(source, seed, options.steps, stock, options.work, _say)
        figures = measure(variant, trained_networks(variant, seed, options.work), inputs)
        facts = {"variant": variant.name, "seed": seed, "steps": options.steps}
        path = _figures_path(options.work, variant, seed)
        path.write_text(json.dumps({**facts, "clips": options.clips, "figures": figures}))
        _say(f"{variant.name} seed {seed}: {time.monotonic() - started:.0f} s {figures}")


def _stock(work: Path, store: Path, seed: int, variants: Sequence[Variant]) -> TrainingStock:
    folder = work / "sampled"
    if any(variant.loss.get("sampled_share") for variant in variants):
        folder = sample_grids(folder, store, _say)
    pools = training_pools(store, load_networks().autoencoder, seed, _say)
    return TrainingStock(pools=pools, sampled=folder)


def _figures_path(work: Path, variant: Variant, seed: int) -> Path:
    return work / f"{variant.name}-{seed}.json"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
