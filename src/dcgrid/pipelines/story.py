"""`dcgrid story` from the top: the same character in scene after scene, grid after grid.

    prepare_story -> plan_story -> tell_story         (story_plan.py has the first two)

    from a clip       [clip  1]  [clip  4]        the clip stands in every grid
                      [ 2    3]  [ 5    6]
    from text alone   [ 1    2]  [ 4    5]        later grids go on from the last scene
                      [ 3    4]  [ 6    7]

A scene may be longer than the model's longest clip; its grid is then generated window by window.

Letters: T frames, H W height/width, C the 3 colours.

Paper: sec. 5.2.1 (story generation), Fig. 8
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dcgrid.io.atomic import StagedFiles
from dcgrid.io.progress import Progress
from dcgrid.pipelines import facts
from dcgrid.pipelines.choose import TryScore, rank_scores
from dcgrid.pipelines.concepts import check_named
from dcgrid.pipelines.deliver import Take, other_pixels, score_cells, tell_other_pixels
from dcgrid.pipelines.footage import Footage, read_clips
from dcgrid.pipelines.generate import (
    GivenClip,
    GridTask,
    generate_grid,
    tell_what_is_there,
    work_folder,
)
from dcgrid.pipelines.generated import Generated, GeneratedClip
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.lora import absolute_reference
from dcgrid.pipelines.manifest import StoryManifest, write_manifest
from dcgrid.pipelines.memory import next_setting_if_full
from dcgrid.pipelines.models import (
    LoadedModel,
    adapter_reference,
    check_weights,
    enter_given,
    grid_reference,
)
from dcgrid.pipelines.outputs import claimed
from dcgrid.pipelines.plan import windows_of
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.pipelines.story_files import TakenScene, WrittenStory, write_story
from dcgrid.pipelines.story_plan import StoryPlan, check_fade
from dcgrid.pipelines.team import Team
from dcgrid.pipelines.times import keep_rates
from dcgrid.runtime import device as runtime

_Models = Mapping[bool, LoadedModel]
"""The model by whether a clip is given to the grid that it generates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryResult:
    """What a story made."""

    manifest: StoryManifest
    """What made it."""
    files: tuple[Path, ...]
    """Every file, scenes first."""
    seconds: float
    """Seconds that it took."""
    notes: tuple[str, ...]
    """What was changed or left out while writing."""
    same_pixels: bool | None
    """True: the pixels of an earlier story were reached again. None: not a rerun."""
    already_there: bool = False
    """True: an earlier run has made them, nothing was generated."""

    def as_json(self) -> dict[str, Any]:
        """Return the result for programs."""
        return {
            "files": [str(path.absolute()) for path in self.files],
            "already_there": self.already_there,
            "seed": self.manifest.job.seed,
            "seconds": round(self.seconds, 3),
            "timings_s": dict(self.manifest.timings_s),
            "peak_memory_bytes": self.manifest.peak_memory_bytes,
            "notes": list(self.notes),
            "same_pixels": self.same_pixels,
        }


def tell_story(plan: StoryPlan, progress: Progress, team: Team | None = None) -> StoryResult:
    """Run a plan, unless its results are there already.

    All files appear together at the end; after an error there is none.

    Args:
        plan: From `plan_story`.
        progress: Told of stages, steps and remarks.
        team: The processes that generate; None: this one.

    Raises:
        InputVideoError: The clip cannot be decoded.
        WeightsError: Weights are missing or damaged.
        AdapterError: The adapter is damaged or for another model.
        DeviceError: A rerun came to other pixels than the story it repeats (unless `force`).
        OutputError: A file cannot be written.
    """
    prepared = plan.prepared
    if isinstance(prepared.earlier, StoryManifest):
        return StoryResult(
            manifest=prepared.earlier,
            files=prepared.outputs.all(),
            seconds=0.0,
            notes=(),
            same_pixels=bool(prepared.expected_frames) or None,
            already_there=True,
        )
    with claimed(prepared.job, prepared.outputs):
        return _run(plan, progress, team or Team())


