"""Grids that were generated: their files, and the pool that training draws from.

    <out>/grids-consistent/0001.safetensors    latents, and in the facts what they were made with
                           sheet.png           a row a grid, to look for bad ones
                           dropped/            the bad ones; read by nothing
    <out>/cells-consistent/                    the same, of cells that Multi-DC generated one by one

Stage `sample` generates the first for stage `fill`, stage `cells` the second for stage `grid`.

Letters: B batch, K cells, C channels, M moving channels of noise, F Y X latent frames/rows/columns.

Paper: sec. 3.2 (Sampling Grids), sec. 5.1 (they augment the data of Grid-Fill)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from dcgrid.errors import RecipeError, WeightsError
from dcgrid.models.weights import read_weights, save_weights
from dcgrid.synthetic.world_clips import pick
from dcgrid.train.settings import FillLoss, GridLoss, Phase, TrainRecipe

DROPPED = "dropped"
"""Folder of the grids that a person found bad, inside the folder of grids."""
_CELLS, _DRIFT = "cells_KCFYX", "luck_KMFYX"
_FOLDERS = {"sample": "grids", "cells": "cells"}
"""How the folders of a stage's grids begin."""
_MADE_BY = {"fill": "sample", "grid": "cells"}
"""Stage that generates the grids that a stage trains on."""
_SHARES = {"fill": "sampled_share", "grid": "made_share"}
"""Key of [loss] that says in which share of batches."""
_OTHERS: Mapping[str, str] = MappingProxyType(
    {"base": "another base", "adapters": "another Multi-DC LoRA", "tags": "other tags"}
)
"""How errors say that a grid was generated with something else than what is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledGrid:
    """One generated grid."""

    cells_KCFYX: torch.Tensor
    """Normalised latents, float32."""
    drift_KMFYX: torch.Tensor
    """The moving noise that each cell was generated from; M may be 0."""
    facts: dict[str, Any]
    """What it was made with: number, mode, texts of each cell, size, seed, hashes of weights."""

    @property
    def rows(self) -> list[list[str]]:
        """Texts that each cell reads, K lists."""
        texts: list[list[str]] = self.facts["texts"]
        return texts

    @property
    def frames(self) -> int:
        """Pixel frames of a cell."""
        return int(self.facts["frames"])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a cell in pixels."""
        height, width = self.facts["size"]
        return int(height), int(width)


def grids_folder(out: Path, mode: str, stage: str = "sample") -> Path:
    """Return the folder of a mode's grids below a model's folder; `stage` generated them."""
    return out / f"{_FOLDERS[stage]}-{mode}"


def grid_path(folder: Path, number: int) -> Path:
    """Return the file of a grid; numbers count from 1."""
    return folder / f"{number:04d}.safetensors"


def grid_files(folder: Path) -> dict[int, Path]:
    """Return the files of a folder's grids by number, in their order; dropped ones are not in."""
    found = {int(p.stem): p for p in folder.glob("*.safetensors") if p.stem.isdecimal()}
    return dict(sorted(found.items()))


