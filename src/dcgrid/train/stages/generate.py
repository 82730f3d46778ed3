"""What stages `cells` and `sample` are to do, and how latents come from texts and noise alone.

    cells     Multi-DC generates the cells of a grid one by one    stage grid trains on them
    sample    the Grid LoRA generates whole grids                  stage fill trains on them

samplers.py runs them. Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns, A
adapters.

Paper: sec. 2 and 3.2 (data of the Grid LoRA, Sampling Grids), sec. 5.1 (data of Grid-Fill)
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le

from dcgrid.adapters.reading import check_use, read_spec
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.errors import AdapterError, LayoutError, RecipeError
from dcgrid.grid.layout import cell_token_shape
from dcgrid.grid.routing import Mode
from dcgrid.io.schema import EACH_ONCE, Text, read_toml
from dcgrid.models.base import ModelSpec
from dcgrid.models.registry import training_spec
from dcgrid.models.tags import TOKENS_NAME
from dcgrid.models.trunk import NetworkBackbone, NetworkParts
from dcgrid.pipelines.sampling import grid_noise, latent_size
from dcgrid.runtime.device import choose_dtype
from dcgrid.train.data.generated_grids import grids_folder
from dcgrid.train.facts import TrainFacts, table_names, train_facts
from dcgrid.train.job import DC_NAME
from dcgrid.train.settings import Sizes
from dcgrid.train.stages.flow_matching import GRID

_PARTS = (("autoencoder", "autoencoder"), ("base", "text"), ("base", "dit"))
"""Stage and part of the weight files that are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRecipe:
    """How grids are generated, whatever generates them."""

    grids: Annotated[int, Ge(1), Le(9_999)]
    """How many grids, dropped ones among them."""
    num_inference_steps: Annotated[int, Ge(1), Le(1_000)]
    """Steps of the sampler."""
    guidance_scale: Annotated[float, Ge(0), Le(100)]
    """Guidance against the empty text; 1: none."""
    frames: Annotated[int, Ge(1), Le(10_000)]
    """Pixel frames of a cell."""
    sizes: Sizes
    """Cell sizes (height, width) in pixels; grid after grid takes the next."""
    noise_scale: Annotated[float, Ge(1e-3), Le(100)] | None = None
    """s, the paper's sigma; None: what the adapter's file says."""
    time_shift: Annotated[float, Ge(1e-3), Le(100)] | None = None
    """Shift of the sampler's times towards noise; None: what the adapter's file says."""
    dc_strength: Annotated[float, Ge(0), Le(10)]
    """Strength of the Multi-DC LoRA."""
    seed: Annotated[int, Ge(0), Le(2**40)]
    """Seed of texts and noise; grid n of every run with it is the same."""

    def size_of(self, number: int) -> tuple[int, int]:
        """Return height and width of the cells of a grid; numbers count from 1."""
        return self.sizes[(number - 1) % len(self.sizes)]

    def seed_of(self, number: int) -> int:
        """Return the seed of a grid; two recipes whose seeds differ share no grid."""
        return self.seed * 10_000 + number


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecipe(GenerateRecipe):
    """What stage `sample` samples; with a `dc_strength` of 0 the Multi-DC LoRA is left away."""

    stage: Literal["sample"] = "sample"
    """What the recipe is for."""
    concept_share: Annotated[float, Ge(0), Le(1)]
    """Share of grids about concepts of Multi-DC; the rest are about the world's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecipe(GenerateRecipe):
    """What stage `cells` generates; its `dc_strength` is above 0."""

    stage: Literal["cells"] = "cells"
    """What the recipe is for."""
    dc_strength: Annotated[float, Ge(1e-3), Le(10)]
    """Strength of the Multi-DC LoRA."""
    concepts: Annotated[tuple[Annotated[str, Text(200)], ...], EACH_ONCE]
    """Tags of the identities that grids are about; none: all that Multi-DC knows."""
    places: Annotated[tuple[Annotated[str, Text(500)], ...], EACH_ONCE]
    """Scenes that an edit may put a concept into, beside light and weather."""
    shared_noise: bool
    """True: cells that show one subject start from the same noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateJob:
    """One run of stage `cells` or `sample`."""

    recipe: SampleRecipe | CellRecipe
    """The recipe, overrides applied; it says which stage."""
    mode: Mode
    """What the grids show."""
    model: str
    """Preset of a native model, or the folder of a checkout."""
    out: Path
    """Folder of the weight files; the grids go to a folder in it."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where the networks run."""
    store: Path = Path()
    """Stage `sample`: folder of the world's pictures, of which the subjects' names are read."""

    @property
    def stage(self) -> str:
        """What stands behind --stage."""
        return self.recipe.stage

    @property
    def facts(self) -> TrainFacts:
        """Facts about the model."""
        return train_facts(self.model)

    @property
    def folder(self) -> Path:
        """Folder of the grids."""
        return grids_folder(self.out, self.mode, self.stage)

    @property
    def dc(self) -> Path:
        """File of the Multi-DC LoRA."""
        return self.out / DC_NAME

    @property
    def tokens(self) -> Path:
        """File of its tags' embeddings."""
        return self.out / TOKENS_NAME

    @property
    def adapters(self) -> tuple[Path, ...]:
        """Files of the Grid LoRA: one, or those of A and B; none in stage `cells`."""
        if self.recipe.stage == "cells":
            return ()
        single = self.mode == "consistent"
        parts = ("grid",) if single else ("grid-composition-a", "grid-composition-b")
        return tuple(self.out / f"{part}.safetensors" for part in parts)

    @property
    def dc_files(self) -> tuple[Path, ...]:
        """The Multi-DC LoRA where it is not left away; its tokens also for words of concepts."""
        if self.recipe.dc_strength:
            return (self.dc, self.tokens)
        named = isinstance(self.recipe, SampleRecipe) and self.recipe.concept_share
        return (self.tokens,) if named else ()

    @property
    def numbered(self) -> tuple[Path, ...]:
        """Adapters that act, whose files say how to sample; the first one decides."""
        return (*self.adapters, *([self.dc] if self.recipe.dc_strength else []))

    def command(self, stage: str) -> str:
        """Return the command that runs a stage in the same folder."""
        return f"dcgrid train --stage {stage} --model {self.model} --out {self.out}"


