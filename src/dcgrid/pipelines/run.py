"""Every command that fills grids, from the top: read, load, generate, choose, write. No way back.

prepare_run -> plan_run -> run_plan         (prepared.py, plan.py and this file)

read_footage -> _load_models -> generate_grid, choose_takes -> write_takes, manifest together

    edit, compose     [clip  1]                       each grid once a seed, the best tries taken
                      [ 2    3]
    story             [clip  1]  [clip  4]            the clip stands in every grid
                      [ 2    3]  [ 5    6]
    from text alone   [ 1    2]  [ 4    5]            later grids go on from the last scene
                      [ 3    4]  [ 6    7]

Paper: sec. 5.2.1 (story generation), Fig. 8
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dcgrid.errors import DeviceError
from dcgrid.io.atomic import StagedFiles
from dcgrid.io.progress import Progress
from dcgrid.pipelines.deliver import Written, write_takes
from dcgrid.pipelines.footage import Footage, read_footage
from dcgrid.pipelines.generate import (
    Generated,
    GeneratedClip,
    GivenClip,
    decode_given,
    generate_grid,
    tell_what_is_there,
    work_folder,
)
from dcgrid.pipelines.job import absolute_reference
from dcgrid.pipelines.light import gives_light
from dcgrid.pipelines.loading import (
    LoadedModel,
    LoadFn,
    ModelRequest,
    adapter_reference,
    check_weights,
    enter_given,
    grid_reference,
    load_model,
)
from dcgrid.pipelines.manifest import (
    Manifest,
    RunManifest,
    StoryManifest,
    clip_facts,
    machine_facts,
    now,
    sampler_facts,
    versions,
    write_manifest,
)
from dcgrid.pipelines.memory import next_setting_if_full
from dcgrid.pipelines.outputs import claimed
from dcgrid.pipelines.plan import GenerationPlan
from dcgrid.pipelines.ranking import Ranker, Take, choose_takes, expected_hash
from dcgrid.pipelines.sampling import GenerateFn
from dcgrid.pipelines.script import StoryJob
from dcgrid.pipelines.texts import check_named
from dcgrid.pipelines.times import Stopwatch, keep_rates
from dcgrid.runtime import device as runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run made."""

    manifest: Manifest
    """What made it."""
    files: tuple[Path, ...]
    """Every file, videos first."""
    notes: tuple[str, ...] = ()
    """What was changed or left out while writing."""
    same_pixels: bool | None
    """True: the pixels of an earlier run were reached again. None: not a rerun."""
    seconds: float = 0.0
    """Seconds that it took."""
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
            "seconds": round(self.seconds, 3),
            "timings_s": dict(manifest.timings_s),
            "peak_memory_bytes": manifest.peak_memory_bytes,
            "notes": list(self.notes),
            "same_pixels": self.same_pixels,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What the steps of a run share."""

    plan: GenerationPlan
    """What is done, as reading the inputs has shown it."""
    footage: tuple[Footage, ...]
    """The given clips; none: the text alone says what to show."""
    models: Mapping[bool, LoadedModel]
    """The model, by whether a clip is given to the grid that it generates."""
    progress: Progress
    watch: Stopwatch
    generate_fn: GenerateFn | None
    """How grids are generated; None: with `fill_grid`."""
    ranker: Ranker | None
    """Measures tries where the job names metrics; None: the cheap scores rank them."""

    @property
    def model(self) -> LoadedModel:
        """Any of the models: what they have in common."""
        return next(iter(self.models.values()))


def run_plan(
    plan: GenerationPlan,
    progress: Progress,
    load: LoadFn | None = None,
    *,
    generate_fn: GenerateFn | None = None,
    ranker: Ranker | None = None,
) -> RunResult:
    """Run a plan, unless its results are there already.

    All files appear together at the end; after an error there is none.

    Args:
        plan: From `plan_run`.
        progress: Gets stages, steps and remarks.
        load: Loads the model; None: `load_model`.
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
    if prepared.earlier is not None:
        return RunResult(
            manifest=prepared.earlier,
            files=prepared.outputs.all(),
            same_pixels=bool(prepared.expected_frames) or None,
            already_there=True,
        )
    with claimed(prepared.job, prepared.outputs):
        started, watch = time.perf_counter(), Stopwatch()
        torch.set_num_threads(prepared.threads or torch.get_num_threads())
        with watch.stage("read"):
            plan, footage = read_footage(plan, progress)
        with next_setting_if_full(plan.model, plan.need):
            with watch.stage("load"):
                models = _load_models(plan, load or load_model, progress)
            run = _Run(
                plan=plan,
                footage=footage,
                models=models,
                progress=progress,
                watch=watch,
                generate_fn=generate_fn,
                ranker=ranker,
            )
            result = _make_files(run)
        keep_rates(plan.work, watch.seconds)
    return replace(result, seconds=time.perf_counter() - started)


