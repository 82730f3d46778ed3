"""`dcgrid train`, stages cells and sample: grids that are generated for stages grid and fill."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcgrid.cli.output import Output
from dcgrid.errors import UsageError
from dcgrid.io.progress import counted
from dcgrid.recipes import shipped_dir
from dcgrid.runtime.processes import join_processes

if TYPE_CHECKING:
    from dcgrid.cli.train import TrainOptions
    from dcgrid.train.stages.generate import GenerateJob


def refuse_options(stage: str, given: Mapping[str, bool]) -> None:
    """Refuse options that mean nothing here.

    Raises:
        UsageError: One of them is given.
    """
    for name, present in given.items():
        if present:
            raise UsageError(
                f"{name} is not for stage {stage}",
                hint="it goes on where it was by itself; how many: --grids; bad ones: --drop",
            )


def sample_grids(options: "TrainOptions", stage: str, out: Path, output: Output) -> None:
    """Plan, generate or drop grids and print the result.

    Args:
        options: What the command line says.
        stage: "cells" or "sample".
        out: Folder of the weights; the grids go below it.
        output: Where the result goes.

    Raises:
        UsageError: An option is for other stages, or torchrun started several processes.
    """
    output.busy("planning")
    with join_processes(options.device) as (processes, _):
        # Each process would generate every grid.
        if processes.count > 1:
            raise UsageError(
                f"stage {stage} runs in one process, not in {processes.count}",
                hint="start it without torchrun",
            )
    import torch

    drop = tuple(options.drop or ())
    refuse_options(stage, {"--grids beside --drop": options.grids is not None and bool(drop)})
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    job = _job(options, stage, out)
    if options.dry_run:
        _plan(job, drop, output)
        return
    from dcgrid.train.stages.samplers import SHEET_NAME, drop_grids, run_sampling

    if drop:
        files = drop_grids(job, drop)
    else:
        output.start("generating grids", job.recipe.grids)
        try:
            files = run_sampling(job, output.note, output.update)
        except KeyboardInterrupt:
            output.note("stopped; finished grids are kept, the same command goes on from them")
            raise
    sheet = job.folder / SHEET_NAME
    lines = [
        f"{counted(len(files), 'grid')} in {job.folder}",
        *([f"look at {sheet}"] if files else []),
    ]
    value = {
        "folder": job.folder,
        "sheet": sheet if files else None,
        "files": files,
        "dropped": list(drop),
    }
    output.result(lines, value)


def _job(options: "TrainOptions", stage: str, out: Path) -> "GenerateJob":
    """Read the recipe and put the job together."""
    from dataclasses import replace

    from dcgrid.runtime.device import choose_device
    from dcgrid.train.stages.generate import GenerateJob, load_generate_recipe

    path = options.recipe or shipped_dir() / "train" / f"{stage}.toml"
    overrides: dict[str, Any] = {} if options.grids is None else {"grids": options.grids}
    return GenerateJob(
        recipe=replace(load_generate_recipe(path, options.model, stage), **overrides),
        mode="consistent" if options.mode is None else options.mode.value,
        model=options.model,
        out=out,
        store=options.store,
        device=choose_device(options.device),
    )


def _plan(job: "GenerateJob", drop: tuple[int, ...], output: Output) -> None:
    """Print what would be done; nothing is loaded or written."""
    from dcgrid.train.stages.generate import missing_for_sampling, sampler_numbers

    recipe = job.recipe
    missing = [f"{path}, from `{command}`" for path, command in missing_for_sampling(job)]
    numbers = None if missing else sampler_numbers(job)
    sizes = ", ".join(f"{width}x{height}" for height, width in recipe.sizes)
    lines = [
        f"stage     {job.stage} of {job.model}, mode {job.mode}, on {job.device}",
        f"grids     {recipe.grids}, of 4 cells of {recipe.frames} x {sizes}",
        f"steps     {recipe.num_inference_steps}, guidance {recipe.guidance_scale:g}",
        *(
            f"noise     scale {one.noise_scale:g}, time shift {one.time_shift:g}"
            for one in ([numbers] if numbers else [])
        ),
        *(f"note      {line}" for line in (numbers.notes if numbers else ())),
        f"folder    {job.folder}",
        *(f"drop      {number}, and nothing is sampled" for number in drop),
        *(f"missing   {line}" for line in missing),
    ]
    value = {
        "dry_run": True,
        "stage": job.stage,
        "mode": job.mode,
        "model": job.model,
        "grids": recipe.grids,
        "frames": recipe.frames,
        "sizes": [list(size) for size in recipe.sizes],
        "num_inference_steps": recipe.num_inference_steps,
        "guidance_scale": recipe.guidance_scale,
        "noise_scale": None if numbers is None else numbers.noise_scale,
        "time_shift": None if numbers is None else numbers.time_shift,
        "folder": job.folder,
        "drop": list(drop),
        "missing": missing,
    }
    output.result(lines, value)
