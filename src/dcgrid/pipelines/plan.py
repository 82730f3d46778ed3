"""What a run will do, before it does it: frames, tokens, memory, downloads, files.

    prepare_run(job) -> Prepared -> plan_run -> GenerationPlan -> run.run_plan

An edit is a story of one grid, a composition an edit with two given clips. prepared.py is the cheap
half (no torch, no video); `plan_run` adds the model's facts and the videos'. `--dry-run` prints a
plan and stops.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dcgrid import hub
from dcgrid.errors import NetworkError
from dcgrid.io.progress import counted
from dcgrid.pipelines.clips import (
    REEL_STAGE,
    check_cells,
    check_fade,
    check_from_text,
    clip_rules,
    frames_of_text,
    geometry_of,
    plan_clips,
    result_json,
    result_line,
    result_pixels,
    result_size,
    windows_line,
    windows_of,
    writing_stage,
)
from dcgrid.pipelines.earlier import Settled, settle_names
from dcgrid.pipelines.job import GridJob, lora_lines, parse_lora
from dcgrid.pipelines.prepared import Prepared, name_files
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.pipelines.script import StoryJob
from dcgrid.pipelines.times import Work, expected_seconds, run_stages, time_line
from dcgrid.pipelines.windows import Window

if TYPE_CHECKING:
    from dcgrid.models.base import ModelSpec
    from dcgrid.models.model import MemoryNeed, Model
    from dcgrid.pipelines.texts import Concepts
    from dcgrid.video.clip import ClipPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationPlan:
    """All that is known before the model is loaded."""

    prepared: Prepared
    """The checked job."""
    model: "Model"
    """The model."""
    clips: tuple["ClipPlan", ...]
    """What of each input is used; all of one size. Empty: the text alone says what to show."""
    asked_s: tuple[float | None, ...]
    """Seconds asked of each input; None: all of it."""
    windows: tuple[Window, ...]
    """What is generated in one go; one for a clip that the model can take whole."""
    cell_size: tuple[int, int]
    """Height and width of a cell in pixels."""
    need: "MemoryNeed"
    """The memory that the run takes, and where weights are meanwhile."""
    available_bytes: int
    """Free memory of the device; 0: unknown."""
    downloads: Mapping[str, int | None]
    """Bytes to download by weight reference or model (None: unknown size)."""
    device: str
    """Device it will run on."""
    dtype: str
    """Number format."""
    concepts: "Concepts"
    """The tags that its prompts may name."""
    remark: str = ""
    """What to expect of a model without adapter; empty: it has one."""
    adapter_notes: tuple[str, ...] = ()
    """Numbers of its adapters that are not the model's, and what overrides them."""
    text_notes: tuple[str, ...] = ()
    """What to know of its texts: words that the model does not know, or are not counted yet."""

    @property
    def spec(self) -> "ModelSpec":
        """What is known of the model."""
        return self.model.spec

    @property
    def job(self) -> GridJob:
        """What was asked."""
        return self.prepared.job

    @property
    def grids(self) -> tuple[ResolvedGrid, ...]:
        """What is generated, sampler values settled."""
        return self.prepared.grids

    @property
    def num_frames(self) -> int:
        """Frames of a cell."""
        return self.windows[-1].first + self.windows[-1].count

    @property
    def tokens(self) -> int:
        """Tokens of the grid of one window."""
        from dcgrid.grid.layout import cell_token_shape

        shape = cell_token_shape(self.windows[0].count, *self.cell_size, geometry_of(self.spec))
        return shape.count * self.grids[0].rows * self.grids[0].cols

    def lines(self) -> list[str]:
        """Return the plan as sentences, one per line."""
        windows = [windows_line(self.spec, self.windows)] if len(self.windows) > 1 else []
        return [
            *self.clip_lines(),
            self._shape_line(),
            *windows,
            f"Model: {self.spec.name} on {self.device}, {self.dtype}, "
            f"{memory_words(self.need, self.available_bytes)}.",
            *lora_lines(self.job.loras),
            *self.adapter_notes,
            *self.concepts.lines(),
            *self.text_notes,
            self._result_line(),
            time_line(self.work),
            *self.prepared.file_lines(),
            *([self.remark] if self.remark else []),
            *download_lines(self.downloads),
        ]

    def clip_lines(self) -> list[str]:
        """Return what becomes of the inputs, one sentence a line."""
        if not self.clips:
            return ["No clip: the character comes from the text."]
        if len(self.clips) == 1:
            return self.clips[0].lines()
        named = zip("AB", self.clips, strict=True)
        lines = [f"{name}: {line}" for name, plan in named for line in plan.lines()]
        first, second = self.clips
        if second.num_frames < first.num_frames:
            lines.append(
                f"B is shorter: its {counted(second.num_frames, 'frame')} will be shown "
                "forwards and backwards in turn as long as A lasts."
            )
        return lines

    def _shape_line(self) -> str:
        grid, (height, width) = self.grids[0], self.cell_size
        if isinstance(self.job, StoryJob):
            return (
                f"Scenes: {len(self.job.scenes)} of {self.num_frames / self.spec.fps:.2f} s in "
                f"{counted(len(self.grids), 'grid')} of {grid.rows}x{grid.cols} cells of "
                f"{width}x{height}."
            )
        return (
            f"Grid: {grid.rows}x{grid.cols} cells of {width}x{height} ({', '.join(grid.labels)}), "
            f"{self.tokens} tokens, {counted(grid.num_inference_steps, 'step')}."
        )

    def _result_line(self) -> str:
        if self.clips:
            return result_line(self.job, self.clips[0])
        result = self.result
        return (
            f"Result: {result['width']}x{result['height']}, {counted(result['frames'], 'frame')}, "
            f"{result['fps']:.4g} fps, the model's rate."
        )

    @property
    def result(self) -> dict[str, Any]:
        """Size, length and rate of each result."""
        if self.clips:
            return result_json(self.job, self.clips[0])
        from dcgrid.pipelines.upsampling import text_size

        height, width = self.cell_size
        if self.job.upsample != "none":
            height, width = text_size(self.cell_size)
        return {"width": width, "height": height, "frames": self.num_frames, "fps": self.spec.fps}

    def as_json(self) -> dict[str, Any]:
        """Return the plan for programs."""
        story = isinstance(self.job, StoryJob)
        return {
            "command": self.job.command,
            **(self._story_json() if story else self._edit_json()),
            "result": self.result,
            "windows": len(self.windows),
            "model": self.spec.name,
            "loras": list(self.job.loras),
            "concepts": self.concepts.as_json(),
            "device": self.device,
            "dtype": self.dtype,
            "memory_bytes": self.need.device_bytes,
            "host_bytes": self.need.host_bytes,
            "offload": self.need.offload,
            "quantize": self.need.quantize,
            "available_bytes": self.available_bytes,
            "expected_s": expected_seconds(self.work),
            "downloads": dict(self.downloads),
            **self.prepared.files_json(),
            "notes": [*([] if story else self.clip_lines()), *self.adapter_notes],
        }

    def _story_json(self) -> dict[str, Any]:
        return {
            "scenes": self.prepared.names,
            "prompts": [grid.prompt.text for grid in self.grids],
            "size": [self.num_frames, *self.cell_size],
        }

    def _edit_json(self) -> dict[str, Any]:
        clip, grid = self.clips[0], self.grids[0]
        return {
            "method": self.job.generated_by,
            "inputs": [str(path.absolute()) for path in self.job.inputs],
            "edits": list(grid.names),
            "prompt": grid.prompt.text,
            "rows": grid.rows,
            "cols": grid.cols,
            "given": list(grid.given),
            "frames": clip.num_frames,
            "fps": clip.fps,
            "starts_s": [one.start_s for one in self.clips],
            "duration_s": clip.duration_s,
            "cell_size": list(clip.cell_size),
            "result_size": list(result_size(self.job, clip)),
            "upsample": self.job.upsample,
            "tokens": self.tokens,
            "num_inference_steps": grid.num_inference_steps,
        }

    @property
    def work(self) -> Work:
        """How much there is to do; a reel shows every result once more."""
        job, outputs = self.job, self.prepared.outputs
        clip, result = (self.clips[0] if self.clips else None), self.result
        pixels = (
            result_pixels(job, clip)
            if clip
            else result["width"] * result["height"] * result["frames"]
        )
        shown = sum(map(len, outputs.videos)) * (1 if outputs.reel is None else 2)
        steps = sum(grid.num_inference_steps for grid in self.grids)
        return Work(
            setting=rate_setting(self.spec, job, self.need, self.device, self.dtype),
            tokens=self.tokens * steps * len(self.windows) * job.candidates,
            pixels=pixels * shown,
            duration_s=clip.duration_s if clip else self.num_frames / self.spec.fps,
        )

    @property
    def stages(self) -> list[tuple[str, float]]:
        """What the run does, in order, each with about how long it takes."""
        stages = run_stages(
            self.work,
            windows=len(self.windows),
            writing=writing_stage(self.job),
            grids=len(self.grids),
            candidates=self.job.candidates,
        )
        if self.prepared.outputs.reel is not None:  # which shows every scene once more
            (writing, weight) = stages.pop()
            stages += [(writing, weight / 2), (REEL_STAGE, weight / 2)]
        return stages


