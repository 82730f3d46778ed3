"""`dcgrid train --stage sample`: whole grids from the Grid LoRA, more data for stage fill."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dcgrid.cli.output import Output
from dcgrid.errors import UsageError
from dcgrid.recipes import shipped_dir

if TYPE_CHECKING:
    from dcgrid.train.sampling import SampleJob


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """What the command line says."""

    mode: Literal["consistent", "composition"]
    model: str
    recipe: Path | None
    out: Path
    store: Path
    grids: int | None
    drop: tuple[int, ...]
    device: str
    threads: int | None
    dry_run: bool


def refuse_options(given: Mapping[str, bool]) -> None:
    """Refuse options that mean nothing here.

    Raises:
        UsageError: One of them is given.
    """
    for name, present in given.items():
        if present:
            raise UsageError(
                f"{name} is not for stage sample",
                hint="it goes on where it was by itself; how many: --grids; bad ones: --drop",
            )


def sample_grids(request: SampleRequest, output: Output) -> None:
    """Plan, sample or drop grids and print the result."""
    from dataclasses import replace

    import torch

    from dcgrid.runtime.device import choose_device
    from dcgrid.train.sampling import SampleJob, load_sample_recipe

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    path = request.recipe or shipped_dir() / "train" / "sample.toml"
    recipe = load_sample_recipe(path, request.model)
    if request.grids is not None:
        recipe = replace(recipe, grids=request.grids)
    job = SampleJob(
        recipe=recipe,
        mode=request.mode,
        model=request.model,
        out=request.out,
        store=request.store,
        device=choose_device(request.device),
    )
    if request.dry_run:
        _plan(job, request.drop, output)
        return
    from dcgrid.train.sampling_run import SHEET_NAME, drop_grids, run_sampling

    if request.drop:
        files = drop_grids(job, request.drop)
    else:
        output.start("sampling grids", recipe.grids)
        try:
            files = run_sampling(job, output.note, output.update)
        except KeyboardInterrupt:
            output.note("stopped; finished grids are kept, the same command goes on from them")
            raise
    sheet = job.folder / SHEET_NAME
    lines = [f"{len(files)} grids in {job.folder}", *([f"look at {sheet}"] if files else [])]
    value = {
        "folder": str(job.folder),
        "sheet": str(sheet) if files else None,
        "files": [str(file) for file in files],
        "dropped": list(request.drop),
    }
    output.result(lines, value)


def _plan(job: "SampleJob", drop: tuple[int, ...], output: Output) -> None:
    """Print what would be done; nothing is loaded or written."""
    from dcgrid.train.sampling import missing_for_sampling

    recipe = job.recipe
    missing = [f"{path}, from `{command}`" for path, command in missing_for_sampling(job)]
    sizes = ", ".join(f"{height}x{width}" for height, width in recipe.sizes)
    lines = [
        f"stage     sample of {job.model}, mode {job.mode}, on {job.device}",
        f"grids     {recipe.grids}, of 4 cells of {recipe.frames} x {sizes}",
        f"steps     {recipe.num_inference_steps}, guidance {recipe.guidance_scale:g}",
        f"folder    {job.folder}",
        *(f"drop      {number}, and nothing is sampled" for number in drop),
        *(f"missing   {line}" for line in missing),
    ]
    value = {
        "dry_run": True,
        "stage": "sample",
        "mode": job.mode,
        "model": job.model,
        "grids": recipe.grids,
        "frames": recipe.frames,
        "sizes": [list(size) for size in recipe.sizes],
        "num_inference_steps": recipe.num_inference_steps,
        "guidance_scale": recipe.guidance_scale,
        "folder": str(job.folder),
        "drop": list(drop),
        "missing": missing,
    }
    output.result(lines, value)