def load_generate_recipe(path: Path, model: str, stage: str) -> SampleRecipe | CellRecipe:
    """Read a recipe of stage `cells` or `sample` and apply the overrides for one model.

    Raises:
        RecipeError: No such file, not TOML, an unknown, missing or wrong key, or shapes that the
            model does not take.
        UsageError: No native model has that name.
    """
    kind: type[SampleRecipe] | type[CellRecipe] = CellRecipe if stage == "cells" else SampleRecipe
    document = read_toml(path, hint=f"compare recipes/train/{stage}.toml")
    facts, known = train_facts(model), table_names()
    recipe = document.layered(facts.tables, known).build(kind)
    for name in known:  # a mistake in what is for another model is one, too
        document.layered([name], known).build(kind)
    for height, width in recipe.sizes:
        try:
            cell_token_shape(recipe.frames, height, width, facts.geometry)
        except LayoutError as error:
            raise RecipeError(f"{path}: {error.message}", hint=error.hint) from error
    return recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerNumbers:
    """What grids are sampled with."""

    num_inference_steps: int
    """Steps of the sampler."""
    guidance_scale: float
    """Guidance against the empty text; 1: none."""
    noise_scale: float
    """s, the paper's sigma."""
    time_shift: float
    """Shift of the sampler's times towards noise; 1: none."""
    self_conditioning: bool = False
    """True: the network reads its last estimate of the clean latents."""
    notes: tuple[str, ...] = ()
    """Where the recipe overrides an adapter or adapters disagree, a sentence each."""

    def backbone(
        self,
        spec: ModelSpec,
        parts: NetworkParts,
        device: torch.device,
        route_KA: torch.Tensor | None = None,
    ) -> NetworkBackbone:
        """Return networks as a backbone that samples with these numbers, on the plain tokens."""
        dtype = choose_dtype("auto", device)
        found = NetworkBackbone(replace(spec, offset_tokens=False), parts, dtype, route_KA)
        found.use_sampling(
            noise_scale=self.noise_scale,
            time_shift=self.time_shift,
            self_conditioning=self.self_conditioning,
        )
        return found