def plan_run(prepared: Prepared) -> GenerationPlan:
    """Add the facts of the model and of the videos to a checked job; nothing is decoded or loaded.

    Raises:
        UsageError: No such model, device or dtype, or a duration or fade that cannot be.
        DeviceError: The device is not on this machine.
        InputVideoError: An input is not a video, or starts after its end.
        LayoutError: The cells do not divide into tokens.
        AdapterError: The adapter is damaged, or of another stage or mode.
    """
    # Torch comes in here and not with the module, so that a misspelt effect is reported at once.
    from dcgrid.models.registry import find_model
    from dcgrid.pipelines.loading import adapter_reference, check_loras, grid_reference
    from dcgrid.pipelines.memory import grid_size, plan_memory
    from dcgrid.pipelines.sampling import settle_grid
    from dcgrid.pipelines.texts import check_text, plan_concepts
    from dcgrid.runtime import device as runtime

    job, repeats = prepared.job, bool(prepared.expected_frames)
    model = find_model(job.model)
    spec = model.spec
    check_from_text(job, spec)
    grids = tuple(settle_grid(grid, spec) for grid in prepared.grids)
    adapters = [adapter_reference(job, model, grids[0].mode)]
    if not all(grid.given for grid in grids):
        adapters.append(grid_reference(job, model))
    concepts = plan_concepts(job, model, grids, adapters, repeats=repeats)
    job = replace(job, concepts=concepts.reference)
    text_notes = () if repeats else check_text(job, model, grids, concepts.names)
    device = runtime.choose_device(job.device)
    dtype = runtime.choose_dtype(job.dtype, device)
    clips, asked_s = plan_clips(job, spec)
    rules = clip_rules(spec, job.cell_size)
    frames = clips[0].num_frames if clips else frames_of_text(rules, job.duration_s)
    size = clips[0].cell_size if clips else rules.cell_sizes[0]
    check_fade(job, frames, spec)
    check_cells(job, spec, grids[0], size)
    windows = windows_of(spec, frames)
    need = plan_memory(job, model, grid_size(grids[0], spec, windows[0].count, size), device, dtype)
    check_loras(job, model, need.offload)
    plan = GenerationPlan(
        prepared=replace(prepared, job=job, grids=grids),
        model=model,
        clips=clips,
        asked_s=asked_s,
        windows=windows,
        cell_size=size,
        need=need,
        available_bytes=runtime.available_memory_bytes(device),
        downloads=find_downloads(job, model, adapters[:1]),
        device=str(device),
        dtype=runtime.dtype_name(dtype),
        concepts=concepts,
        remark=_remark(job, model, grids, adapters),
        adapter_notes=_adapter_notes(job, model, grids, adapters),
        text_notes=(*text_notes, *_scene_notes(job, spec, clips)),
    )
    # The first adapter is that of grids with a given cell.
    return _with_names(plan, adapters[0 if any(grid.given for grid in grids) else 1 :])


