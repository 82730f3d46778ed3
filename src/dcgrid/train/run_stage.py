"""Run one training stage of a native model: recipe in, weight file out. Read `run_stage`.

A stage's weights go to `<out>/<part>.safetensors`; its checkpoints and log to `<out>/<stage>/`.
Later stages read earlier parts from the same folder.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from dcgrid import hub
from dcgrid.errors import OutputError, WeightsError
from dcgrid.io.locks import run_lock
from dcgrid.models.native.t5 import fetch_t5
from dcgrid.models.registry import find_model
from dcgrid.models.tags import TOKENS_NAME
from dcgrid.train.data.generated_grids import missing_grids
from dcgrid.train.job import (
    DC_NAME,
    Reporter,
    TrainJob,
    check_processes,
)
from dcgrid.train.networks import (
    names_tags,
)
from dcgrid.train.settings import UpsamplerLoss
from dcgrid.train.stages.autoencoder_stage import (
    run_autoencoder,
)
from dcgrid.train.stages.base import run_base
from dcgrid.train.stages.concepts import check_concepts, run_concepts
from dcgrid.train.stages.flow_matching import check_self_conditioning
from dcgrid.train.stages.grid_adapters import run_adapters
from dcgrid.train.stages.upsampler_stage import run_upsampler


def run_stage(job: TrainJob, reporter: Reporter) -> Path:
    """Train one stage and return the weight file it made.

    Raises:
        UsageError: See `check_processes`.
        WeightsError: The world, an earlier stage's weights or the checkpoint is missing or damaged.
        OutputError: Another run works in the folder, or a file cannot be written.
        RecipeError: With `resume`: the recipe is not that of the checkpoint. Stage `dc`: recipe or
            concepts have problems; then nothing was written. No sampled grid fits the phases.
        DeviceError: The loss became NaN or infinite.
        KeyboardInterrupt: After the state is saved.
    """
    for stage, missing in missing_parts(job):
        raise WeightsError(
            f"stage {job.recipe.stage} needs {missing}, which is not there",
            hint=f"dcgrid train --stage {stage} --model {job.model} --out {job.out}",
        )
    check_processes(job)
    check_self_conditioning(job.recipe, network=job.facts.self_conditioning)
    if job.recipe.stage == "dc":
        check_concepts(job)
    torch.manual_seed(job.recipe.seed)
    started = time.monotonic()
    _fetch_base(job, reporter)
    with _folder_of(job):
        try:
            path = _RUNNERS[job.recipe.stage](job, reporter)
        except SafetensorError as error:
            # Readers name their own trouble, so this is a file that could not be written.
            raise OutputError(
                f"cannot write the weights in {job.out}: {error}",
                hint="nothing is lost: free some space, then run again with --resume",
            ) from error
    reporter.say(f"{path} after {(time.monotonic() - started) / 60:.1f} minutes")
    return path


def _fetch_base(job: TrainJob, reporter: Reporter) -> None:
    """Download a base or T5 that is not here; of several processes the first one does.

    Raises:
        WeightsError: A repository does not hold what it should.
        NetworkError: The download failed or the network is off.
        OutputError: The disk is too small.
    """
    source = job.text_encoder
    if job.processes.is_first and source.startswith("hf:"):
        fetch_t5(source, offline=hub.is_offline())
    if job.processes.is_first and job.facts.native is None:
        base = find_model(job.model)
        if not base.is_here:
            terms = f"{base.spec.license}: huggingface.co/{base.spec.repo}"
            reporter.say(f"downloading {base.name}, {terms}")
            base.fetched(offline=hub.is_offline(), report=None)
    job.processes.wait()


@contextmanager
def _folder_of(job: TrainJob) -> Iterator[None]:
    """Keep other runs out of the folder; of several processes the first does it for all."""
    if not job.processes.is_first:
        job.processes.wait()
        yield
        return
    with run_lock(job.loop.folder):
        job.processes.wait()
        yield


def missing_parts(job: TrainJob) -> list[tuple[str, Path]]:
    """Return the weight files that a stage needs and does not find, each after its stage."""
    parts = _DECODER_ONLY if job.decoder_only else _EARLIER[job.recipe.stage]
    parts = parts if job.facts.native else ()  # a checkout has them all
    if isinstance(job.recipe.loss, UpsamplerLoss) and job.recipe.loss.edit_share:
        parts = (*parts, *_EARLIER["fill"], ("fill", "fill"))
    files = [(stage, job.out / job.facts.file_of(part)) for stage, part in parts]
    if job.recipe.dc_strength:
        files.append(("dc", job.out / DC_NAME))
    if names_tags(job.recipe):
        files.append(("dc", job.out / TOKENS_NAME))
    missing = [(stage, path) for stage, path in files if not path.is_file()]
    return missing + missing_grids(job.recipe, job.out)


_DECODER_ONLY = (("autoencoder", "autoencoder"),)
_EARLIER = {
    "autoencoder": (),
    "base": _DECODER_ONLY,
    "upsampler": _DECODER_ONLY,
    "dc": (*_DECODER_ONLY, ("base", "text"), ("base", "dit")),
    "grid": (*_DECODER_ONLY, ("base", "text"), ("base", "dit")),
    "fill": (*_DECODER_ONLY, ("base", "text"), ("base", "dit")),
}
"""Stage and part of the weight files that each stage reads."""
_RUNNERS: dict[str, Callable[[TrainJob, Reporter], Path]] = {
    "autoencoder": run_autoencoder,
    "base": run_base,
    "upsampler": run_upsampler,
    "dc": run_concepts,
    "grid": run_adapters,
    "fill": run_adapters,
}
