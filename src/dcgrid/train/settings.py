"""Training recipes: a TOML file a stage, with the paper's numbers and a table of overrides a model.

    [optim]             the paper's numbers
    learning_rate = 1e-4
    [mini.optim]        what the embedded model changes
    learning_rate = 1e-3

`load_train_recipe(path, model)` merges the two and checks every key.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt, MinLen

from dcgrid.grid.modes import Mode
from dcgrid.io.schema import Problem, near, read_toml
from dcgrid.train.facts import table_names, train_facts

Stage = Literal["autoencoder", "base", "upsampler", "dc", "grid", "fill"]
STAGES = get_args(Stage)

ADAPTER_STAGES = ("dc", "grid", "fill")
"""Those that train adapters on a frozen base."""

Stored = Literal["bf16", "int8", "fp32"]
STORED = get_args(Stored)

Count = Annotated[int, Ge(1), Lt(2**40), "a whole number above 0"]
Whole = Annotated[int, Ge(0), Lt(2**40), "a whole number of 0 or more"]
Share = Annotated[float, Ge(0), Le(1)]
Decay = Annotated[float, Ge(0), Lt(1)]
Positive = Annotated[float, Gt(0), Le(1e9), "a number above 0"]
Scale = Annotated[float, Ge(1e-3), Le(100)]
Sizes = Annotated[tuple[tuple[Count, Count], ...], MinLen(1), "a list of [height, width] in pixels"]
"""Heights and widths of cells, in pixels."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSettings:
    """The optimiser and its schedule."""

    learning_rate: Positive
    """Peak learning rate of AdamW."""
    steps: Count
    """Optimiser steps of the whole stage."""
    warmup_steps: Whole = 0
    """Steps of linear rise from 0."""
    cooldown: Share = 0.0
    """Last part of the steps (0-1) over which the rate falls linearly to 0; the paper: 0."""
    betas: Annotated[tuple[Decay, Decay], "two numbers from 0 to below 1"] = (0.9, 0.99)
    """AdamW's decay of both moments."""
    weight_decay: Annotated[float, Ge(0), Le(1e3)] = 0.01
    """AdamW's decoupled weight decay."""
    eps: Annotated[float, Gt(0), Le(1)] = 1e-8
    """AdamW's epsilon."""
    clip_norm: Positive = 1.0
    """Largest norm of the gradient; larger ones are scaled down."""
    ema_decay: Decay = 0.0
    """Decay a step of the averaged weights that are shipped; 0: no average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of the run with one shape of data."""

    until: Annotated[float, Gt(0), Le(1)]
    """End of the phase as a part of all steps; the last one ends at 1."""
    frames: Count
    """Pixel frames of a clip."""
    sizes: Sizes
    """Cell sizes (height, width) in pixels; one is drawn for each batch."""
    batch: Count
    """Grids (or clips) of a batch."""
    image_share: Share = 0.0
    """Stage base: share of the batches that are images, clips of one frame; the rest are clips."""
    image_sizes: Sizes = ()
    """Their sizes; given exactly where `image_share` is above 0."""
    image_batch: Count = 1
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

    eval_every: Whole = 500
    """Steps between eval losses (and one at the last step); 0: never."""
    eval_grids: Count = 4
    """Grids that the eval loss is the mean of; the same ones in every run."""
    validate_every: Whole = 0
    """Steps between validation videos (and one at the last step); 0: never."""
    keep_every: Count = 500
    """Steps between checkpoints that are kept beside the newest."""
    keep_last: Whole = 1
    """How many of those are kept; 0: none."""
    tensorboard: bool = True
    """Also write the log for TensorBoard, if that is installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSettings:
    """How a step is fitted into memory and spread over processes; stages base, dc, grid, fill."""

    checkpointing: Literal["none", "full", "attention"] = "none"
    """What of a transformer's blocks is computed again in the backward pass: "none", "full", or all
    but "attention", whose result is kept."""
    accumulate: Count = 1
    """Batches of an optimiser step, of all processes together."""
    shard: Literal["none", "full", "hybrid"] = "none"
    """Where a transformer's weights, and in stage base their gradients and moments, are when
    several processes train: whole in each ("none"), in pieces
    over all ("full"), or in pieces over each machine ("hybrid")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSettings:
    """What weight files tell samplers, where it is not as in training; nothing is trained by it."""

    noise_scale: Scale | None = None
    """s of samplers; None: `loss.noise_scale`. Paper: sec. 8 (1.80 after training at 1.90)."""
    time_shift: Scale | None = None
    """Shift of samplers' times towards noise; None: `loss.time_shift`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """Everything that a stage needs to know beside its data."""

    stage: Stage
    """One of STAGES."""
    optim: OptimSettings
    """Optimiser and schedule."""
    phases: Annotated[tuple[Phase, ...], MinLen(1)]
    """Shapes of the data over the run."""
    loss: dict[str, Annotated[float, Ge(0), Le(1e6)]]
    """Weights and probabilities of the stage's loss; the stage names its keys."""
    mode: Mode = "consistent"
    """What the grids of stages grid and fill show: "consistent" or "composition"."""
    given_first: bool = False
    """Stage fill: given cells read given cells alone, see docs/decisions/0014."""
    given: Literal["clean", "replace"] = "clean"
    """Stage fill: given cells enter "clean" at time 0, or noised like the rest ("replace")."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """"bf16" (autocast) or "fp32"."""
    text_encoder: str = ""
    """Stage base of a model that reads text with T5: its folder, or `hf:OWNER/REPO[@REVISION]`."""
    stored: Stored = "bf16"
    """How matrices are kept in the weight file: "bf16", "int8" (docs/decisions/0012) or "fp32"."""
    seed: Whole = 0
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
        RecipeError: No such file, not TOML, or unknown, missing or wrong keys; all are named.
        UsageError: No model has that name.
    """
    document = read_toml(
        path, hint="see recipes/train for the shipped ones; without --recipe they are used"
    )
    document = document.layered(train_facts(model).tables, table_names())
    recipe = document.build(TrainRecipe)
    document.refuse(_stage_problems(recipe))
    document.refuse(_loss_problems(recipe))
    return recipe


