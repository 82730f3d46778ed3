"""Does units of work: one clip, one method, what it makes kept without loss in the cache.

    out/cache/generated/HASH/rain.mkv ...   HASH names clip, text, method, seed, weights

Letters: T frames, H W height/width, C the 3 colours.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcgrid import __version__, hub
from dcgrid.eval.suites import compared_frames
from dcgrid.eval.suites.external import reason_of, take_external
from dcgrid.eval.suites.suite import CEILING, EvalRequest, Unit, UnitOutcome, item_names
from dcgrid.io.atomic import whole_folder
from dcgrid.io.progress import NullProgress, Progress
from dcgrid.models.base import Backbone, ModelSpec
from dcgrid.models.model import Model
from dcgrid.models.registry import find_model
from dcgrid.pipelines import baselines
from dcgrid.pipelines.baselines import method_of
from dcgrid.pipelines.job import ComposeJob, EditJob, GridJob
from dcgrid.pipelines.loading import (
    LoadedModel,
    ModelRequest,
    adapter_file,
    enter_given,
    load_model,
)
from dcgrid.pipelines.memory import grid_size, plan_memory
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.ranking import rank_tries
from dcgrid.pipelines.resolve import ResolvedGrid, resolve
from dcgrid.pipelines.run import run_plan
from dcgrid.pipelines.sampling import codec_pass, grid_request, settle_grid
from dcgrid.pipelines.script import Scene, StoryJob
from dcgrid.runtime import device as runtime
from dcgrid.video.parts import read_part, write_part
from dcgrid.video.read import read_clip

_DONE = "done.json"


@dataclass(slots=True, kw_only=True)
class GenerationContext:
    """What all units of a process share; one model is in memory at a time."""

    request: EvalRequest
    """The evaluation, on this process's device."""
    model: Model
    device: torch.device
    dtype: torch.dtype
    digests: Mapping[str, str]
    """Hashes of the model's weights."""
    loaded: tuple[tuple[str, str], LoadedModel] | None = None
    """Adapter and mode of the last model, and the model."""

    @property
    def spec(self) -> ModelSpec:
        """What is known of the model."""
        return self.model.spec


def generation_context(request: EvalRequest, device: str) -> GenerationContext:
    """Return the context of a process that generates on a device, e.g. "cuda:1"."""
    place, model = runtime.choose_device(device), find_model(request.model)
    return GenerationContext(
        request=replace(request, device=device),
        model=model,
        device=place,
        dtype=runtime.choose_dtype(request.dtype, place),
        digests=model.digests(),
    )


def generate_unit(context: GenerationContext, unit: Unit, progress: Progress) -> UnitOutcome:
    """Generate a unit, or find what an earlier run made of it; an error stands in the outcome."""
    if unit.method in context.request.external:
        return take_external(context.request, context.spec, unit)
    try:
        return _generate(context, unit, progress)
    except Exception as error:  # whatever a method dies of is counted against it
        reason = reason_of(error)
        errors = dict.fromkeys(item_names(context.request.suite, unit), reason)
        return UnitOutcome(unit=unit, errors=errors)


def _generate(context: GenerationContext, unit: Unit, progress: Progress) -> UnitOutcome:
    job, grid = _job(context, unit)
    folder = _folder(context, unit, job, grid)
    if (folder / _DONE).is_file():
        facts = json.loads((folder / _DONE).read_text())
        videos = {name: folder / file for name, file in facts["videos"].items()}
        if all(video.is_file() for video in videos.values()):
            seconds = facts["seconds"]
            return UnitOutcome(unit=unit, videos=videos, seconds=seconds, was_there=True)
    if isinstance(job, StoryJob):
        made, seconds = _generate_story(context, unit, job, progress)
    else:
        assert grid is not None
        made, seconds = _fill(context, unit, job, grid, progress)
    return _keep(unit, folder, made, seconds)


def _job(context: GenerationContext, unit: Unit) -> tuple[GridJob, ResolvedGrid | None]:
    """Return the job of a unit and the grid that it fills; a story's grids are its own."""
    request, clip = context.request, context.request.clips[unit.clip]
    # What only passes through the autoencoder is loaded as any other method on the bare base.
    method = method_of("codec" if unit.method == CEILING else unit.method)
    fields = request.job_fields(clip, unit.seed)
    if not method.uses_adapter:
        fields["adapter"] = "none"
    if request.suite.kind == "story":
        fields["duration_s"] = request.duration_s or context.spec.default_frames / context.spec.fps
        scenes = tuple(Scene(effect=task.effect) for task in unit.tasks)
        story = StoryJob(
            name="story",
            folder=Path(),
            source=clip.path,
            scenes=scenes,
            contact_sheet=False,
            fps="model",
            upsample="none",
            **fields,
        )
        return story, None
    job: GridJob
    if request.suite.kind == "compose":
        fields |= compared_frames.element_words(unit.tasks[0])
        job = ComposeJob(first=clip.path, second=clip.path, **fields)
    else:
        effects = tuple(task.effect for task in unit.tasks)
        job = method.prepare(EditJob(input=clip.path, effects=effects, **fields))
    return job, settle_grid(resolve(job, hub.config_dir() / "recipes"), context.spec)