def _make_files(run: _Run) -> RunResult:
    """Generate, choose and write; the manifest is made last, with everything but itself."""
    plan, job, outputs = run.plan, run.plan.job, run.plan.prepared.outputs
    with ExitStack() as stack:
        folder = None
        # A story of short scenes takes long all the same, so what is generated is kept.
        if len(plan.windows) > 1 or isinstance(job, StoryJob):
            folder = stack.enter_context(work_folder(_work_facts(run), run.progress))
        staged = stack.enter_context(StagedFiles())
        takes = _generate(run, folder)
        footage = _with_guides(run, folder)
        with run.watch.stage("write"):
            written = write_takes(plan, footage, takes, staged, run.progress)
        same_pixels = _compare(run, written)
        manifest = replace(
            _manifest(run, written),
            folder=str(outputs.manifest.parent.resolve()),
            files_sha256=staged.digests(outputs.sheet, outputs.grid, outputs.reel),
        )
        write_manifest(staged.stage(outputs.manifest), manifest)
        staged.commit()
    backbones = {id(one.backbone): one.backbone for one in run.models.values()}
    found = [note for backbone in backbones.values() for note in backbone.notes]
    return RunResult(
        manifest=manifest,
        files=outputs.all(),
        notes=(*written.notes, *found),
        same_pixels=same_pixels,
    )


def _load_models(
    plan: GenerationPlan, load: LoadFn, progress: Progress
) -> Mapping[bool, LoadedModel]:
    """Load the model for each kind of grid that the run has.

    A Grid-Fill adapter knows grids with a given cell only; without one, Grid LoRA generates.
    """
    prepared, job, models = plan.prepared, plan.job, dict[bool, LoadedModel]()
    device = torch.device(plan.device)
    for filling in dict.fromkeys(bool(grid.given) for grid in plan.grids):
        asked = job if filling else replace(job, adapter=grid_reference(job, plan.model))
        mode = plan.grids[0].mode
        reference = adapter_reference(asked, plan.model, mode)
        same = [model for model in models.values() if model.adapter == reference]
        model = same[0] if same else None
        if model is None:
            request = ModelRequest(
                job=asked,
                model=plan.model,
                mode=mode,
                stage="fill" if filling else "grid",
                device=device,
                dtype=runtime.choose_dtype(plan.dtype, device),
                offload=plan.need.offload,
            )
            model = load(request, progress)
        if prepared.expected_weights and not job.force:
            # A model without weight files has an adapter all the same.
            adapter = prepared.expected_adapters.get(model.adapter, "")
            check_weights(model, {"adapter": adapter, **prepared.expected_weights})
        if job.concepts and not prepared.expected_frames:
            check_named(job, plan.grids, model.tags)
        enter_given(model.backbone, plan.grids[-1])
        models[filling] = model
    return models


def _work_facts(run: _Run) -> Mapping[str, Any]:
    """Return what decides the pixels of a run: inputs, text, weights, seeds, machine."""
    plan, job = run.plan, run.plan.job
    return {
        "method": job.generated_by,
        "inputs": [one.sha256 for one in run.footage],
        "clips": [(one.start_s, one.num_frames, one.fps) for one in plan.clips],
        "size": plan.cell_size,
        "windows": [asdict(window) for window in plan.windows],
        "grids": [asdict(grid) for grid in plan.grids],
        "weights": [one.made_of for one in run.models.values()],
        "seeds": [job.seed, job.candidates],
        "machine": [plan.device, plan.dtype, torch.get_num_threads(), run.model.processes],
    }


def _seeds(plan: GenerationPlan, number: int) -> list[int]:
    """Return the seeds of a grid; in a rerun, only those that a kept result came from."""
    job = plan.job
    seeds = [(job.seed + number + turn) % 2**63 for turn in range(job.candidates)]
    kept = {seed for _, _, seed in plan.prepared.expected_frames}
    return [seed for seed in seeds if seed in kept] or seeds