def with_steps(recipe: TrainRecipe, steps: int | None) -> TrainRecipe:
    """Return the recipe with another number of steps, or unchanged for None."""
    if steps is None:
        return recipe
    return replace(recipe, optim=replace(recipe.optim, steps=steps))


def _stage_problems(recipe: TrainRecipe) -> Iterator[Problem]:
    """Yield the keys that are not for the recipe's stage, or that contradict each other."""
    stage = recipe.stage
    for number, phase in enumerate(recipe.phases):
        if bool(phase.image_share) != bool(phase.image_sizes):
            yield ("phases", number, "image_share"), "and image_sizes go together: both or none"
        if phase.image_share and stage != "base":
            yield ("phases", number, "image_share"), "is for stage base"
    ends = [phase.until for phase in recipe.phases]
    if ends != sorted(set(ends)) or ends[-1] != 1.0:
        yield ("phases",), f"until must rise and end at 1.0, not {ends}"
    if recipe.mode != "consistent" and stage not in ("grid", "fill"):
        yield ("mode",), f"= {recipe.mode!r} is for stages grid and fill, not {stage}"
    if recipe.text_encoder and stage != "base":
        yield ("text_encoder",), f"is for stage base; {stage} takes the T5 of its folder"
    for key in ("given_first", "given"):
        if stage != "fill" and getattr(recipe, key) not in (False, "clean"):
            yield (key,), f"is for stage fill; in {stage} no cell is given"
    if recipe.given_first and recipe.given != "clean":
        reason = "cells that change from step to step cannot be kept"
        yield ("given_first",), f'needs given = "clean": {reason}'
    if recipe.inference != InferenceSettings() and stage in ("autoencoder", "upsampler"):
        yield ("inference",), "is for stages base, dc, grid and fill"


def _loss_problems(recipe: TrainRecipe) -> Iterator[Problem]:
    """Yield what is wrong in [loss]: every key of the stage is needed, no other is known."""
    stage, loss, known = recipe.stage, recipe.loss, LOSS_KEYS[recipe.stage]
    for key in loss.keys() - set(known):
        yield ("loss", key), f"is unknown{near(key, known)}"
    for key in set(known) - loss.keys():
        hint = f"; {_HINTS[key]}" if key in _HINTS else ""
        yield ("loss", key), f"is missing; it must be a number of 0 or more{hint}"
    for key in _TEXT_KEYS:
        if loss.get(key, 0.0) > 1:
            yield ("loss", key), f"must be a number from 0 to 1, not {loss[key]:g}"
    if stage in ("grid", "fill") and loss.get("single_share"):
        yield ("loss", "single_share"), f"must be 0 in stage {stage}, which has whole grids"
    if recipe.mode == "composition" and loss.get("moved_share"):
        reason = "whose cells show two clips and their fusions"
        yield ("loss", "moved_share"), f"is for mode consistent, not composition, {reason}"