def _folder(
    context: GenerationContext, unit: Unit, job: GridJob, grid: ResolvedGrid | None
) -> Path:
    """Return the folder in the cache, named by all that decides the pixels."""
    clip = context.request.clips[unit.clip]
    plan = compared_frames.plan_source(context.request, context.spec, clip)
    path = adapter_file(job, context.model, grid.mode if grid else "consistent")
    facts: dict[str, Any] = {
        "version": __version__,
        "clip": [clip.sha256, plan.start_s, plan.num_frames, plan.fps, plan.cell_size],
        "method": [unit.method, method_digest(unit.method)],
        "grid": asdict(grid) if grid else [asdict(task) for task in unit.tasks],
        "kind": context.request.suite.kind,
        "tasks": [asdict(task) for task in unit.tasks],
        "words": asdict(clip.words),
        "seed": unit.seed,
        "weights": [context.digests, hub.file_sha256(path) if path else "", job.quantize],
        "machine": [context.device.type, runtime.dtype_name(context.dtype)],
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    name = hashlib.sha256(text.encode()).hexdigest()[:24]
    return context.request.out / "cache" / "generated" / name


def _fill(
    context: GenerationContext, unit: Unit, job: GridJob, grid: ResolvedGrid, progress: Progress
) -> tuple[dict[str, Tensor], float]:
    """Generate a grid; return its results by item, and the seconds that generating took."""
    clip, spec = context.request.clips[unit.clip], context.spec
    given = [compared_frames.given_frames(context.request, spec, clip)]
    if isinstance(job, ComposeJob):
        (task,) = unit.tasks
        given.append(compared_frames.element_frames(task, given[0], spec.fps, unit.clip))
    model = _load_model(context, job, grid, given[0])
    enter_given(model.backbone, grid)
    if unit.method == CEILING:
        return _ceilings(context, unit, model.backbone, given), 0.0
    asked = grid_request(grid, model.backbone.spec, given, seed=unit.seed)
    generate_fn = method_of(unit.method).generate_fn()
    started = time.perf_counter()
    cells = generate_fn(model.backbone, asked, progress)
    seconds = time.perf_counter() - started
    return _best_tries(context, unit, grid, given[0], cells), seconds


def _ceilings(
    context: GenerationContext, unit: Unit, backbone: Backbone, given: list[Tensor]
) -> dict[str, Tensor]:
    """Return the truths after the autoencoder, by item."""
    if context.request.suite.kind == "compose":
        truths = compared_frames.fusion_truths(*given)
    else:
        fps = context.spec.fps
        truths = {t.key: compared_frames.effect_truth(t, given[0], fps) for t in unit.tasks}
    return {name: codec_pass(backbone, truth_THWC) for name, truth_THWC in truths.items()}


def _best_tries(
    context: GenerationContext,
    unit: Unit,
    grid: ResolvedGrid,
    given_THWC: Tensor,
    cells: Mapping[int, Tensor],
) -> dict[str, Tensor]:
    """Return for each item what `dcgrid edit` would deliver: the best of its tries."""
    made = {}
    for name, tries in zip(item_names(context.request.suite, unit), grid.tries, strict=True):
        tries_NTHWC = torch.stack([cells[cell] for cell in tries])
        ranked = rank_tries(given_THWC, tries_NTHWC)
        made[name] = cells[tries[ranked[0][0]]]
    return made


def _generate_story(
    context: GenerationContext, unit: Unit, job: StoryJob, progress: Progress
) -> tuple[dict[str, Tensor], float]:
    """Tell a story with the very command; return its scenes by item, and its seconds."""
    context.loaded = None
    clip = context.request.clips[unit.clip]
    rules = compared_frames.result_rules(context.request, context.spec, clip)
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_run(
            prepare_run(replace(job, folder=Path(folder)), hub.config_dir() / "recipes")
        )
        result = run_plan(plan, progress)
        names = item_names(context.request.suite, unit)
        made = {
            name: read_clip(file, rules)[0].frames_THWC
            for name, file in zip(names, result.files, strict=False)
        }
    return made, result.manifest.timings_s["fill"]


def _load_model(
    context: GenerationContext,
    job: GridJob,
    grid: ResolvedGrid,
    given_THWC: Tensor,
) -> LoadedModel:
    """Return the model with the adapter that a job needs, from memory if it is the last one."""
    requested = (job.adapter, grid.mode)
    if context.loaded is None or context.loaded[0] != requested:
        # The one before goes first: two large models do not fit.
        context.loaded = None
        frames, height, width, _ = given_THWC.shape
        size = grid_size(grid, context.spec, frames, (height, width))
        need = plan_memory(job, context.model, size, context.device, context.dtype)
        request = ModelRequest(
            job=job,
            model=context.model,
            mode=grid.mode,
            device=context.device,
            dtype=context.dtype,
            offload=need.offload,
        )
        model = load_model(request, NullProgress())
        context.loaded = (requested, model)
    return context.loaded[1]


def _keep(unit: Unit, folder: Path, made: Mapping[str, Tensor], seconds: float) -> UnitOutcome:
    """Write what was made; the folder is there whole or not at all."""
    files = {name: f"{number}.mkv" for number, name in enumerate(made)}
    seconds = round(seconds, 3)
    with whole_folder(folder) as part:
        for name, file in files.items():
            write_part(part / file, made[name].contiguous())
        (part / _DONE).write_text(json.dumps({"videos": files, "seconds": seconds}))
    videos = {name: folder / file for name, file in files.items()}
    return UnitOutcome(unit=unit, videos=videos, seconds=seconds)


def method_digest(name: str) -> str:
    """Return a hash of the code of a method and of what methods share: its settings are in it."""
    folder = Path(baselines.__file__).parent
    own = "codec" if name == CEILING else method_of(name).module
    files = sorted({f"{own}.py", "cells.py", "personal.py"})
    return hashlib.sha256(b"".join((folder / file).read_bytes() for file in files)).hexdigest()


def read_result(path: Path) -> Tensor:
    """Return the frames of a result, THWC, uint8, as they were generated.

    Raises:
        InputVideoError: The file is damaged.
    """
    return read_part(path)
