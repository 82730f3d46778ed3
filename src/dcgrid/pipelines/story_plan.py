"""What a story will do, before it does it: scenes, grids, windows, files.

`prepare_story` is the cheap half (no torch, no video); `plan_story` adds the model's facts and the
clip's. `--dry-run` prints a plan and stops.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcgrid.errors import UsageError
from dcgrid.pipelines.earlier import Settled, settle_names
from dcgrid.pipelines.job import check_input
from dcgrid.pipelines.lora import lora_lines
from dcgrid.pipelines.memory import MemoryNeed, grid_size, plan_memory
from dcgrid.pipelines.outputs import OutputPaths, name_outputs
from dcgrid.pipelines.plan import (
    check_pitch,
    clip_rules,
    download_lines,
    find_downloads,
    geometry_of,
    memory_words,
    rate_setting,
    windows_line,
    windows_of,
)
from dcgrid.pipelines.prepared import Prepared
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.pipelines.result import (
    REEL_STAGE,
    result_json,
    result_line,
    result_pixels,
    writing_stage,
)
from dcgrid.pipelines.script import StoryJob, resolve_story
from dcgrid.pipelines.times import Work, expected_seconds, run_stages, time_line
from dcgrid.pipelines.windows import Window

if TYPE_CHECKING:
    from dcgrid.models.base import ModelSpec
    from dcgrid.pipelines.concepts import Concepts
    from dcgrid.video.clip import ClipPlan, ClipRules


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedStory(Prepared):
    """A story whose scenes, text and files have been checked."""

    job: StoryJob
    """What was asked."""
    grids: tuple[ResolvedGrid, ...]
    """The grids in their order."""
    expected_reel: str = ""
    """Hash of the reel's pixels that must come out; empty: any."""
    expected_adapters: Mapping[str, str] = field(default_factory=dict)
    """Hash that each adapter must have, by its reference."""

    def named(self, number: int) -> OutputPaths:
        """Return the files by another number; see `name_outputs`."""
        names = [name for grid in self.grids for name in grid.names]
        return name_outputs(self.job, names, [1] * len(names), self.tag, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryPlan:
    """All that is known before the model is loaded."""

    prepared: PreparedStory
    """The checked story."""
    spec: "ModelSpec"
    """The model."""
    clip: "ClipPlan | None"
    """What of the character's clip is used; None: there is none."""
    windows: tuple[Window, ...]
    """What of a scene is generated in one go; one for a scene that the model can take whole."""
    cell_size: tuple[int, int]
    """Height and width of a cell."""
    device: str
    """Device it will run on."""
    dtype: str
    """Number format."""
    available_bytes: int
    """Free memory of the device; 0: unknown."""
    need: MemoryNeed
    """The memory that it takes, and where weights are meanwhile."""
    concepts: "Concepts"
    """The tags that its prompts may name."""
    downloads: Mapping[str, int | None] = field(default_factory=dict)
    """Bytes to download by reference or name (None: unknown size)."""
    remark: str = ""
    """What to expect of a model without adapter; empty: it has one."""
    adapter_notes: tuple[str, ...] = ()
    """Numbers of its adapters that are not the model's, and what overrides them."""
    text_notes: tuple[str, ...] = ()
    """What to know of its texts: words that the model does not know, or that they cannot be counted
    before a download."""

    @property
    def grids(self) -> tuple[ResolvedGrid, ...]:
        """What is generated, sampler values settled."""
        return self.prepared.grids

    @property
    def num_frames(self) -> int:
        """Frames of a scene."""
        return self.windows[-1].first + self.windows[-1].count

    def lines(self) -> list[str]:
        """Return the plan as sentences, one per line."""
        height, width = self.cell_size
        job, grids = self.prepared.job, self.prepared.grids
        clip = self.clip.lines() if self.clip else ["No clip: the character comes from the text."]
        seconds = self.num_frames / self.spec.fps
        windows = [windows_line(self.spec, self.windows)] if len(self.windows) > 1 else []
        return [
            *clip,
            f"Scenes: {len(job.scenes)} of {seconds:.2f} s in {len(grids)} grids of "
            f"{grids[0].rows}x{grids[0].cols} cells of {width}x{height}.",
            *windows,
            f"Model: {self.spec.name} on {self.device}, {self.dtype}, "
            f"{memory_words(self.need, self.available_bytes)}.",
            *lora_lines(self.prepared.job.loras),
            *self.adapter_notes,
            *self.concepts.lines(),
            *self.text_notes,
            result_line(job, self.clip) if self.clip else self._text_line(),
            time_line(self.work),
            *self.prepared.file_lines(),
            *([self.remark] if self.remark else []),
            *download_lines(self.downloads),
        ]

    @property
    def work(self) -> Work:
        """How much there is to do; the reel shows every scene once more."""
        from dcgrid.grid.layout import cell_token_shape

        shape = cell_token_shape(self.windows[0].count, *self.cell_size, geometry_of(self.spec))
        passes = sum(grid.rows * grid.cols * grid.num_inference_steps for grid in self.grids)
        job, outputs = self.prepared.job, self.prepared.outputs
        shown = len(job.scenes) * (1 if outputs.reel is None else 2)
        return Work(
            setting=rate_setting(self.spec, job, self.need, self.device, self.dtype),
            tokens=shape.count * passes * len(self.windows),
            pixels=(result_pixels(job, self.clip) if self.clip else self._text_pixels()) * shown,
            duration_s=self.clip.duration_s if self.clip else self.num_frames / self.spec.fps,
        )

    @property
    def stages(self) -> list[tuple[str, float]]:
        """What the story does, in order, each with about how long it takes."""
        job, work = self.prepared.job, self.work
        grids, windows = len(self.grids), len(self.windows)
        stages = run_stages(work, windows=windows, writing=writing_stage(job), grids=grids)
        if self.prepared.outputs.reel is not None:  # which shows every scene once more
            (writing, weight) = stages.pop()
            stages += [(writing, weight / 2), (REEL_STAGE, weight / 2)]
        return stages

    def _text_json(self) -> dict[str, Any]:
        """Return the size, length and rate of a scene that has no source."""
        from dcgrid.pipelines.upsampling import text_size

        height, width = self.cell_size
        if self.prepared.job.upsample != "none":
            height, width = text_size(self.cell_size)
        return {"width": width, "height": height, "frames": self.num_frames, "fps": self.spec.fps}

    def _text_pixels(self) -> int:
        result = self._text_json()
        return int(result["width"] * result["height"] * result["frames"])

    def _text_line(self) -> str:
        result = self._text_json()
        return (
            f"Result: {result['width']}x{result['height']}, {result['frames']} frames, "
            f"{result['fps']:.4g} fps, the model's rate."
        )

    def as_json(self) -> dict[str, Any]:
        """Return the plan for programs."""
        return {
            "command": "story",
            "scenes": [name for grid in self.prepared.grids for name in grid.names],
            "prompts": [grid.prompt.text for grid in self.prepared.grids],
            "size": [self.num_frames, *self.cell_size],
            "result": result_json(self.prepared.job, self.clip) if self.clip else self._text_json(),
            "expected_s": expected_seconds(self.work),
            "windows": len(self.windows),
            "downloads": dict(self.downloads),
            "memory_bytes": self.need.device_bytes,
            "host_bytes": self.need.host_bytes,
            "offload": self.need.offload,
            "quantize": self.need.quantize,
            "available_bytes": self.available_bytes,
            "model": self.spec.name,
            "loras": list(self.prepared.job.loras),
            "concepts": self.concepts.as_json(),
            "device": self.device,
            "dtype": self.dtype,
            **self.prepared.files_json(),
            "notes": list(self.adapter_notes),
        }


def prepare_story(job: StoryJob, recipe_dir: Path | None = None) -> PreparedStory:
    """Check a story as far as that goes in milliseconds.

    Raises:
        InputVideoError: The clip is missing or unreadable.
        UsageError: The job contradicts itself.
        RecipeError: An effect or the layout is unknown or wrong.
        PromptError: The text cannot be rendered.
        OutputError: A result cannot be written where it should go.
    """
    for path in job.inputs:
        check_input(path)
    grids = resolve_story(job, recipe_dir)
    names = [name for grid in grids for name in grid.names]
    outputs = name_outputs(job, names, [1] * len(names))
    return PreparedStory(job=job, grids=grids, outputs=outputs)


def plan_story(prepared: PreparedStory) -> StoryPlan:
    """Add the facts of the model and of the clip.

    Raises:
        UsageError: No such model, device or dtype, or a duration or fade that cannot be.
        DeviceError: The device is not on this machine.
        InputVideoError: The clip is not a video, or starts after its end.
        AdapterError: The adapter is damaged, or of another stage or mode.
    """
    # Torch comes in here and not with the module, so that a misspelt effect is told at once.
    from dcgrid.models.loading import model_spec
    from dcgrid.pipelines.concepts import plan_concepts
    from dcgrid.pipelines.models import adapter_reference, check_loras, grid_reference
    from dcgrid.pipelines.request import settle_grid
    from dcgrid.pipelines.words import check_text
    from dcgrid.runtime import device as runtime
    from dcgrid.video.read import plan_clip, probe

    job = prepared.job
    spec = model_spec(job.model)
    _check_from_text(job, spec)
    device = runtime.choose_device(job.device)
    rules, clip = clip_rules(spec, job.cell_size), None
    if job.source is not None:
        clip = plan_clip(probe(job.source), rules, job.start_s, job.duration_s)
    frames = clip.num_frames if clip else _frames_of_text(rules, job.duration_s)
    check_fade(job, frames, spec)
    grids = tuple(settle_grid(grid, spec) for grid in prepared.grids)
    adapters, repeats = [adapter_reference(job, "consistent")], bool(prepared.expected_frames)
    if not all(grid.given for grid in grids):
        adapters.append(grid_reference(job))
    concepts = plan_concepts(job, grids, adapters, repeats=repeats)
    job = replace(job, concepts=concepts.reference)
    text_notes = () if repeats else check_text(job, grids, spec, concepts.names)
    dtype = runtime.choose_dtype(job.dtype, device)
    windows, size = windows_of(spec, frames), clip.cell_size if clip else rules.cell_sizes[0]
    check_pitch(job, spec, grids[0], size)
    largest = grid_size(grids[0], spec, windows[0].count, size)
    need = plan_memory(job, largest, device, dtype)
    check_loras(job, need.offload)
    plan = StoryPlan(
        prepared=replace(prepared, job=job, grids=grids),
        spec=spec,
        clip=clip,
        windows=windows,
        cell_size=size,
        device=str(device),
        dtype=runtime.dtype_name(dtype),
        available_bytes=runtime.available_memory_bytes(device),
        need=need,
        concepts=concepts,
        downloads=find_downloads(job, [adapter_reference(job, "consistent")]),
        remark=_remark(job, grids),
        adapter_notes=_adapter_notes(job, spec, grids),
        text_notes=text_notes,
    )
    # The first adapter is that of grids with a given cell.
    return _with_names(plan, adapters[0 if any(one.given for one in grids) else 1 :])


def _check_from_text(job: StoryJob, spec: "ModelSpec") -> None:
    if job.source is None and not spec.generates_from_text:
        raise UsageError(
            f"the model {spec.name} makes no character from words alone: it would be noise",
            hint="name a clip with --from (or `from` in the story file), or a larger model with "
            "--model",
        )


def _with_names(plan: StoryPlan, adapters: Sequence[str]) -> StoryPlan:
    """Return the plan with names that are free, or with the earlier run that it would repeat."""
    settled = Settled(
        job=plan.prepared.job,
        grids=plan.grids,
        clips=[plan.clip] if plan.clip else [],
        machine=(plan.device, plan.dtype, plan.need.offload),
        adapters=tuple(adapters),
    )
    return replace(plan, prepared=settle_names(plan.prepared, settled))


def _adapter_notes(
    job: StoryJob, spec: "ModelSpec", grids: tuple[ResolvedGrid, ...]
) -> tuple[str, ...]:
    """Return what to say of the adapters of both kinds of grids.

    Raises:
        AdapterError: One is damaged, or of another stage or mode.
    """
    from dcgrid.pipelines.adapter_facts import adapter_lines, multi_dc_lines, planned_adapter
    from dcgrid.pipelines.models import adapter_reference, grid_reference

    reference = adapter_reference(job, "consistent")
    found = [planned_adapter(reference, spec, "consistent")]
    if not all(grid.given for grid in grids):
        found.append(planned_adapter(grid_reference(job), spec, "consistent", "grid"))
    lines = adapter_lines(spec, [one for one in found if one], grids, job.loras)
    return (*lines, *multi_dc_lines(reference, found[0], job.loras))


def _remark(job: StoryJob, grids: tuple[ResolvedGrid, ...]) -> str:
    """Return what to expect of grids that no adapter fills; empty if one fills them all."""
    from dcgrid.pipelines.models import adapter_reference, bare_base_line, grid_reference

    bare = bare_base_line(job, "consistent")
    alone = not all(grid.given for grid in grids)
    if bare or not alone or "none" in (adapter_reference(job, "consistent"), job.adapter):
        return bare
    if grid_reference(job) != "none":
        return ""
    return (
        "The first grid has no clip, and a Grid-Fill adapter needs one: the bare base generates it "
        "from the text."
    )


def check_fade(job: StoryJob, frames: int, spec: "ModelSpec") -> None:
    """Check that scenes of so many frames are long enough for the fades at both ends.

    Raises:
        UsageError: They are not.
    """
    seconds = frames / spec.fps
    if job.fade_s * 2 > seconds:
        raise UsageError(
            f"a fade of {job.fade_s} s is longer than half of a scene ({seconds:.2f} s)",
            hint=f"use --fade {seconds / 4:.2f}",
        )


def _frames_of_text(rules: "ClipRules", duration_s: float | None) -> int:
    """Return how many frames a scene has that no clip is given for."""
    asked = rules.default_frames or rules.max_frames
    if duration_s is not None:
        if not 0 < duration_s < math.inf:
            raise UsageError(
                f"--duration {duration_s}: scenes from text alone have more than 0 seconds, "
                "and an end",
                hint=f"Try --duration {rules.max_frames / rules.fps:.2f}.",
            )
        asked = round(min(duration_s * rules.fps, rules.most_frames))
    return max(rules.frames_within(asked), rules.least_frames)