def _generate(run: _Run, folder: Path | None) -> list[Take]:
    """Generate grid after grid, each once a seed; return what is delivered, in order."""
    plan, progress, takes = run.plan, run.progress, list[Take]()
    grids = [
        [
            Generated(plan.windows, grid.generated_cells, place, seed)
            for turn, seed in enumerate(_seeds(plan, number))
            for place in [folder and folder / f"{number:03d}.{turn:03d}"]
        ]
        for number, grid in enumerate(plan.grids)
    ]
    tell_what_is_there([one for grid in grids for one in grid], progress)
    given: tuple[GivenClip, ...] = run.footage
    for number, (grid, candidates) in enumerate(zip(plan.grids, grids, strict=True)):
        for turn, one in enumerate(candidates, start=1):
            if len(candidates) > 1:
                progress.note(f"Candidate {turn} of {len(candidates)}, seed {one.seed}.")
            backbone = run.models[bool(grid.given)].backbone
            with run.watch.stage("fill"):
                generate_grid(plan, number, one, given, backbone, progress, run.generate_fn)
        with run.watch.stage("choose"):
            takes += choose_takes(plan, number, given, candidates, run.ranker, progress)
        if not run.footage:
            given = (takes[-1].clip,)
    return takes


def _with_guides(run: _Run, folder: Path | None) -> tuple[Footage, ...]:
    """Return the given clips, those that the guided upsampler looks at decoded."""
    if not run.footage or run.plan.job.upsample != "guided":
        return run.footage
    clips, windows = list(run.footage), run.plan.windows
    for number, (cell, clip) in enumerate(zip(run.plan.grids[0].given, clips, strict=True)):
        if number and not gives_light(clip, windows[0]):
            continue
        decoded = Generated(windows, [cell], folder and folder / f"given.{cell}")
        decoded.drop_damaged()
        with run.watch.stage("fill"):
            decode_given(run.models[True].backbone, clip, decoded, run.progress)
        clips[number] = replace(clip, decoded=GeneratedClip(decoded, cell))
    return tuple(clips)


def _compare(run: _Run, written: Written) -> bool | None:
    """Compare pixels with those of the run that is repeated; None if none is.

    Raises:
        DeviceError: They differ and `force` is not set.
    """
    prepared = run.plan.prepared
    expected = prepared.expected_frames
    if not expected:
        return None
    other = [
        one.edit
        for one in written.records
        if expected_hash(expected, one.edit, one.cell, one.seed) != one.frames_sha256
    ]
    if prepared.expected_reel not in ("", written.reel_sha256):
        other.append("the reel")
    if not other:
        return True
    message = f"the rerun came to other pixels in {', '.join(other)}"
    if not prepared.job.force:
        raise DeviceError(
            message,
            hint="the machine, its torch or its threads differ from the manifest's, or the "
            "manifest was changed; --force writes the result all the same",
        )
    run.progress.warn(message)
    return False


def _manifest(run: _Run, written: Written) -> Manifest:
    """Gather what made the result."""
    plan, job, model = run.plan, run.plan.job, run.model
    weights = {
        "name": plan.spec.name,
        "license": plan.spec.license,
        "weights": dict(model.weights),
        "loras": [asdict(one) for one in model.loras],
        "concepts_sha256": model.concepts_sha256,
    }
    shared: dict[str, Any] = {
        "versions": versions(),
        "created": now(),
        "command": job.command,
        "inputs_sha256": tuple(one.sha256 for one in run.footage),
        "clips": clip_facts(plan.clips),
        "machine": machine_facts(
            plan.device,
            plan.dtype,
            plan.need.offload,
            model.processes,
            model.backbone.attention,
        ),
        "timings_s": run.watch.seconds,
        "peak_memory_bytes": runtime.peak_memory_bytes(torch.device(plan.device)),
        "outputs": written.records,
    }
    samplers = tuple(
        sampler_facts(run.models[bool(one.given)].backbone.spec, one, plan.windows)
        for one in plan.grids
    )
    if isinstance(job, StoryJob):
        # As the job of a rerun names them.
        adapters = {
            absolute_reference(one.adapter): one.adapter_sha256 for one in run.models.values()
        }
        return StoryManifest(
            **shared,
            job=replace(job.located(), folder=job.folder.resolve()),
            grids=plan.grids,
            model={**weights, "adapters": adapters},
            samplers=samplers,
            reel_sha256=written.reel_sha256,
        )
    return RunManifest(
        **shared,
        job=job.located(),
        grid=plan.grids[0],
        model={**weights, "adapter": model.adapter, "adapter_sha256": model.adapter_sha256},
        sampler=samplers[0],
    )
