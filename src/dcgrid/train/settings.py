"""Training recipes: a TOML file a stage, with the paper's numbers and a table of overrides a model.

    [optim]             the paper's numbers
    learning_rate = 1e-4
    [mini.optim]        what the embedded model changes
    learning_rate = 1e-3

`load_train_recipe(path, model)` merges the two and checks every key.
"""

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args

from dcgrid.errors import RecipeError
from dcgrid.grid.modes import Mode
from dcgrid.train.facts import table_names, train_facts

STAGES = ("autoencoder", "base", "upsampler", "dc", "grid", "fill")

ADAPTER_STAGES = ("dc", "grid", "fill")
"""Those that train adapters on a frozen base."""

STORED = ("bf16", "int8", "fp32")

MAX_BYTES = 256 * 1024
"""Largest recipe file that is read."""

_PIXEL_KEYS = ("squared", "absolute", "differences", "effect_share")
_GRID_KEYS = (
    "noise_scale", "time_shift", "self_conditioning", "noise_share", "text_masking",
    "caption_dropout", "single_share", "fresh", "pixel_weight", "offset_share", "fusion_share",
)  # fmt: skip
_CONCEPT_KEYS = (
    "noise_scale", "time_shift", "text_masking", "caption_dropout", "self_conditioning",
    "prior_share", "pixel_weight", "appearance_dropout", "motion_dropout", "token_rate", "rank",
)  # fmt: skip
_UPSAMPLER_KEYS = (
    "squared", "absolute", "differences", "tone", "fresh", "edit_share", "look_share",
    "apart_share",
    "noise_known_share",
)  # fmt: skip
_FILL_KEYS = ("edit_share", "window_share", "sampled_share", "moved_share", "dc_strength")
LOSS_KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "autoencoder": (*_PIXEL_KEYS, "kl", "latent_noise", "fit_batches"),
        "base": (*_GRID_KEYS, "reader_steps"),
        "upsampler": _UPSAMPLER_KEYS,
        "dc": _CONCEPT_KEYS,
        "grid": (*_GRID_KEYS, "made_share", "dc_strength", "rank", "dropout"),
        "fill": (*_GRID_KEYS, *_FILL_KEYS, "rank", "dropout"),
    }
)
"""Keys of each stage's table [loss]; all are required."""
_TEXT_KEYS = ("text_masking", "caption_dropout")
"""Probabilities of stages that read texts."""
_HINTS = {
    "caption_dropout": "it drops whole captions, as text_masking did earlier; text_masking now "
    "masks single tokens: rename your text_masking to caption_dropout, and add text_masking = 0.0"
}
"""What to do where a key is missing that older recipes do not have."""