def _run(plan: StoryPlan, progress: Progress, team: Team) -> StoryResult:
    started, watch = time.perf_counter(), facts.Stopwatch()
    torch.set_num_threads(plan.prepared.threads or torch.get_num_threads())
    with watch.stage("read"):
        plan, footage = _read(plan, progress)
    full = partial(next_setting_if_full, plan.prepared.job.model, plan.need)
    with watch.stage("load"), full():
        models = _load(plan, progress, team)
    with (
        work_folder(_story_facts(plan, footage, models), progress) as folder,
        StagedFiles() as staged,
    ):
        with watch.stage("fill"), full():
            scenes = _generate(plan, footage, models, folder, progress)
        with watch.stage("write"):
            written = write_story(plan, footage, scenes, staged, progress)
        same_pixels = _compare(plan, written, progress)
        outputs = plan.prepared.outputs
        manifest = replace(
            _manifest(plan, footage, models, watch.seconds, written),
            folder=str(outputs.manifest.parent.resolve()),
            files_sha256=staged.digests(outputs.sheet, outputs.reel),
        )
        write_manifest(staged.stage(outputs.manifest), manifest)
        staged.commit()
    keep_rates(plan.work, watch.seconds)
    return StoryResult(
        manifest=manifest,
        files=outputs.all(),
        seconds=time.perf_counter() - started,
        notes=written.notes,
        same_pixels=same_pixels,
    )


def _read(plan: StoryPlan, progress: Progress) -> tuple[StoryPlan, Footage | None]:
    """Read the clip, if there is one; the plan may come back shorter than the file said."""
    if plan.clip is None:
        return plan, None
    job = plan.prepared.job
    asked = (job.start_s, job.duration_s)
    (footage,) = read_clips(plan.spec, [plan.clip], [asked], progress, plan.prepared.inputs_sha256)
    check_fade(job, footage.plan.num_frames, plan.spec)
    windows = windows_of(plan.spec, footage.plan.num_frames)
    return replace(plan, clip=footage.plan, windows=windows), footage


def _load(plan: StoryPlan, progress: Progress, team: Team) -> _Models:
    """Load the model for each kind of grid that the story has.

    A Grid-Fill adapter knows grids with a given cell only; without one, Grid LoRA generates.
    """
    prepared, models = plan.prepared, dict[bool, LoadedModel]()
    for filling in dict.fromkeys(bool(grid.given) for grid in prepared.grids):
        job = prepared.job
        asked = job if filling else replace(job, adapter=grid_reference(job))
        wanted = adapter_reference(asked, "consistent")
        same = [model for model in models.values() if model.adapter == wanted]
        model = same[0] if same else _loaded(asked, plan, progress, team, filling=filling)
        # A model without weight files has an adapter all the same.
        if prepared.expected_frames and not job.force:
            adapter = prepared.expected_adapters.get(model.adapter, "")
            check_weights(model, {**prepared.expected_weights, "adapter": adapter})
        if job.concepts and not prepared.expected_frames:
            check_named(job, prepared.grids, model.tags)
        enter_given(model.backbone, prepared.grids[-1])
        models[filling] = model
    return models


def _loaded(
    job: GridJob, plan: StoryPlan, progress: Progress, team: Team, *, filling: bool
) -> LoadedModel:
    device = torch.device(plan.device)
    dtype = runtime.choose_dtype(plan.dtype, device)
    return team.load_model(
        job,
        "consistent",
        device,
        dtype,
        progress,
        plan.need.offload,
        stage="fill" if filling else "grid",
    )


def _any(models: _Models) -> LoadedModel:
    return next(iter(models.values()))


def _story_facts(plan: StoryPlan, footage: Footage | None, models: _Models) -> Mapping[str, Any]:
    """Return what decides the pixels of the scenes: clip, text, weights, seed, machine."""
    clip = plan.clip
    return {
        "story": [asdict(grid) for grid in plan.prepared.grids],
        "input": None if footage is None else footage.sha256,
        "clip": None if clip is None else (clip.start_s, clip.num_frames, clip.fps),
        "size": plan.cell_size,
        "windows": [asdict(window) for window in plan.windows],
        "weights": [one.made_of for one in models.values()],
        "seed": plan.prepared.job.seed,
        "machine": [plan.device, plan.dtype, torch.get_num_threads(), _any(models).processes],
    }


