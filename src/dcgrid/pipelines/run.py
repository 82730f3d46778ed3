"""`dcgrid edit` and `compose` from the top: read, fill the grid, choose, write. No way back.

prepare_run -> plan_run -> run_job         (plan.py has the first two)

read_footage -> load_model -> generate_candidates -> choose_takes -> write_takes, manifest together
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dcgrid.io.atomic import StagedFiles
from dcgrid.io.progress import Progress
from dcgrid.pipelines import facts
from dcgrid.pipelines.candidates import Ranker
from dcgrid.pipelines.concepts import check_named
from dcgrid.pipelines.deliver import Candidate, choose_takes, compare_outputs, write_takes
from dcgrid.pipelines.fill import GenerateFn
from dcgrid.pipelines.footage import Footage, read_footage
from dcgrid.pipelines.generate import generate_windows
from dcgrid.pipelines.manifest import OutputRecord, RunManifest, write_manifest
from dcgrid.pipelines.memory import next_setting_if_full
from dcgrid.pipelines.models import LoadedModel, check_weights, enter_given
from dcgrid.pipelines.outputs import claimed
from dcgrid.pipelines.plan import RunPlan
from dcgrid.pipelines.team import Team
from dcgrid.pipelines.times import keep_rates
from dcgrid.runtime import device as runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run made."""

    manifest: RunManifest
    """What made it."""
    files: tuple[Path, ...]
    """Every file, videos first."""
    notes: tuple[str, ...]
    """What was changed or left out while writing."""
    same_pixels: bool | None
    """True: the pixels of an earlier run were reached again. None: not a rerun."""
    already_there: bool = False
    """True: an earlier run has made them, nothing was generated."""

    def as_json(self) -> dict[str, Any]:
        """Return the result for programs."""
        manifest = self.manifest
        return {
            "files": [str(path.absolute()) for path in self.files],
            "already_there": self.already_there,
            "outputs": [
                {
                    "path": one.path,
                    "edit": one.edit,
                    "cell": one.cell,
                    "seed": one.seed,
                    "structure": one.structure,
                    "measures": dict(one.measures),
                }
                for one in manifest.outputs
            ],
            "seed": manifest.job.seed,
            "timings_s": dict(manifest.timings_s),
            "peak_memory_bytes": manifest.peak_memory_bytes,
            "notes": list(self.notes),
            "same_pixels": self.same_pixels,
        }


def run_job(
    plan: RunPlan,
    progress: Progress,
    team: Team | None = None,
    *,
    generate_fn: GenerateFn | None = None,
    ranker: Ranker | None = None,
) -> RunResult:
    """Run a plan, unless its results are there already.

    All files appear together at the end; after an error there is none.

    Args:
        plan: From `plan_run`.
        progress: Told of stages, steps and remarks.
        team: The processes that generate; None: this one.
        generate_fn: How the job's `method` generates; None: with `fill_grid`.
        ranker: Measures tries where the job names metrics; None: the cheap scores rank them.

    Returns:
        The result.

    Raises:
        InputVideoError: An input cannot be decoded.
        WeightsError: Weights are missing or damaged.
        AdapterError: The adapter is damaged or for another model.
        NetworkError: A download failed or the network is off.
        DeviceError: A rerun came to other pixels than the run it repeats (unless `force`).
        OutputError: A file cannot be written, exists already, or is another run's.
    """
    prepared = plan.prepared
    if isinstance(prepared.earlier, RunManifest):
        return RunResult(
            manifest=prepared.earlier,
            files=prepared.outputs.all(),
            notes=(),
            same_pixels=bool(prepared.expected_frames) or None,
            already_there=True,
        )
    with claimed(prepared.job, prepared.outputs):
        return _run(plan, progress, team or Team(), generate_fn, ranker)