def _scene_notes(job: GridJob, spec: "ModelSpec", clips: Sequence["ClipPlan"]) -> tuple[str, ...]:
    """Return what is used of a second clip; an edit has none, and does not wait for torch."""
    if len(clips) < 2:
        return ()
    from dcgrid.pipelines.scene_light import scene_notes

    return scene_notes(job, spec, clips)


def _with_names(plan: GenerationPlan, adapters: Sequence[str]) -> GenerationPlan:
    """Return the plan with names that are free, or with the earlier run that it would repeat."""
    settled = Settled(
        job=plan.job,
        model=plan.model,
        grids=plan.grids,
        clips=plan.clips,
        machine=(plan.device, plan.dtype, plan.need.offload),
        adapters=tuple(adapters),
    )
    prepared = plan.prepared
    free = settle_names(
        prepared,
        settled,
        lambda number: name_files(
            prepared.job, prepared.grids, prepared.job.tag + prepared.tag, number
        ),
    )
    return replace(plan, prepared=free)


def _adapter_notes(
    job: GridJob, model: "Model", grids: Sequence[ResolvedGrid], adapters: Sequence[str]
) -> tuple[str, ...]:
    """Return what to say of the adapters: Grid-Fill, and Grid where no cell is given.

    Raises:
        AdapterError: One is damaged, or of another stage or mode.
    """
    from dcgrid.pipelines.loading import adapter_lines, multi_dc_lines, planned_adapter

    spec, mode = model.spec, grids[0].mode
    found = [planned_adapter(adapters[0], spec, mode)]
    found += [planned_adapter(one, spec, mode, "grid") for one in adapters[1:]]
    lines = adapter_lines(spec, [one for one in found if one], grids, job.loras)
    return (*lines, *multi_dc_lines(adapters[0], found[0], job.loras))


