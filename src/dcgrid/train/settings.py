"""Training recipes: a TOML file a stage, with the paper's numbers and a table of overrides a model.

    [optim]             the paper's numbers
    learning_rate = 1e-4
    [mini.optim]        what the embedded model changes
    learning_rate = 1e-3

`load_train_recipe(path, model)` merges the two and checks every key.
"""

import tomllib
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dcgrid.errors import RecipeError

STAGES = ("autoencoder", "base", "upsampler", "fill")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSettings:
    """The optimiser and its schedule."""

    learning_rate: float
    """Peak learning rate of AdamW."""
    steps: int
    """Optimiser steps of the whole stage."""
    warmup_steps: int = 0
    """Steps of linear rise from 0."""
    cooldown: float = 0.0
    """Last part of the steps (0-1) over which the rate falls linearly to 0; the paper: 0."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay of both moments."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; larger ones are scaled down."""
    ema_decay: float = 0.0
    """Decay a step of the averaged weights that are shipped; 0: no average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of the run with one shape of data."""

    until: float
    """End of the phase as a part of all steps; the last one ends at 1."""
    frames: int
    """Pixel frames of a clip."""
    sizes: tuple[tuple[int, int], ...]
    """Cell sizes (height, width) in pixels; one is drawn for each batch."""
    batch: int
    """Grids (or clips) a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """Everything that a stage needs to know beside its data."""

    stage: str
    """One of STAGES."""
    optim: OptimSettings
    """Optimiser and schedule."""
    phases: tuple[Phase, ...]
    """Shapes of the data over the run."""
    loss: dict[str, float]
    """Weights and probabilities of the stage's loss; the stage names its keys."""
    precision: str = "bf16"
    """"bf16" (autocast) or "fp32"."""
    seed: int = 0
    """Seed of weights, data and noise."""


def load_train_recipe(path: Path, model: str) -> TrainRecipe:
    """Read a training recipe and apply the overrides for one model.

    Raises:
        RecipeError: No such file, not TOML, or an unknown, missing or wrong key.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise RecipeError(
            f"cannot read training recipe {path}: {error.strerror}", hint="ls recipes/train"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    shared = {k: v for k, v in tables.items() if k in {f.name for f in fields(TrainRecipe)}}
    others = {k: v for k, v in tables.items() if k not in shared}
    for key, value in others.items():
        if not isinstance(value, dict):
            _unknown(path, key, [f.name for f in fields(TrainRecipe)])
    for key, value in others.get(model, {}).items():
        if isinstance(value, dict) and isinstance(shared.get(key), dict):
            shared[key] = {**shared[key], **value}
        else:
            shared[key] = value
    return _train_recipe(path, shared)


def with_steps(recipe: TrainRecipe, steps: int | None) -> TrainRecipe:
    """Return the recipe with another number of steps, or unchanged for None."""
    if steps is None:
        return recipe
    return replace(recipe, optim=replace(recipe.optim, steps=steps))


def _train_recipe(path: Path, tables: dict[str, Any]) -> TrainRecipe:
    stage = tables.get("stage")
    if stage not in STAGES:
        raise RecipeError(f"{path}: stage = {stage!r} is not one of {', '.join(STAGES)}")
    phases = tables.get("phases")
    if not isinstance(phases, list) or not phases:
        raise RecipeError(f"{path}: phases must be a list of one table or more")
    built = dict(tables)
    built["optim"] = _build(path, OptimSettings, tables.get("optim"), "optim")
    built["phases"] = tuple(_build(path, Phase, p, f"phases[{i}]") for i, p in enumerate(phases))
    built["loss"] = {k: float(v) for k, v in tables.get("loss", {}).items()}
    recipe: TrainRecipe = _build(path, TrainRecipe, built, "recipe")
    return recipe


def _build(path: Path, kind: type[Any], table: Any, place: str) -> Any:
    if not isinstance(table, dict):
        raise RecipeError(f"{path}: {place} is missing or not a table")
    known = [f.name for f in fields(kind)]
    for key in table:
        if key not in known:
            _unknown(path, f"{place}.{key}", known)
    values = {k: _frozen(v) for k, v in table.items()}
    for key in ("learning_rate", "steps", "batch", "frames"):
        number = values.get(key)
        if number is not None and (isinstance(number, bool) or number <= 0):
            raise RecipeError(f"{path}: {place}.{key} = {number!r} must be above 0")
    try:
        return kind(**values)
    except TypeError as error:
        raise RecipeError(f"{path}: {place}: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _unknown(path: Path, key: str, known: list[str]) -> None:
    near = get_close_matches(key.rsplit(".", 1)[-1], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    raise RecipeError(f"{path}: unknown key {key}", hint=hint)
