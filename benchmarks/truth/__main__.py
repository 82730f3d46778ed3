"""`python -m benchmarks.truth`: edits against the truth, or the codec alone. See measure.py."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import options as shared
from benchmarks.clips import find_clips, read_bench_clip
from benchmarks.models import ModelChoice, has_adapter, load_choice, load_codec
from benchmarks.progress import Silent
from benchmarks.truth.measure import BARE, EDIT, Score, measure_clip, measure_codec, order_effects
from benchmarks.truth.report import codec_report, summary, truth_report
from dcgrid import hub
from dcgrid.errors import UsageError
from dcgrid.models.native.model import ADAPTER_NAMES, PART_NAMES
from dcgrid.runtime import device as runtime

MEASURED = ("autoencoder", "text", "dit")
"""Parts that scores depend on; clips are compared before they are enlarged."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    return shared.run_command(lambda: _codec(options) if options.codec_only else _truth(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.truth",
        description="PSNR of edits against the effect rendered on the clip, beside the codec's "
        "ceiling, the base without the adapter, and the unedited clip.",
    )
    parser.add_argument(
        "clips", nargs="*", help="video files, or names in --clips-dir (the held-out clips)"
    )
    parser.add_argument(
        "--effects",
        nargs="+",
        default=["all"],
        help="names of effects, or all, deterministic, chance, none (all)",
    )
    shared.add_clip_options(parser)
    shared.add_model_options(parser)
    shared.add_sampler_options(parser)
    parser.add_argument("--seeds", type=int, default=1, help="seeds to average over (1)")
    parser.add_argument("--no-base", action="store_true", help="skip the base without the adapter")
    parser.add_argument("--codec-only", action="store_true", help="measure only the autoencoder")
    parser.add_argument("--allow-seen", action="store_true", help="take clips that training saw")
    parser.add_argument("--brief", action="store_true", help="print means alone")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    return parser


def _truth(options: argparse.Namespace) -> None:
    """Score edits; a line on stderr tells of each finished clip."""
    effects = order_effects(shared.choose_effects(options.effects))
    seeds = shared.positive(options.seeds, "--seeds")
    if not effects:
        raise UsageError("no effect to measure", hint="name one, or add --codec-only")
    choice = shared.model_choice(options)
    paths = find_clips(options.clips, options.clips_dir, allow_seen=options.allow_seen)
    models = {EDIT: load_choice(choice, parts=MEASURED)}
    if has_adapter(choice) and not options.no_base:
        models[BARE] = load_choice(choice, adapter="none", parts=MEASURED)
    settings = shared.edit_settings(options)
    scores: list[Score] = []
    for number, path in enumerate(paths, start=1):
        clip = read_bench_clip(path, models[EDIT].spec, options.duration, options.network)
        scores += measure_clip(models, clip, effects, settings, seeds, Silent())
        print(f"{number}/{len(paths)} {path.name}", file=sys.stderr)
    if options.json:
        facts = {"seeds": seeds, "means": summary(scores), "scores": [s.as_json() for s in scores]}
        print(json.dumps({**_facts(options, choice), **facts}, indent=1))
    else:
        tables = truth_report(scores, brief=options.brief)
        print(f"{_line(options, choice)} {_counted(seeds, 'seed')}.\n\n{tables}")


def _codec(options: argparse.Namespace) -> None:
    """Measure the autoencoder alone: the other parts may not be trained yet."""
    effects = order_effects(shared.choose_effects(options.effects))
    choice = shared.model_choice(options)
    paths = find_clips(options.clips, options.clips_dir, allow_seen=options.allow_seen)
    codec = load_codec(choice)
    results = {}
    for number, path in enumerate(paths, start=1):
        clip = read_bench_clip(path, codec.spec, options.duration, options.network)
        results[path.name] = measure_codec(codec, clip, effects)
        print(f"{number}/{len(paths)} {path.name}", file=sys.stderr)
    if options.json:
        named = {
            clip: {name or "unedited": one.as_json() for name, one in figures.items()}
            for clip, figures in results.items()
        }
        print(json.dumps({**_facts(options, choice), "codec": named}, indent=1))
    else:
        print(f"{_line(options, choice)}\n\n{codec_report(results)}")


def _facts(options: argparse.Namespace, choice: ModelChoice) -> dict[str, Any]:
    """Return what the figures depend on."""
    device, dtype = choice.place()
    return {
        "model": choice.model,
        "adapter": choice.adapter,
        "weights": {
            part: hub.file_sha256(path)
            for part, path in choice.found().files.items()
            if part in (*PART_NAMES, ADAPTER_NAMES["consistent"]) and path.exists()
        },
        "steps": options.steps,
        "guidance": options.guidance,
        "seed": options.seed,
        "device": str(device),
        "dtype": runtime.dtype_name(dtype),
        "threads": torch.get_num_threads(),
    }


def _line(options: argparse.Namespace, choice: ModelChoice) -> str:
    facts = _facts(options, choice)
    steps = options.steps or "the recipe's"
    guidance = "the recipe's" if options.guidance is None else options.guidance
    return (
        f"Model {facts['model']}, adapter {facts['adapter']}, {facts['device']} {facts['dtype']}, "
        f"steps: {steps}, guidance: {guidance}, seed {facts['seed']}."
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}"


if __name__ == "__main__":
    sys.exit(main())
