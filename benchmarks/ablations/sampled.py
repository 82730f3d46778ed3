"""Grids that the shipped Grid LoRA samples, for the variant that learns from them, too."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.ablations.data import FRAMES, SIDE
from benchmarks.ablations.training import MODEL
from dcgrid.models.registry import find_model
from dcgrid.train.stages.generate import GenerateJob, SampleRecipe
from dcgrid.train.stages.samplers import run_sampling

RECIPE = SampleRecipe(
    grids=32,
    num_inference_steps=12,
    guidance_scale=3.0,
    frames=FRAMES,
    sizes=((SIDE, SIDE),),
    noise_scale=1.0,
    time_shift=2.0,
    dc_strength=0.0,
    concept_share=0.0,
    seed=0,
)


def sample_grids(folder: Path, store: Path, say: Callable[[str], None]) -> Path:
    """Sample the grids that are not there yet, as stage `sample` does; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, path in find_model(MODEL).files.items():
        link = folder / f"{part}.safetensors"
        if path.is_file() and not link.exists():
            link.symlink_to(path)
    job = GenerateJob(recipe=RECIPE, mode="consistent", model=MODEL, out=folder, store=store)
    run_sampling(job, say, lambda done, count: say(f"grid {done} of {count}"))
    return job.folder
