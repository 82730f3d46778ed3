"""Run stages `cells` and `sample`, which generate grids that others train on. Read `run_sampling`.

Each grid has a seed of its own and is written as soon as it is generated: a stopped run goes on
where it was. A person looks at the sheet and drops the bad ones.

Letters: K cells, C channels, F Y X latent frames/rows/columns, B batch, T H W frames/height/width.

Paper: sec. 3.2 (data of the Grid LoRA, Sampling Grids)
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from einops import rearrange

from dcgrid.errors import UsageError, WeightsError
from dcgrid.io.locks import run_lock
from dcgrid.train.cell_sampler import CellSampler
from dcgrid.train.grid_sampler import GridSampler
from dcgrid.train.networks import load_autoencoder
from dcgrid.train.sampled import (
    DROPPED,
    SampledGrid,
    grid_files,
    grid_path,
    has_facts,
    read_grid,
    write_grid,
)
from dcgrid.train.sampling import CellJob, GenerateJob, SampleJob, missing_for_sampling
from dcgrid.video.sheet import write_contact_sheet

SHEET_NAME = "sheet.png"
"""Picture of all grids of a folder."""
SHEET_FRAMES = 2
"""Frames that stand for a cell on the sheet."""


class Sampler(Protocol):
    """What generates the grids of a stage."""

    def notes(self) -> tuple[str, ...]:
        """Return what a person should know before anything is generated."""

    def facts(self, number: int) -> dict[str, Any]:
        """Return everything that a grid is made with."""

    def generate(self, number: int) -> SampledGrid:
        """Generate a grid."""


def _sampler_of(job: GenerateJob) -> Sampler:
    if isinstance(job, CellJob):
        return CellSampler(job)
    if isinstance(job, SampleJob):
        return GridSampler(job)
    raise ValueError(f"nothing generates for {type(job).__name__}")


def run_sampling(
    job: GenerateJob, say: Callable[[str], None], on_grid: Callable[[int, int], None]
) -> list[Path]:
    """Generate the grids that are not there yet, draw the sheet, and return the grids' files.

    A grid that is there with the same facts is kept, one with others is replaced (or removed, if
    the recipe asks for fewer now), and one that was dropped is not sampled again.

    Args:
        job: What to do.
        say: Told what happens.
        on_grid: Told of grids done and grids in all.

    Raises:
        WeightsError: Weights, an adapter or the world are missing or damaged.
        AdapterError: An adapter is of other weights.
        RecipeError: The recipe asks for a concept that Multi-DC does not know.
        OutputError: Another run works in the folder, or a file cannot be written.
    """
    for path, command in missing_for_sampling(job):
        raise WeightsError(f"stage {job.stage} needs {path}, which is not there", hint=command)
    with run_lock(job.folder):
        sampler = _sampler_of(job)
        for line in sampler.notes():
            say(line)
        dropped = grid_files(job.folder / DROPPED)
        numbers = [n for n in range(1, job.recipe.grids + 1) if n not in dropped]
        kept = 0
        for number, path in grid_files(job.folder).items():
            if has_facts(path, sampler.facts(number)):
                kept += number in numbers
            elif number not in numbers:
                path.unlink()
                say(f"removed {path}: it was made with other weights or another recipe")
        if dropped or kept:
            say(f"{kept} of {job.recipe.grids} grids are there, {len(dropped)} were dropped")
        for done, number in enumerate(numbers, start=1):
            path = grid_path(job.folder, number)
            if not has_facts(path, sampler.facts(number)):
                write_grid(path, sampler.generate(number))
            on_grid(done, len(numbers))
        write_sheet(job)
    return list(grid_files(job.folder).values())


def drop_grids(job: GenerateJob, numbers: Sequence[int]) -> list[Path]:
    """Move bad grids out of the way and draw the sheet anew; nothing is sampled.

    Returns:
        The files of the grids that are left.

    Raises:
        UsageError: A number names no grid; then none is moved.
        WeightsError: The autoencoder is missing, which draws the sheet, or a grid is damaged.
        OutputError: Another run works in the folder, or it cannot be written.
    """
    files = grid_files(job.folder)
    for number in numbers:
        if number not in files:
            raise UsageError(
                f"--drop {number}: there is no grid {number} in {job.folder}",
                hint=f"look at {job.folder / SHEET_NAME} for the numbers",
            )
    # Without it there is no sheet: better before anything has moved.
    load_autoencoder(job.model, job.out, job.device)
    with run_lock(job.folder):
        (job.folder / DROPPED).mkdir(exist_ok=True)
        for number in dict.fromkeys(numbers):
            files[number].replace(grid_path(job.folder / DROPPED, number))
        write_sheet(job)
    return list(grid_files(job.folder).values())


@torch.no_grad()
def write_sheet(job: GenerateJob) -> None:
    """Draw every grid of the folder as a row of a picture, its number above it.

    Raises:
        WeightsError: The autoencoder or a grid is missing or damaged.
        OutputError: The picture cannot be written.
    """
    autoencoder = load_autoencoder(job.model, job.out, job.device)
    rows, labels = [], []
    for number, path in grid_files(job.folder).items():
        cells = []
        for cell_CFYX in read_grid(path).cells_KCFYX:
            video_BCTHW = autoencoder.decode(cell_CFYX[None].to(job.device))
            frames_THWC = rearrange((video_BCTHW + 1) * 127.5, "1 c t h w -> t h w c")
            cells.append(frames_THWC.round().clamp(0, 255).to(torch.uint8).cpu())
        rows.append([_first_and_last(cell) for cell in cells])
        labels.append(f"{number:04d}")
    path = job.folder / SHEET_NAME
    if rows:
        write_contact_sheet(path, rows, labels, frames_per_clip=SHEET_FRAMES, overwrite=True)
    else:
        path.unlink(missing_ok=True)


def _first_and_last(frames_THWC: torch.Tensor) -> torch.Tensor:
    """Return what the sheet shows of a cell; all frames of many grids would not fit in memory."""
    picks = torch.linspace(0, len(frames_THWC) - 1, min(SHEET_FRAMES, len(frames_THWC)))
    return frames_THWC[picks.round().long()]
