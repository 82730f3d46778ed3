"""Options that the commands share, and their one way to end on an error."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.clips import CLIPS_DIR
from benchmarks.edits import EditSettings
from benchmarks.models import ModelChoice
from dcgrid.errors import DcgridError, UsageError
from dcgrid.recipes import unknown_recipe
from dcgrid.synthetic.effects import DETERMINISTIC, EFFECT_NAMES


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which model is measured, and where it runs."""
    parser.add_argument("--model", default="mini", help="name of the model (mini)")
    parser.add_argument(
        "--weights-dir", type=Path, help="folder of weight files in place of the package's"
    )
    parser.add_argument("--adapter", default="default", help="Grid-Fill adapter, as for edit")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16", "fp16"])


def add_sampler_options(parser: argparse.ArgumentParser) -> None:
    """Add how edits are sampled."""
    parser.add_argument("--steps", type=int, help="sampling steps (the recipe's)")
    parser.add_argument("--guidance", type=float, help="weight of the text (the recipe's)")
    parser.add_argument("--seed", type=int, default=0, help="first seed (0)")


def add_clip_options(parser: argparse.ArgumentParser, duration: float | None = None) -> None:
    """Add where clips are and how much of them is used."""
    parser.add_argument("--clips-dir", type=Path, default=CLIPS_DIR, help="where named clips are")
    parser.add_argument(
        "--duration",
        type=float,
        default=duration,
        help=f"seconds of a clip ({duration or 'as many as edit takes'})",
    )
    parser.add_argument(
        "--network",
        type=Path,
        help="selfie_segmentation.tflite of a world's raw folder: truths then know who is in a "
        "clip, as those of training do",
    )


def model_choice(options: argparse.Namespace) -> ModelChoice:
    """Return the model that the options name."""
    return ModelChoice(
        model=options.model,
        adapter=options.adapter,
        weights_dir=options.weights_dir,
        device=options.device,
        dtype=options.dtype,
    )


def edit_settings(options: argparse.Namespace) -> EditSettings:
    """Return how the options want edits sampled."""
    return EditSettings(
        seed=options.seed,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
    )


def choose_effects(names: Sequence[str]) -> tuple[str, ...]:
    """Return the effects that names stand for; "all", "deterministic", "chance", "none" are groups.

    Raises:
        RecipeError: An effect has no such name, or no renderer.
    """
    groups = {
        "all": EFFECT_NAMES,
        "deterministic": tuple(name for name in EFFECT_NAMES if name in DETERMINISTIC),
        "chance": tuple(name for name in EFFECT_NAMES if name not in DETERMINISTIC),
        "none": (),
    }
    chosen: dict[str, None] = {}
    for name in names:
        if name not in groups and name not in EFFECT_NAMES:
            raise unknown_recipe(name, "effect", EFFECT_NAMES)
        chosen.update(dict.fromkeys(groups.get(name, (name,))))
    return tuple(chosen)


def positive(number: int, option: str) -> int:
    """Return a number that must be 1 or more.

    Raises:
        UsageError: It is not.
    """
    if number < 1:
        raise UsageError(f"{option} {number} is out of range", hint=f"use {option} 1 or more")
    return number


def run_command(command: Callable[[], None]) -> int:
    """Run a command; return 0, or tell the error and return its exit code."""
    try:
        command()
    except DcgridError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0