def _remark(
    job: GridJob, model: "Model", grids: Sequence[ResolvedGrid], adapters: Sequence[str]
) -> str:
    """Return what to expect of grids that no adapter fills; empty if one fills them all."""
    from dcgrid.pipelines.loading import bare_base_line

    bare = bare_base_line(job, model, grids[0].mode)
    if bare or adapters[1:] != ["none"] or "none" in (adapters[0], job.adapter):
        return bare
    return (
        "The first grid has no clip, and a Grid-Fill adapter needs one: the bare base generates it "
        "from the text."
    )


def find_downloads(job: GridJob, model: "Model", adapters: Sequence[str]) -> dict[str, int | None]:
    """Return the bytes that a job would download, by reference or name of a model.

    Args:
        job: Names LoRAs and concepts.
        model: The model.
        adapters: References of its adapters; "none" is none.

    Raises:
        AdapterError: A file on this machine does not exist.
        WeightsError: A reference is malformed, or names a file that the repository does not have.
    """
    from dcgrid.adapters.find import require_file

    loras = [parse_lora(text).reference for text in job.loras]
    for kind, references in (("adapter", adapters), ("LoRA", loras)):
        for one in references:
            if one != "none":
                require_file(one, kind=kind, hint="; --adapter none is the bare base")
    named = [*adapters, *loras, *([job.concepts] if job.concepts else [])]
    found = {one: hub.download_bytes(one) for one in named if one != "none"}
    found[model.name] = model.download_bytes
    return {name: size for name, size in found.items() if size != 0}


def refuse_downloads(downloads: Mapping[str, int | None]) -> None:
    """Refuse a run that would download something while the network is off.

    Raises:
        NetworkError: It would.
    """
    if downloads and hub.is_offline():
        name = next(iter(downloads))
        raise NetworkError(
            f"{name} is not here and the network is off",
            hint="run once without --offline (and without HF_HUB_OFFLINE) to download it",
        )


def download_lines(downloads: Mapping[str, int | None]) -> list[str]:
    """Return what will be downloaded, a sentence each."""
    if not downloads:
        return ["Download: nothing."]
    return [
        f"Download: {name} ({'unknown size' if size is None else _size(size)})."
        for name, size in downloads.items()
    ]


def rate_setting(
    spec: "ModelSpec", job: GridJob, need: "MemoryNeed", device: str, dtype: str
) -> str:
    """Return what the time of a run depends on beside its size, in words; see times.py."""
    words = [f"{spec.name} on {device}", dtype]
    words += [need.settings] if need.settings else []
    words += [job.generated_by] if job.generated_by != "grid" else []
    words += [f"--upsample {job.upsample}"] if job.upsample != "guided" else []
    return ", ".join(words)


def memory_words(need: "MemoryNeed", available_bytes: int) -> str:
    """Return how much memory a run takes and there is, and with which settings, for a sentence."""
    host = f" and {_size(need.host_bytes)} of the host's" if need.host_bytes else ""
    settings = f" with {need.settings}" if need.settings else ""
    free = f" ({_size(available_bytes)} free)" if available_bytes else ""
    return f"about {_size(need.device_bytes)} of memory{host}{settings}{free}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