def write_grid(path: Path, grid: SampledGrid) -> None:
    """Write a grid to its file, all or nothing.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {_CELLS: grid.cells_KCFYX.cpu(), _DRIFT: grid.drift_KMFYX.cpu()}
    save_weights(path, tensors, grid.facts, torch.float32)


def read_grid(path: Path) -> SampledGrid:
    """Read a grid.

    Raises:
        WeightsError: The file is missing, damaged, or no grid of this program.
    """
    tensors, facts = read_weights(path)
    missing = ({_CELLS, _DRIFT} - tensors.keys()) | (
        {"texts", "frames", "size", "base"} - facts.keys()
    )
    if missing or tensors[_CELLS].ndim != 5 or not tensors[_CELLS].isfinite().all():
        raise WeightsError(
            f"{path} is no generated grid",
            hint="remove it, then run the stage that generates it: sample, or cells",
        )
    return SampledGrid(cells_KCFYX=tensors[_CELLS], drift_KMFYX=tensors[_DRIFT], facts=facts)


def has_facts(path: Path, facts: dict[str, Any]) -> bool:
    """Return True if a file is there, whole, and was made with exactly these facts."""
    try:
        return read_grid(path).facts == facts
    except WeightsError:
        return False


class SampledGrids:
    """The generated grids of one mode, for training.

    Args:
        folder: Where they are.
        recipe: Of the stage that trains on them: its phases, and the share for errors.
        made_with: Hashes of the weights that are there, by their names among a grid's facts:
            latents of another base mean nothing here.
        command: The command that generates grids.

    Raises:
        WeightsError: There is none, or one is damaged or was generated with other weights.
        RecipeError: None fits a phase.
    """

    def __init__(
        self, folder: Path, recipe: TrainRecipe, made_with: Mapping[str, Any], command: str
    ) -> None:
        files = grid_files(folder)
        self._key, self._stage = _SHARES[recipe.stage], _MADE_BY[recipe.stage]
        if not files:
            raise WeightsError(f"no grids of stage {self._stage} in {folder}", hint=command)
        self._grids = [read_grid(path) for path in files.values()]
        for grid, path in zip(self._grids, files.values(), strict=True):
            for name, made in made_with.items():
                if grid.facts.get(name) != made:
                    raise WeightsError(
                        f"{path} was generated with {_OTHERS[name]}",
                        hint=f"{command}   # replaces it",
                    )
        for phase in recipe.phases:
            self._fitting(phase)

    def draw(self, phase: Phase, generator: torch.Generator) -> list[SampledGrid]:
        """Draw a batch of grids of one size, cut to the phase's frames; one may come twice."""
        fitting = self._fitting(phase)
        grids = fitting[list(fitting)[pick(len(fitting), generator)]]
        drawn = [grids[pick(len(grids), generator)] for _ in range(phase.batch)]
        return [_cut(grid, phase.frames) for grid in drawn]

    def first(self, phase: Phase, count: int) -> list[SampledGrid]:
        """Return up to so many grids of one size that fit a phase, cut to its frames."""
        grids = next(iter(self._fitting(phase).values()))
        return [_cut(grid, phase.frames) for grid in grids[:count]]

    def _fitting(self, phase: Phase) -> dict[tuple[int, int], list[SampledGrid]]:
        """Return the grids that are long enough by each of the phase's sizes that has any."""
        fitting: dict[tuple[int, int], list[SampledGrid]] = {}
        for size in phase.sizes:
            grids = [g for g in self._grids if g.size == size and g.frames >= phase.frames]
            if grids:
                fitting[size] = grids
        if not fitting:
            found = dict.fromkeys(_shown(grid.frames, grid.size) for grid in self._grids)
            expected = " or ".join(_shown(phase.frames, size) for size in phase.sizes)
            raise RecipeError(
                f"loss.{self._key}: no grid of stage {self._stage} fits a phase of {expected} "
                f"(frames x height x width); there are {', '.join(found)}",
                hint="generate grids of that shape: frames and sizes in "
                f"recipes/train/{self._stage}.toml",
            )
        return fitting


def generated_share(recipe: TrainRecipe) -> float:
    """Return the share of a stage's batches that are generated grids; 0 where it takes none."""
    match recipe.loss:
        case FillLoss(sampled_share=share) | GridLoss(made_share=share):
            return share
    return 0.0


def needs_world(recipe: TrainRecipe) -> bool:
    """Return False where stage `grid` sees generated grids alone; `fill` is measured on clips."""
    return recipe.stage != "grid" or generated_share(recipe) < 1


def missing_grids(recipe: TrainRecipe, out: Path) -> list[tuple[str, Path]]:
    """Return the folder of grids, after its stage, if a recipe needs grids and there are none."""
    if not generated_share(recipe):
        return []
    folder = grids_folder(out, recipe.mode, _MADE_BY[recipe.stage])
    return [] if grid_files(folder) else [(_stage_of(recipe), folder)]


def open_grids(
    recipe: TrainRecipe, model: str, out: Path, made_with: Mapping[str, Any]
) -> SampledGrids | None:
    """Read the generated grids that a recipe draws from; None if it takes none.

    Raises:
        WeightsError: There is none, or one is damaged or was generated with other weights.
        RecipeError: None fits a phase.
    """
    if not generated_share(recipe):
        return None
    command = f"dcgrid train --stage {_stage_of(recipe)} --model {model} --out {out}"
    folder = grids_folder(out, recipe.mode, _MADE_BY[recipe.stage])
    return SampledGrids(folder, recipe, made_with, command)


def _stage_of(recipe: TrainRecipe) -> str:
    """Return what stands behind --stage to generate the grids of a recipe."""
    stage = _MADE_BY[recipe.stage]
    return stage if recipe.mode == "consistent" else f"{stage} --mode {recipe.mode}"


def _cut(grid: SampledGrid, frames: int) -> SampledGrid:
    """Return the first frames of a grid.

    The autoencoder is causal, so these are the very latents of the shorter clip.
    """
    if frames == grid.frames:
        return grid
    # Pixel frames are stride * n + 1, latent frames n + 1, of the long clip and of the short.
    stride = (grid.frames - 1) // (grid.cells_KCFYX.shape[2] - 1)
    kept = (frames - 1) // stride + 1
    return SampledGrid(
        cells_KCFYX=grid.cells_KCFYX[:, :, :kept],
        drift_KMFYX=grid.drift_KMFYX[:, :, :kept],
        facts=grid.facts,
    )


def _shown(frames: int, size: tuple[int, int]) -> str:
    return f"{frames}x{size[0]}x{size[1]}"
