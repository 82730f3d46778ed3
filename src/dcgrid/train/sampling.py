"""What stage `sample` is to do: its recipe and its job. painter.py paints, sampling_run.py runs it.

Paper: sec. 3.2 (Sampling Grids)
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from dcgrid.errors import LayoutError, RecipeError, UsageError
from dcgrid.grid.layout import LatentGeometry, cell_token_shape
from dcgrid.grid.modes import Mode
from dcgrid.models.native.config import PRESETS
from dcgrid.recipes import Table, read_toml
from dcgrid.train.job import DC_NAME
from dcgrid.train.sampled import grids_folder

_PARTS = (("autoencoder", "autoencoder"), ("base", "text"), ("base", "dit"))
"""Stage and part of the weight files that are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecipe:
    """What is sampled, and how."""

    grids: int
    """How many grids, dropped ones among them."""
    num_inference_steps: int
    """Steps of the sampler."""
    guidance_scale: float
    """Guidance against the empty text; 1: none."""
    frames: int
    """Pixel frames of a cell."""
    sizes: tuple[tuple[int, int], ...]
    """Cell sizes (height, width) in pixels; grid after grid takes the next."""
    noise_scale: float
    """s, the paper's sigma."""
    time_shift: float
    """Shift of the sampler's times towards noise; 1: none."""
    dc_strength: float
    """Strength of the Multi-DC LoRA underneath; 0: it is left away."""
    seed: int
    """Seed of texts and noise; grid n of every run with it is the same."""

    def size_of(self, number: int) -> tuple[int, int]:
        """Return height and width of the cells of a grid; numbers count from 1."""
        return self.sizes[(number - 1) % len(self.sizes)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleJob:
    """One run of stage `sample`."""

    recipe: SampleRecipe
    """The recipe, overrides applied."""
    mode: Mode
    """What the grids show."""
    model: str
    """Preset of the native model."""
    out: Path
    """Folder of the weight files; the grids go to a folder in it."""
    store: Path
    """Folder of the world's pictures; the subjects' names are read."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where the networks run."""

    @property
    def folder(self) -> Path:
        """Folder of the grids."""
        return grids_folder(self.out, self.mode)

    @property
    def adapters(self) -> tuple[Path, ...]:
        """Files of the Grid LoRA: one, or those of A and B."""
        parts = (
            ("grid",) if self.mode == "consistent" else ("grid-composition-a", "grid-composition-b")
        )
        return tuple(self.out / f"{part}.safetensors" for part in parts)


def load_sample_recipe(path: Path, model: str) -> SampleRecipe:
    """Read a recipe of stage `sample` and apply the overrides for one model.

    Raises:
        RecipeError: No such file, not TOML, an unknown, missing or wrong key, or shapes that the
            model does not take.
        UsageError: No native model has that name.
    """
    if model not in PRESETS:
        raise UsageError(
            f"no native model is called {model!r}", hint=f"known: {', '.join(PRESETS)}"
        )
    try:
        table = read_toml(path)
        table.text("stage", choices=("sample",))
        shared = chosen = _read_keys(table, None)
        for name in PRESETS:
            if table.has(name):
                own = _read_keys(table.table(name), shared)
                chosen = own if name == model else chosen
        table.finish()
    except RecipeError as error:
        raise RecipeError(error.message, hint="compare recipes/train/sample.toml") from error
    _check_shapes(path, chosen, model)
    return chosen


def _read_keys(table: Table, shared: SampleRecipe | None) -> SampleRecipe:
    """Read the keys of a table; without `shared`, which has what is absent, all are required."""
    counts = {
        key: table.integer(key, minimum=low, maximum=high, default=getattr(shared, key, None))
        for key, low, high in (
            ("grids", 1, 9999),
            ("num_inference_steps", 1, 1000),
            ("frames", 1, 10_000),
            ("seed", 0, 2**40),
        )
    }
    numbers = {
        key: table.number(key, minimum=low, maximum=high, default=getattr(shared, key, None))
        for key, low, high in (
            ("guidance_scale", 0.0, 100.0),
            ("noise_scale", 1e-3, 100.0),
            ("time_shift", 1e-3, 100.0),
            ("dc_strength", 0.0, 10.0),
        )
    }
    sizes = table.sizes("sizes", default=getattr(shared, "sizes", None))
    return SampleRecipe(sizes=sizes, **counts, **numbers)  # type: ignore[arg-type]


def _check_shapes(path: Path, recipe: SampleRecipe, model: str) -> None:
    config = PRESETS[model]
    geometry = LatentGeometry(
        stride_T=config.autoencoder.total_stride_T,
        stride_HW=config.autoencoder.total_stride_HW,
        patch=config.dit.patch,
    )
    for height, width in recipe.sizes:
        try:
            cell_token_shape(recipe.frames, height, width, geometry)
        except LayoutError as error:
            raise RecipeError(f"{path}: {error.message}", hint=error.hint) from error


def missing_for_sampling(job: SampleJob) -> list[tuple[Path, str]]:
    """Return the files that a run needs and does not find, each with the command that makes it."""
    mode = "" if job.mode == "consistent" else f" --mode {job.mode}"
    wanted = [(job.out / f"{part}.safetensors", stage) for stage, part in _PARTS]
    wanted += [(path, f"grid{mode}") for path in job.adapters]
    if job.recipe.dc_strength:
        wanted.append((job.out / DC_NAME, "dc"))
    return [
        (path, f"dcgrid train --stage {stage} --model {job.model} --out {job.out}")
        for path, stage in wanted
        if not path.is_file()
    ]