_Settings = TypeVar("_Settings")


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
    """Grids (or clips) of a batch."""
    image_share: float = 0.0
    """Stage base: share of the batches that are images, clips of one frame; the rest are clips."""
    image_sizes: tuple[tuple[int, int], ...] = ()
    """Their sizes; given exactly where `image_share` is above 0."""
    image_batch: int = 1
    """Images of a batch: as many as have about the tokens of a batch of clips."""

    def of_batch(self, number: int) -> "Phase":
        """Return the phase as the batch of this number (counted from the run's first) sees it.

        Images come at even distances, and no chance is drawn for them: every process knows which
        batches they are.
        """
        share = self.image_share
        if not share or int((number + 1) * share) == int(number * share):
            return self
        return replace(self, frames=1, sizes=self.image_sizes, batch=self.image_batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What a run measures and keeps on its way; none of it changes the weights that come out."""

    eval_every: int = 500
    """Steps between eval losses (and one at the last step); 0: never."""
    eval_grids: int = 4
    """Grids that the eval loss is the mean of; the same ones in every run."""
    validate_every: int = 0
    """Steps between validation videos (and one at the last step); 0: never."""
    keep_every: int = 500
    """Steps between checkpoints that are kept beside the newest."""
    keep_last: int = 1
    """How many of those are kept; 0: none."""
    tensorboard: bool = True
    """Also write the log for TensorBoard, if that is installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSettings:
    """How a step is fitted into memory and spread over processes; stages base, dc, grid, fill."""

    checkpointing: str = "none"
    """What of a transformer's blocks is computed again in the backward pass: "none", "full", or all
    but "attention", whose result is kept."""
    accumulate: int = 1
    """Batches of an optimiser step, of all processes together."""
    shard: str = "none"
    """Where a transformer's weights, and in stage base their gradients and moments, are when
    several processes train: whole in each ("none"), in pieces
    over all ("full"), or in pieces over each machine ("hybrid")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSettings:
    """What weight files tell samplers, where it is not as in training; nothing is trained by it."""

    noise_scale: float | None = None
    """s of samplers; None: `loss.noise_scale`. Paper: sec. 8 (1.80 after training at 1.90)."""
    time_shift: float | None = None
    """Shift of samplers' times towards noise; None: `loss.time_shift`."""


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
    mode: str = "consistent"
    """What the grids of stages grid and fill show: "consistent" or "composition"."""
    given_first: bool = False
    """Stage fill: given cells read given cells alone, see docs/decisions/0014."""
    given: str = "clean"
    """Stage fill: given cells enter "clean" at time 0, or noised like the rest ("replace")."""
    precision: str = "bf16"
    """"bf16" (autocast) or "fp32"."""
    text_encoder: str = ""
    """Stage base of a model that reads text with T5: its folder, or `hf:OWNER/REPO[@REVISION]`."""
    stored: str = "bf16"
    """How matrices are kept in the weight file: "bf16", "int8" (docs/decisions/0012) or "fp32"."""
    seed: int = 0
    """Seed of weights, data and noise."""
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    """How it fits into memory and over processes."""
    log: LogSettings = field(default_factory=LogSettings)
    """What is measured and kept on the way."""
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    """What samplers are told; stages base, dc, grid and fill."""

    @property
    def run_name(self) -> str:
        """Name of the run's folder and of what it makes: the stage, and its mode if unusual."""
        return self.stage if self.mode == "consistent" else f"{self.stage}-{self.mode}"

    @property
    def sampled_noise_scale(self) -> float:
        """Noise scale that samplers are told."""
        asked = self.inference.noise_scale
        return self.loss["noise_scale"] if asked is None else asked

    @property
    def self_conditioned(self) -> bool:
        """True: samplers feed estimates back, as in training."""
        return self.loss.get("self_conditioning", 0.0) > 0

    @property
    def sampled_time_shift(self) -> float:
        """Time shift that samplers are told."""
        asked = self.inference.time_shift
        return self.loss["time_shift"] if asked is None else asked


def load_train_recipe(path: Path, model: str) -> TrainRecipe:
    """Read a training recipe and apply the overrides for one model.

    Raises:
        RecipeError: No such file, not TOML, or an unknown, missing or wrong key.
        UsageError: No model has that name.
    """
    mine, named = train_facts(model).tables, table_names()
    tables = _read_tables(path)
    keys = tuple(f.name for f in fields(TrainRecipe))
    for key, value in tables.items():
        if key not in keys and not (key in named and isinstance(value, dict)):
            raise _unknown(path, key, (*keys, *named))
    merged = {key: value for key, value in tables.items() if key in keys}
    for name in mine:
        for key, value in tables.get(name, {}).items():
            shared = merged.get(key)
            both = isinstance(value, dict) and isinstance(shared, dict)
            merged[key] = {**shared, **value} if both else value  # type: ignore[dict-item]
    return _train_recipe(path, merged)


def with_steps(recipe: TrainRecipe, steps: int | None) -> TrainRecipe:
    """Return the recipe with another number of steps, or unchanged for None."""
    if steps is None:
        return recipe
    return replace(recipe, optim=replace(recipe.optim, steps=steps))


def _read_tables(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(
            f"cannot read training recipe {path}: {error.strerror}",
            hint="see recipes/train for the shipped ones; without --recipe they are used",
        ) from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{path} has {len(content)} bytes; a recipe has at most {MAX_BYTES}")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        # Wrong TOML and wrong UTF-8 are ValueErrors; deep nesting is a RecursionError.
        raise RecipeError(f"{path} is not TOML: {error}", hint="compare recipes/train") from error


def _train_recipe(path: Path, tables: dict[str, Any]) -> TrainRecipe:
    phases = tables.get("phases")
    if not isinstance(phases, list) or not phases:
        raise RecipeError(f"{path}: phases must be a list of one table or more")
    built = dict(tables)
    built["optim"] = _build(path, OptimSettings, tables.get("optim"), "optim")
    built["scale"] = _build(path, ScaleSettings, tables.get("scale", {}), "scale")
    built["log"] = _build(path, LogSettings, tables.get("log", {}), "log")
    built["inference"] = _build(path, InferenceSettings, tables.get("inference", {}), "inference")
    built["phases"] = tuple(_build(path, Phase, p, f"phases[{i}]") for i, p in enumerate(phases))
    for i, phase in enumerate(built["phases"]):
        if bool(phase.image_share) != bool(phase.image_sizes):
            raise RecipeError(
                f"{path}: phases[{i}]: image_share and image_sizes go together: give both or none"
            )
        if phase.image_share and tables.get("stage") != "base":
            raise RecipeError(f"{path}: phases[{i}].image_share is for stage base")
    ends = [phase.until for phase in built["phases"]]
    if ends != sorted(set(ends)) or ends[-1] != 1.0:
        raise RecipeError(f"{path}: phases: until must rise and end at 1.0, not {ends}")
    recipe = _build(path, TrainRecipe, built, "recipe")
    if recipe.mode != "consistent" and recipe.stage not in ("grid", "fill"):
        raise RecipeError(
            f"{path}: mode = {recipe.mode!r} is for stages grid and fill, not {recipe.stage}"
        )
    if recipe.text_encoder and recipe.stage != "base":
        raise RecipeError(
            f"{path}: text_encoder is for stage base; {recipe.stage} takes the T5 of its folder"
        )
    if recipe.stage != "fill" and (recipe.given_first or recipe.given != "clean"):
        key = "given_first" if recipe.given_first else "given"
        raise RecipeError(f"{path}: {key} is for stage fill; in {recipe.stage} no cell is given")
    if recipe.given_first and recipe.given != "clean":
        raise RecipeError(
            f'{path}: given_first needs given = "clean": cells that change from step to step '
            "cannot be kept"
        )
    if recipe.inference != InferenceSettings() and recipe.stage in ("autoencoder", "upsampler"):
        raise RecipeError(f"{path}: inference is for stages base, dc, grid and fill")
    loss = _loss(path, recipe.stage, recipe.loss)
    if recipe.stage in ("grid", "fill") and loss["single_share"]:
        raise RecipeError(
            f"{path}: loss.single_share must be 0 in stage {recipe.stage}, which has whole grids"
        )
    if recipe.mode == "composition" and loss.get("moved_share"):
        raise RecipeError(
            f"{path}: loss.moved_share = {loss['moved_share']:g} is for mode consistent, not "
            "composition, whose cells show two clips and their fusions"
        )
    return replace(recipe, loss=loss)


def _build(path: Path, kind: type[_Settings], table: object, place: str) -> _Settings:
    """Make one of the dataclasses above from a table whose every key is checked."""
    if not isinstance(table, dict):
        raise RecipeError(f"{path}: {place} is missing or not a table")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    values = {}
    for key, value in table.items():
        if key not in known:
            raise _unknown(path, f"{place}.{key}", tuple(known))
        values[key] = _checked(path, f"{place}.{key}", key, value)
    for name, one in known.items():
        if name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise RecipeError(f"{path}: {place}.{name} is missing")
    return kind(**values)


def _checked(path: Path, place: str, key: str, value: object) -> object:
    if key not in _ALLOWED:
        return value
    fits, wanted = _ALLOWED[key]
    frozen = _frozen(value)
    if not fits(frozen):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise RecipeError(f"{path}: {place} = {shown} must be {wanted}")
    return frozen


def _loss(path: Path, stage: str, table: object) -> dict[str, float]:
    """Return the stage's table [loss]; every key of the stage is needed, no other is known."""
    known = LOSS_KEYS[stage]
    if not isinstance(table, dict):
        raise RecipeError(f"{path}: loss is missing or not a table")
    for key, value in table.items():
        if key not in known:
            raise _unknown(path, f"loss.{key}", known)
        if not _is_number(value, 0.0, 1e6):
            raise RecipeError(f"{path}: loss.{key} = {value!r} must be a number of 0 or more")
    missing = [key for key in known if key not in table]
    if missing:
        raise RecipeError(f"{path}: loss.{missing[0]} is missing", hint=_HINTS.get(missing[0], ""))
    for key in _TEXT_KEYS:
        if table.get(key, 0.0) > 1:
            raise RecipeError(f"{path}: loss.{key} = {table[key]!r} must be from 0 to 1")
    return {key: float(value) for key, value in table.items()}


def _frozen(value: object) -> object:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _is_number(value: object, least: float, most: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and least <= value <= most


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**40


def _are_sizes(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and bool(value)
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
        and all(_is_count(side, 1) for pair in value for side in pair)
    )


def _is_t5(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _are_betas(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(_is_number(beta, 0.0, 1.0) and beta < 1 for beta in value)
    )


_ALLOWED: Mapping[str, tuple[Callable[[object], bool], str]] = MappingProxyType(
    {
        "stage": (lambda v: v in STAGES, f"one of {', '.join(STAGES)}"),
        "precision": (lambda v: v in ("bf16", "fp32"), '"bf16" or "fp32"'),
        "stored": (lambda v: v in STORED, f"one of {', '.join(STORED)}"),
        "mode": (lambda v: v in get_args(Mode), f"one of {', '.join(get_args(Mode))}"),
        "given_first": (lambda v: isinstance(v, bool), "true or false"),
        "given": (lambda v: v in ("clean", "replace"), '"clean" or "replace"'),
        "seed": (lambda v: _is_count(v, 0), "a whole number of 0 or more"),
        "learning_rate": (lambda v: _is_number(v, 1e-12, 1e3), "a number above 0"),
        "steps": (lambda v: _is_count(v, 1), "a whole number above 0"),
        "warmup_steps": (lambda v: _is_count(v, 0), "a whole number of 0 or more"),
        "cooldown": (lambda v: _is_number(v, 0.0, 1.0), "a number from 0 to 1"),
        "betas": (_are_betas, "two numbers from 0 to below 1"),
        "weight_decay": (lambda v: _is_number(v, 0.0, 1e3), "a number of 0 or more"),
        "eps": (lambda v: _is_number(v, 1e-30, 1.0), "a number above 0"),
        "clip_norm": (lambda v: _is_number(v, 1e-12, 1e9), "a number above 0"),
        "ema_decay": (lambda v: _is_number(v, 0.0, 1.0) and v != 1, "from 0 to below 1"),
        "until": (lambda v: _is_number(v, 1e-9, 1.0), "a number above 0, at most 1"),
        "frames": (lambda v: _is_count(v, 1), "a whole number above 0"),
        "sizes": (_are_sizes, "a list of [height, width] in pixels"),
        "batch": (lambda v: _is_count(v, 1), "a whole number above 0"),
        "image_share": (lambda v: _is_number(v, 0.0, 1.0), "a number from 0 to 1"),
        "image_sizes": (_are_sizes, "a list of [height, width] in pixels"),
        "image_batch": (lambda v: _is_count(v, 1), "a whole number above 0"),
        "text_encoder": (_is_t5, "a folder or hf:OWNER/REPO[@REVISION]"),
        "checkpointing": (
            lambda v: v in ("none", "full", "attention"),
            '"none", "full" or "attention"',
        ),
        "accumulate": (lambda v: _is_count(v, 1), "a whole number above 0"),
        "shard": (lambda v: v in ("none", "full", "hybrid"), '"none", "full" or "hybrid"'),
        "noise_scale": (lambda v: _is_number(v, 1e-3, 100.0), "a number from 0.001 to 100"),
        "time_shift": (lambda v: _is_number(v, 1e-3, 100.0), "a number from 0.001 to 100"),
        "eval_every": (lambda v: _is_count(v, 0), "a whole number of 0 or more"),
        "eval_grids": (lambda v: _is_count(v, 1), "a whole number above 0"),
        "validate_every": (lambda v: _is_count(v, 0), "a whole number of 0 or more"),
        "keep_every": (lambda v: _is_count(v, 1), "a whole number above 0"),
        "keep_last": (lambda v: _is_count(v, 0), "a whole number of 0 or more"),
        "tensorboard": (lambda v: isinstance(v, bool), "true or false"),
    }
)
"""What each key may hold, and how that is said."""


def _unknown(path: Path, key: str, known: tuple[str, ...]) -> RecipeError:
    return RecipeError(
        f"{path}: unknown key {key[:80]}", hint=_known(key.rsplit(".", 1)[-1][:80], known)
    )


def _known(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
