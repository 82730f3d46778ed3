"""Training recipes: a TOML file a stage, with the paper's numbers and a table of overrides a model.

    [optim]             the paper's numbers
    learning_rate = 1e-4
    [mini.optim]        what the embedded model changes
    learning_rate = 1e-3

`load_train_recipe(path, model)` merges the two and checks every key.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeVar, get_args

from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf

from dcgrid.errors import RecipeError
from dcgrid.grid.routing import Mode
from dcgrid.io.schema import Problem, read_toml
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
Weight = Annotated[float, Ge(0), Le(1e9)]
# Floats, as checkpoints hold them.
WholeWeight = Annotated[float, Ge(0), Le(2**40), MultipleOf(1), "a whole number of 0 or more"]
Rank = Annotated[float, Ge(1), Le(2**20), MultipleOf(1), "a whole number above 0"]
Sizes = Annotated[tuple[tuple[Count, Count], ...], MinLen(1), "a list of [height, width] in pixels"]
"""Heights and widths of cells, in pixels."""

_RENAMED = (
    "caption_dropout drops whole captions, as text_masking did earlier; text_masking now masks "
    "single tokens: rename your text_masking to caption_dropout, and add text_masking = 0.0"
)


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
    """What weight files say to samplers, where it is not as in training."""

    noise_scale: Scale | None = None
    """s of samplers; None: `loss.noise_scale`. Paper: sec. 8 (1.80 after training at 1.90)."""
    time_shift: Scale | None = None
    """Shift of samplers' times towards noise; None: `loss.time_shift`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLoss:
    """Table [loss] of a recipe: weights and probabilities. Every stage has its own, all required.

    docs/training.md says what each key does.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class _PixelLoss(StageLoss):
    squared: Weight
    absolute: Weight
    differences: Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderLoss(_PixelLoss):
    """Stage `autoencoder`."""

    effect_share: Share
    kl: Weight
    latent_noise: Weight
    fit_batches: Annotated[float, Ge(2), Le(2**20), MultipleOf(1), "a whole number above 1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsamplerLoss(_PixelLoss):
    """Stage `upsampler`."""

    tone: Weight
    fresh: Share
    edit_share: Share
    look_share: Share
    apart_share: Share
    noise_known_share: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLoss(StageLoss):
    """What all stages of the transformer have: flow matching under texts."""

    noise_scale: Positive
    """s of x_t = (1-t) x0 + t s e, the paper's sigma."""
    time_shift: Positive
    self_conditioning: Share
    text_masking: Share
    caption_dropout: Share
    pixel_weight: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptLoss(FlowLoss):
    """Stage `dc`."""

    prior_share: Share
    appearance_dropout: Decay
    motion_dropout: Decay
    token_rate: Weight
    rank: Rank


@dataclass(frozen=True, slots=True, kw_only=True)
class GridsLoss(FlowLoss):
    """What stages `base`, `grid` and `fill` have."""

    noise_share: Share
    single_share: Share
    fresh: Share
    offset_share: Share
    fusion_share: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseLoss(GridsLoss):
    """Stage `base`."""

    reader_steps: WholeWeight


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLoss(GridsLoss):
    """What stages `grid` and `fill` have."""

    rank: Rank
    dropout: Decay
    dc_strength: Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class GridLoss(AdapterLoss):
    """Stage `grid`."""

    made_share: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class FillLoss(AdapterLoss):
    """Stage `fill`."""

    edit_share: Share
    window_share: Share
    sampled_share: Share
    moved_share: Share


LOSSES: Mapping[str, type[StageLoss]] = MappingProxyType(
    {
        "autoencoder": AutoencoderLoss,
        "base": BaseLoss,
        "upsampler": UpsamplerLoss,
        "dc": ConceptLoss,
        "grid": GridLoss,
        "fill": FillLoss,
    }
)
"""What [loss] holds, by stage."""
_Loss = TypeVar("_Loss", bound=StageLoss)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """Everything that a stage needs to know beside its data."""

    stage: Stage
    """One of STAGES."""
    optim: OptimSettings
    """Optimiser and schedule."""
    phases: Annotated[tuple[Phase, ...], MinLen(1)]
    """Shapes of the data over the run."""
    loss: StageLoss
    """Weights and probabilities of the stage's loss, that of LOSSES."""
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
    """What samplers use; stages base, dc, grid and fill."""

    @property
    def run_name(self) -> str:
        """Name of the run's folder and of what it makes: the stage, and its mode if unusual."""
        return self.stage if self.mode == "consistent" else f"{self.stage}-{self.mode}"

    @property
    def sampled_noise_scale(self) -> float:
        """Noise scale of samplers."""
        set_ = self.inference.noise_scale
        return self.loss_as(FlowLoss).noise_scale if set_ is None else set_

    @property
    def sampled_time_shift(self) -> float:
        """Time shift of samplers."""
        set_ = self.inference.time_shift
        return self.loss_as(FlowLoss).time_shift if set_ is None else set_

    @property
    def self_conditioned(self) -> bool:
        """True: samplers feed estimates back, as in training."""
        return isinstance(self.loss, FlowLoss) and self.loss.self_conditioning > 0

    @property
    def dc_strength(self) -> float:
        """Strength of the Multi-DC LoRA under what is trained; 0: it is not loaded."""
        return self.loss.dc_strength if isinstance(self.loss, AdapterLoss) else 0.0

    def loss_as(self, kind: type[_Loss]) -> _Loss:
        """Return the loss settings as those of a kind of stage.

        Raises:
            TypeError: The recipe is of another stage.
        """
        if not isinstance(self.loss, kind):
            raise TypeError(f"a recipe of stage {self.stage} has no {kind.__name__}")
        return self.loss


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
    stage = document.values.get("stage")
    loss = LOSSES.get(stage, dict) if isinstance(stage, str) else dict
    # The stage's own class, so that one pass over the file finds every problem in it.
    kind = make_dataclass(
        "TrainRecipe",
        [("loss", loss)],
        bases=(TrainRecipe,),
        frozen=True,
        slots=True,
        kw_only=True,
    )
    try:
        read: TrainRecipe = document.build(kind)
    except RecipeError as error:
        if "'loss.caption_dropout' is missing" in error.message:
            raise RecipeError(error.message, hint=_RENAMED) from error
        raise
    # Recipes of two files are of one class, so that they can be compared.
    recipe = TrainRecipe(**{one.name: getattr(read, one.name) for one in fields(TrainRecipe)})
    document.refuse(_stage_problems(recipe))
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
    if isinstance(recipe.loss, AdapterLoss) and recipe.loss.single_share:
        yield ("loss", "single_share"), f"must be 0 in stage {stage}, which has whole grids"
    if (
        recipe.mode == "composition"
        and isinstance(recipe.loss, FillLoss)
        and recipe.loss.moved_share
    ):
        reason = "whose cells show two clips and their fusions"
        yield ("loss", "moved_share"), f"is for mode consistent, not composition, {reason}"