def _run(
    plan: RunPlan,
    progress: Progress,
    team: Team,
    generate_fn: GenerateFn | None,
    ranker: Ranker | None,
) -> RunResult:
    job, watch = plan.prepared.job, facts.Stopwatch()
    torch.set_num_threads(plan.prepared.threads or torch.get_num_threads())
    with watch.stage("read"):
        plan, footage = read_footage(plan, progress)
    with watch.stage("load"):
        model = _load(plan, team, progress)
    if not job.force:
        check_weights(model, plan.prepared.expected_weights)
    started = time.perf_counter()
    with (
        next_setting_if_full(job.model, plan.need),
        generate_candidates(plan, footage, model, progress, generate_fn) as candidates,
        StagedFiles() as staged,
    ):
        watch.add("fill", time.perf_counter() - started)
        with watch.stage("choose"):
            takes = choose_takes(plan, footage, candidates, ranker, progress)
        with watch.stage("write"):
            records, notes = write_takes(plan, footage, candidates, takes, staged, progress)
        same_pixels = compare_outputs(plan, records, progress)
        # Known only after writing, so the manifest is made now, with everything but itself.
        outputs = plan.prepared.outputs
        manifest = replace(
            _manifest(plan, footage, model, watch.seconds, records),
            folder=str(outputs.manifest.parent.resolve()),
            files_sha256=staged.digests(outputs.sheet, outputs.grid),
        )
        write_manifest(staged.stage(outputs.manifest), manifest)
        staged.commit()
    keep_rates(plan.work, watch.seconds)
    return RunResult(
        manifest=manifest,
        files=outputs.all(),
        notes=(*notes, *model.backbone.notes),
        same_pixels=same_pixels,
    )


def _load(plan: RunPlan, team: Team, progress: Progress) -> LoadedModel:
    """Load the model of a plan, its given cells entering as the grid says."""
    job, grid, device = plan.prepared.job, plan.prepared.grid, torch.device(plan.device)
    dtype = runtime.choose_dtype(plan.dtype, device)
    with next_setting_if_full(job.model, plan.need):
        model = team.load_model(job, grid.mode, device, dtype, progress, plan.need.offload)
    if job.concepts and not plan.prepared.expected_frames:
        check_named(job, plan.grids, model.tags)
    enter_given(model.backbone, grid)
    return model


@contextmanager
def generate_candidates(
    plan: RunPlan,
    footage: Sequence[Footage],
    model: LoadedModel,
    progress: Progress,
    generate_fn: GenerateFn | None = None,
) -> Iterator[tuple[Candidate, ...]]:
    """Generate the grid once a seed; in a rerun, only with seeds that a kept result came from."""
    job, expected = plan.prepared.job, plan.prepared.expected_frames
    seeds = range(job.seed, job.seed + job.candidates)
    wanted = [seed for seed in seeds if seed in {one for _, _, one in expected}] or list(seeds)
    with ExitStack() as stack:
        generated = []
        for number, seed in enumerate(wanted, start=1):
            if len(wanted) > 1:
                progress.note(f"Candidate {number} of {len(wanted)}, seed {seed}.")
            one = replace(plan, prepared=replace(plan.prepared, job=replace(job, seed=seed)))
            cells = stack.enter_context(
                generate_windows(one, footage, model, progress, generate_fn)
            )
            generated.append(Candidate(seed=seed, generated=cells))
        yield tuple(generated)


def _manifest(
    plan: RunPlan,
    footage: Sequence[Footage],
    model: LoadedModel,
    timings_s: dict[str, float],
    records: list[OutputRecord],
) -> RunManifest:
    """Gather what made the result."""
    job, grid = plan.prepared.job, plan.prepared.grid
    return RunManifest(
        versions=facts.versions(),
        created=facts.now(),
        command=job.command,
        job=job.located(),
        grid=grid,
        inputs_sha256=tuple(one.sha256 for one in footage),
        clips=facts.clip_facts(plan.clips),
        model={
            "name": plan.spec.name,
            "license": plan.spec.license,
            "weights": dict(model.weights),
            "adapter": model.adapter,
            "adapter_sha256": model.adapter_sha256,
            "loras": [asdict(one) for one in model.loras],
            "concepts_sha256": model.concepts_sha256,
        },
        sampler=facts.sampler_facts(model.backbone.spec, grid, plan.windows),
        machine=facts.machine_facts(
            plan.device,
            plan.dtype,
            plan.need.offload,
            model.processes,
            model.backbone.attention,
        ),
        timings_s=timings_s,
        peak_memory_bytes=facts.peak_memory_bytes(plan.device),
        outputs=tuple(records),
    )