def _generate(
    plan: StoryPlan, footage: Footage | None, models: _Models, folder: Path, progress: Progress
) -> list[TakenScene]:
    """Generate grid after grid; return the scenes in their order."""
    grids, scenes = plan.prepared.grids, list[TakenScene]()
    kept = [
        Generated(plan.windows, grid.generated_cells, folder / f"{number:03d}")
        for number, grid in enumerate(grids)
    ]
    tell_what_is_there(kept, progress)
    given: GivenClip | None = footage
    picture = (slice(None), slice(None)) if footage is None else footage.plan.picture
    for number, (grid, generated) in enumerate(zip(grids, kept, strict=True)):
        task = GridTask(
            grid=grid,
            given=() if given is None else (given,),
            windows=plan.windows,
            cell_size=plan.cell_size,
            seed=(plan.prepared.job.seed + number) % 2**63,
            model=models[bool(grid.given)],
            number=number,
            grids=len(grids),
        )
        generate_grid(task, generated, progress)
        paths = plan.prepared.outputs.videos[len(scenes) :]
        scores = {} if given is None else score_cells(given, generated, picture)
        scenes += _taken(grid, generated, scores, [path for (path,) in paths], task.seed)
        if footage is None:
            given = GeneratedClip(generated, scenes[-1].take.cell)
    return scenes


def _taken(
    grid: ResolvedGrid,
    generated: Generated,
    scores: Mapping[int, TryScore],
    paths: list[Path],
    seed: int,
) -> list[TakenScene]:
    """Return the best try at each scene of a grid; without scores the first."""
    scenes = []
    # The files of later grids come after those of this one.
    for edit, cells, path in zip(grid.edits, grid.tries, paths, strict=False):
        best = rank_scores([scores[cell] for cell in cells])[0][0] if scores else 0
        clip = GeneratedClip(generated, cells[best])
        take = Take(
            path=path,
            edit=edit.name,
            text=edit.clause,
            cell=cells[best],
            seed=seed,
            score=scores.get(cells[best]),
        )
        scenes.append(TakenScene(take=take, clip=clip))
    return scenes


def _compare(plan: StoryPlan, written: WrittenStory, progress: Progress) -> bool | None:
    """Compare pixels with those of the story that is repeated; None if none is."""
    prepared = plan.prepared
    if not prepared.expected_frames:
        return None
    other = other_pixels(prepared.expected_frames, written.records)
    if prepared.expected_reel not in ("", written.reel_sha256):
        other.append("the reel")
    return tell_other_pixels(other, progress, force=prepared.job.force)


def _manifest(
    plan: StoryPlan,
    footage: Footage | None,
    models: _Models,
    timings_s: dict[str, float],
    written: WrittenStory,
) -> StoryManifest:
    """Gather what made the story."""
    job, prepared = plan.prepared.job, plan.prepared
    return StoryManifest(
        versions=facts.versions(),
        created=facts.now(),
        command=job.command,
        job=replace(job.located(), folder=job.folder.resolve()),
        grids=prepared.grids,
        inputs_sha256=() if footage is None else (footage.sha256,),
        clips=facts.clip_facts([plan.clip] if plan.clip else []),
        model={
            "name": plan.spec.name,
            "license": plan.spec.license,
            "weights": dict(_any(models).weights),
            # As the job of a rerun names them.
            "adapters": {
                absolute_reference(one.adapter): one.adapter_sha256 for one in models.values()
            },
            "loras": [asdict(one) for one in _any(models).loras],
            "concepts_sha256": _any(models).concepts_sha256,
        },
        samplers=tuple(
            facts.sampler_facts(models[bool(one.given)].backbone.spec, one, plan.windows)
            for one in prepared.grids
        ),
        machine=facts.machine_facts(
            plan.device,
            plan.dtype,
            plan.need.offload,
            _any(models).processes,
            _any(models).backbone.attention,
        ),
        timings_s=timings_s,
        peak_memory_bytes=facts.peak_memory_bytes(plan.device),
        outputs=written.records,
        reel_sha256=written.reel_sha256,
    )