def sampler_numbers(job: GenerateJob) -> SamplerNumbers:
    """Return what a job samples with: the recipe's numbers, else those of the first adapter.

    Only the headers of its adapters are read; they must be there.

    Raises:
        AdapterError: One is damaged, or of another stage or mode.
    """
    recipe = job.recipe
    specs = {path.name: _adapter_spec(job, path) for path in job.numbered}
    scales = {name: spec.sampled_noise_scale for name, spec in specs.items()}
    shifts = {
        name: job.facts.time_shift
        if spec.inference_time_shift is None
        else spec.inference_time_shift
        for name, spec in specs.items()
    }
    scale = next(iter(scales.values())) if recipe.noise_scale is None else recipe.noise_scale
    shift = next(iter(shifts.values())) if recipe.time_shift is None else recipe.time_shift
    notes = [
        f"noise scale {scale:g}; {name} says {own:g}"
        for name, own in scales.items()
        if own != scale
    ]
    notes += [
        f"time shift {shift:g}; {name} says {shifts[name]:g}"
        for name, spec in specs.items()
        if spec.inference_time_shift is not None and shifts[name] != shift
    ]
    return SamplerNumbers(
        num_inference_steps=recipe.num_inference_steps,
        guidance_scale=recipe.guidance_scale,
        noise_scale=scale,
        time_shift=shift,
        self_conditioning=next(iter(specs.values())).self_conditioning,
        notes=tuple(notes),
    )


def _adapter_spec(job: GenerateJob, path: Path) -> AdapterSpec:
    """Return what the header of one of a job's adapters says, which must be of the right kind."""
    spec = read_spec(path)
    if spec is None:
        raise AdapterError(f"{path} is not an adapter that dcgrid wrote", hint="train it anew")
    if path in job.adapters:
        check_use(spec, path, "grid", job.mode)
    else:
        check_use(spec, path, "dc")
    return spec


def missing_for_sampling(job: GenerateJob) -> list[tuple[Path, str]]:
    """Return the files that a run needs and does not find, each with the command that makes it."""
    mode = "" if job.mode == "consistent" else f" --mode {job.mode}"
    parts = _PARTS if job.facts.native else ()  # a checkout has them all
    needed = [(job.out / job.facts.file_of(part), stage) for stage, part in parts]
    needed += [(path, f"grid{mode}") for path in job.adapters]
    needed += [(path, "dc") for path in job.dc_files]
    return [(path, job.command(stage)) for path, stage in needed if not path.is_file()]


def generate_facts(job: GenerateJob, number: int, numbers: SamplerNumbers) -> dict[str, Any]:
    """Return what a generated grid says of itself: how it was sampled, not with which weights."""
    recipe = job.recipe
    return {
        "number": number,
        "stage": job.stage,
        "mode": job.mode,
        "model": job.model,
        "frames": recipe.frames,
        "size": recipe.size_of(number),
        "seed": recipe.seed,
        "num_inference_steps": recipe.num_inference_steps,
        "guidance_scale": recipe.guidance_scale,
        "noise_scale": numbers.noise_scale,
        "time_shift": numbers.time_shift,
        # Grids of networks that take no estimate say nothing of it: they stay what they are.
        **({"self_conditioning": True} if numbers.self_conditioning else {}),
        "dc_strength": recipe.dc_strength,
    }


def draw_grid_noise(job: GenerateJob, number: int) -> torch.Tensor:
    """Draw the noise of a grid, BKCFYX with B = 1."""
    recipe, spec = job.recipe, training_spec(job.model)
    size_FYX = latent_size(spec, (recipe.frames, *recipe.size_of(number)))
    return grid_noise(spec, GRID.count, size_FYX, recipe.seed_of(number)).to(job.device)
