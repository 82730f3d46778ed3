"""What a run will do, before it does it: frames, tokens, memory, downloads, files.

`prepare_run` is the cheap half (no torch, no video); `plan_run` adds the model's facts and the
videos'. `--dry-run` prints a plan and stops.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcgrid import hub
from dcgrid.errors import NetworkError, UsageError
from dcgrid.pipelines.earlier import Settled, settle_names
from dcgrid.pipelines.job import GridJob, check_input
from dcgrid.pipelines.lora import lora_lines, parse_lora
from dcgrid.pipelines.memory import MemoryNeed, grid_size, plan_memory
from dcgrid.pipelines.outputs import name_outputs
from dcgrid.pipelines.prepared import PreparedRun, count_tries
from dcgrid.pipelines.resolve import ResolvedGrid, resolve
from dcgrid.pipelines.result import (
    result_json,
    result_line,
    result_pixels,
    result_size,
    writing_stage,
)
from dcgrid.pipelines.times import Work, expected_seconds, run_stages, time_line
from dcgrid.pipelines.windows import Join, Window, plan_windows

if TYPE_CHECKING:
    from torch import Tensor

    from dcgrid.grid.layout import LatentGeometry
    from dcgrid.models.base import ModelSpec
    from dcgrid.pipelines.concepts import Concepts
    from dcgrid.video.clip import ClipPlan, ClipRules

DARK, DARK_SHARE = 60, 0.5
"""A clip is an element on dark ground if this part of its first frame is darker than so, of 255."""
LONGEST_FRAMES = 1_000_001
"""Most frames of a whole clip, generated in windows; a day at 12 frames a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """All that is known before the model is loaded."""

    prepared: PreparedRun
    """The checked job."""
    spec: "ModelSpec"
    """The model."""
    clips: tuple["ClipPlan", ...]
    """What of each input is used; all have as many frames of one size."""
    asked_s: tuple[float | None, ...]
    """Seconds asked of each input; None: all of it."""
    windows: tuple[Window, ...]
    """What is generated in one go; one for a clip that the model can take whole."""
    tokens: int
    """Tokens of the grid of one window."""
    need: MemoryNeed
    """The memory that the run takes, and where weights are meanwhile."""
    available_bytes: int
    """Free memory of the device; 0: unknown."""
    downloads: Mapping[str, int | None]
    """Bytes to download by weight reference (None: unknown size)."""
    device: str
    """Device it will run on."""
    dtype: str
    """Number format."""
    concepts: "Concepts"
    """The tags that its prompts may name."""
    remark: str = ""
    """What to expect of a model without adapter; empty: it has one."""
    adapter_notes: tuple[str, ...] = ()
    """Numbers of its adapter that are not the model's, and what overrides them."""
    text_notes: tuple[str, ...] = ()
    """What to know of its texts: words that the model does not know, or that they cannot be counted
    before a download."""

    @property
    def grids(self) -> tuple[ResolvedGrid, ...]:
        """What is generated, sampler values settled."""
        return (self.prepared.grid,)

    def lines(self) -> list[str]:
        """Return the plan as sentences, one per line."""
        grid = self.prepared.grid
        height, width = self.clips[0].cell_size
        shape = (
            f"Grid: {grid.rows}x{grid.cols} cells of {width}x{height} ({', '.join(grid.labels)}), "
            f"{self.tokens} tokens, {grid.num_inference_steps} steps."
        )
        lines = [
            *self.clip_lines(),
            shape,
            f"Model: {self.spec.name} on {self.device}, {self.dtype}, "
            f"{memory_words(self.need, self.available_bytes)}.",
            *lora_lines(self.prepared.job.loras),
            *self.adapter_notes,
            *self.concepts.lines(),
            *self.text_notes,
            result_line(self.prepared.job, self.clips[0]),
            time_line(self.work),
            *self.prepared.file_lines(),
        ]
        if len(self.windows) > 1:
            lines.insert(lines.index(shape) + 1, windows_line(self.spec, self.windows))
        lines += [self.remark] if self.remark else []
        return [*lines, *download_lines(self.downloads)]

    def clip_lines(self) -> list[str]:
        """Return what becomes of the inputs, one sentence a line."""
        if len(self.clips) == 1:
            return self.clips[0].lines()
        named = zip("AB", self.clips, strict=True)
        lines = [f"{name}: {line}" for name, plan in named for line in plan.lines()]
        first, second = self.clips
        if second.num_frames < first.num_frames:
            lines.append(
                f"B is shorter: its {second.num_frames} frames are shown forwards and backwards in "
                "turn as long as A lasts."
            )
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return the plan for programs."""
        clip, grid = self.clips[0], self.prepared.grid
        return {
            "command": self.prepared.job.command,
            "method": self.prepared.job.generated_by,
            "inputs": [str(path.absolute()) for path in self.prepared.job.inputs],
            "edits": list(grid.names),
            "prompt": grid.prompt.text,
            "rows": grid.rows,
            "cols": grid.cols,
            "given": list(grid.given),
            "frames": clip.num_frames,
            "windows": len(self.windows),
            "fps": clip.fps,
            "starts_s": [one.start_s for one in self.clips],
            "duration_s": clip.duration_s,
            "cell_size": list(clip.cell_size),
            "result_size": list(result_size(self.prepared.job, clip)),
            "result": result_json(self.prepared.job, clip),
            "upsample": self.prepared.job.upsample,
            "tokens": self.tokens,
            "num_inference_steps": grid.num_inference_steps,
            "model": self.spec.name,
            "loras": list(self.prepared.job.loras),
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
            "notes": [*self.clip_lines(), *self.adapter_notes],
        }

    @property
    def work(self) -> Work:
        """How much there is to do."""
        job, clip = self.prepared.job, self.clips[0]
        steps = self.prepared.grid.num_inference_steps * len(self.windows) * job.candidates
        return Work(
            setting=rate_setting(self.spec, job, self.need, self.device, self.dtype),
            tokens=self.tokens * steps,
            pixels=result_pixels(job, clip) * sum(map(len, self.prepared.outputs.videos)),
            duration_s=clip.duration_s,
        )

    @property
    def stages(self) -> list[tuple[str, float]]:
        """What the run does, in order, each with about how long it takes."""
        job = self.prepared.job
        return run_stages(
            self.work,
            windows=len(self.windows),
            writing=writing_stage(job),
            candidates=job.candidates,
        )


def prepare_run(job: GridJob, recipe_dir: Path | None = None) -> PreparedRun:
    """Check a job as far as that goes in milliseconds: inputs, recipes, text, output files.

    Args:
        job: What was asked.
        recipe_dir: The user's own recipes.

    Raises:
        InputVideoError: An input is missing or unreadable.
        UsageError: The job contradicts itself.
        RecipeError: An effect or the layout is unknown or wrong.
        PromptError: The prompt cannot be rendered.
        OutputError: A result cannot be written where it should go.
    """
    for path in job.inputs:
        check_input(path)
    grid = resolve(job, recipe_dir)
    outputs = name_outputs(job, grid.names, count_tries(job, grid), job.tag)
    return PreparedRun(job=job, grid=grid, outputs=outputs)


def plan_run(prepared: PreparedRun) -> RunPlan:
    """Add the facts of the model and of the videos to a checked job; nothing is decoded or loaded.

    Raises:
        UsageError: No such model, device or dtype.
        DeviceError: The device is not on this machine.
        InputVideoError: An input is not a video, or starts after its end.
        LayoutError: The cells do not divide into tokens.
        AdapterError: The adapter is damaged, or of another stage or mode.
    """
    # Torch comes in here and not with the module, so that a misspelt effect is told at once.
    from dcgrid.grid.layout import cell_token_shape
    from dcgrid.models.loading import model_spec
    from dcgrid.pipelines.adapter_facts import adapter_lines, multi_dc_lines, planned_adapter
    from dcgrid.pipelines.concepts import plan_concepts
    from dcgrid.pipelines.models import adapter_reference, bare_base_line, check_loras
    from dcgrid.pipelines.request import settle_grid
    from dcgrid.pipelines.words import check_text
    from dcgrid.runtime import device as runtime

    job = prepared.job
    spec = model_spec(job.model)
    grid = settle_grid(prepared.grid, spec)
    reference, repeats = adapter_reference(job, grid.mode), bool(prepared.expected_frames)
    adapter = planned_adapter(reference, spec, grid.mode)
    concepts = plan_concepts(job, [grid], [reference], repeats=repeats)
    job = replace(job, concepts=concepts.reference)
    text_notes = () if repeats else check_text(job, [grid], spec, concepts.names)
    device = runtime.choose_device(job.device)
    dtype = runtime.choose_dtype(job.dtype, device)
    clips, asked_s = plan_clips(job, spec)
    frames, size = clips[0].num_frames, clips[0].cell_size
    check_pitch(job, spec, grid, size)
    windows = windows_of(spec, frames)
    tokens = cell_token_shape(windows[0].count, *size, geometry_of(spec)).count
    need = plan_memory(job, grid_size(grid, spec, windows[0].count, size), device, dtype)
    check_loras(job, need.offload)
    plan = RunPlan(
        prepared=replace(prepared, job=job, grid=grid),
        spec=spec,
        clips=clips,
        asked_s=asked_s,
        windows=windows,
        tokens=tokens * grid.rows * grid.cols,
        need=need,
        available_bytes=runtime.available_memory_bytes(device),
        downloads=find_downloads(job, [reference]),
        device=str(device),
        dtype=runtime.dtype_name(dtype),
        concepts=concepts,
        remark=bare_base_line(job, grid.mode),
        adapter_notes=(
            *adapter_lines(spec, [adapter] if adapter else [], [grid], job.loras),
            *multi_dc_lines(reference, adapter, job.loras),
        ),
        text_notes=(*text_notes, *_backdrop_notes(job, spec, clips)),
    )
    return _with_names(plan, reference)


def _with_names(plan: RunPlan, adapter: str) -> RunPlan:
    """Return the plan with names that are free, or with the earlier run that it would repeat."""
    settled = Settled(
        job=plan.prepared.job,
        grids=plan.grids,
        clips=plan.clips,
        machine=(plan.device, plan.dtype, plan.need.offload),
        adapters=(adapter,),
    )
    return replace(plan, prepared=settle_names(plan.prepared, settled))


def _backdrop_notes(
    job: GridJob, spec: "ModelSpec", clips: Sequence["ClipPlan"]
) -> tuple[str, ...]:
    """Return what to expect of a second clip that is more than an element on dark ground.

    Small models learned to compose with such elements alone; one frame of the clip is decoded.
    """
    from dcgrid.video.read import read_clip

    if len(clips) < 2 or spec.generates_from_text:
        return ()
    rules = replace(clip_rules(spec), default_frames=1, longest=None, keeps_all=False)
    clip, _ = read_clip(job.inputs[1], rules, start_s=clips[1].start_s)
    dark = dark_share(clip.frames_THWC)
    if dark >= DARK_SHARE:
        return ()
    return (
        f"B: {job.inputs[1].name} is dark in {100 * dark:.0f} % of its picture only; {spec.name} "
        "learned elements on dark ground (fire, sparks, smoke), and of a whole scene it takes the "
        "light and the colours of everything in it.",
    )


def dark_share(frames_THWC: "Tensor") -> float:
    """Return which part of uint8 frames is dark; see `DARK`."""
    return float((frames_THWC.float().mean(-1) < DARK).float().mean())


def find_downloads(job: GridJob, adapters: Sequence[str]) -> dict[str, int | None]:
    """Return the bytes that a job would download, by reference or name of a model.

    Args:
        job: Names model and LoRAs.
        adapters: References of its adapters; "none" is none.

    Raises:
        AdapterError: A file on this machine does not exist.
        WeightsError: A reference is malformed, or names a file that the repository does not have.
    """
    from dcgrid.adapters.find import require_file
    from dcgrid.models.loading import is_here

    loras = [parse_lora(text).reference for text in job.loras]
    for kind, references in (("adapter", adapters), ("LoRA", loras)):
        for one in references:
            if one != "none":
                require_file(one, kind=kind, hint="; --adapter none is the bare base")
    named = [*adapters, *loras, *([job.concepts] if job.concepts else [])]
    found = {one: hub.download_bytes(one) for one in named if one != "none"}
    if not is_here(job.model):
        found[job.model] = hub.model_download(job.model).bytes_left
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


def plan_clips(
    job: GridJob, spec: "ModelSpec"
) -> tuple[tuple["ClipPlan", ...], tuple[float | None, ...]]:
    """Plan what of each input is used: size and length are those of the first.

    Nothing of the first is lost. The others are cropped to its cell, and used as long as it lasts.

    Returns:
        A plan an input, and the seconds asked of it.

    Raises:
        InputVideoError: An input is not a video, or starts after its end.
        UsageError: A start or the duration is out of range.
    """
    from dcgrid.video.clip import ClipPlan
    from dcgrid.video.read import plan_clip, probe

    rules = clip_rules(spec, job.cell_size)
    first = plan_clip(probe(job.inputs[0]), rules, job.starts_s[0], job.duration_s)
    same = replace(rules, cell_sizes=(first.cell_size,), keeps_all=False)
    plans: list[ClipPlan] = [first]
    asked: list[float | None] = [job.duration_s]
    for path, start_s in zip(job.inputs[1:], job.starts_s[1:], strict=True):
        asked.append(first.num_frames / rules.fps)
        plans.append(plan_clip(probe(path), same, start_s, asked[-1]))
    return tuple(plans), tuple(asked)


def windows_of(spec: "ModelSpec", num_frames: int) -> tuple[Window, ...]:
    """Return the windows in which a model generates a clip of so many frames."""
    join = Join(head=spec.carried_frames, blend=spec.blended_frames)
    return plan_windows(num_frames, spec.max_frames, join, spec.stride_T)


def windows_line(spec: "ModelSpec", windows: Sequence[Window]) -> str:
    """Return how a long clip is generated, as a sentence; there are two windows or more."""
    first, second = windows[:2]
    return (
        f"Windows: {len(windows)} of up to {first.count} frames ({first.count / spec.fps:.2f} s), "
        f"each going on from {second.head} frames of the one before, {second.blend} more blended."
    )


def clip_rules(spec: "ModelSpec", cell_size: tuple[int, int] | None = None) -> "ClipRules":
    """Return what a model asks of a clip, in the words of the video reader.

    Args:
        spec: The model.
        cell_size: Height and width that the user wants of a cell; None: the model's own.

    Raises:
        UsageError: Cells of that size do not divide into tokens; the hint names some that do.
    """
    from dcgrid.grid.layout import nearest_sizes
    from dcgrid.video.clip import ClipRules

    if cell_size is not None:
        fitting = nearest_sizes(*cell_size, geometry_of(spec))
        if cell_size not in fitting:
            named = ", ".join(f"{width}x{height}" for height, width in fitting)
            unit = spec.stride_HW * spec.patch[1]
            raise UsageError(
                f"--size {cell_size[1]}x{cell_size[0]} does not divide into the tokens of "
                f"{spec.name}, {unit}x{unit} pixels each",
                hint=f"the nearest sizes that do: {named}",
            )
    return ClipRules(
        fps=spec.fps,
        stride=spec.stride_T,
        max_frames=spec.max_frames,
        cell_sizes=(cell_size,) if cell_size else spec.cell_sizes,
        default_frames=spec.default_frames,
        longest=LONGEST_FRAMES,
        keeps_all=True,
    )


def check_pitch(job: GridJob, spec: "ModelSpec", grid: ResolvedGrid, size: tuple[int, int]) -> None:
    """Check that cells do not overlap on a model whose cells stand at a fixed distance.

    Raises:
        UsageError: They would; the hint names a size of the same shape that fits.
    """
    if spec.cell_pitch is None or job.generated_by not in ("grid", "inpaint"):
        return
    # The offset grid has a token more in each direction.
    unit, spare = spec.stride_HW * spec.patch[1], 1 if spec.offset_tokens else 0
    most = [(pitch - spare) * unit for pitch in spec.cell_pitch]
    shares = [
        limit / side
        for limit, side, count in zip(most, size, (grid.rows, grid.cols), strict=True)
        if count > 1 and side > limit
    ]
    if shares:
        height, width = (max(unit, int(side * min(shares)) // unit * unit) for side in size)
        raise UsageError(
            f"--size {size[1]}x{size[0]}: cells of {spec.name} are at most {most[1]}x{most[0]}",
            hint=f"use --size {width}x{height}, or leave it out",
        )


def one_pass_rules(spec: "ModelSpec") -> "ClipRules":
    """Return the rules of measurements: what one pass of a model takes, cropped to a cell.

    Comparisons are made at the size of a cell, where a padding would be scored with the picture.
    """
    return replace(clip_rules(spec), longest=None, keeps_all=False)


def geometry_of(spec: "ModelSpec") -> "LatentGeometry":
    """Return how a model turns pixels into tokens."""
    from dcgrid.grid.layout import LatentGeometry

    return LatentGeometry(stride_T=spec.stride_T, stride_HW=spec.stride_HW, patch=spec.patch)


def rate_setting(spec: "ModelSpec", job: GridJob, need: MemoryNeed, device: str, dtype: str) -> str:
    """Return what the time of a run depends on beside its size, in words; see times.py."""
    words = [f"{spec.name} on {device}", dtype]
    words += [need.settings] if need.settings else []
    words += [job.generated_by] if job.generated_by != "grid" else []
    words += [f"--upsample {job.upsample}"] if job.upsample != "guided" else []
    return ", ".join(words)


def memory_words(need: MemoryNeed, available_bytes: int) -> str:
    """Return how much memory a run takes and there is, and with which settings, for a sentence."""
    host = f" and {_size(need.host_bytes)} of the host's" if need.host_bytes else ""
    settings = f" with {need.settings}" if need.settings else ""
    free = f" ({_size(available_bytes)} free)" if available_bytes else ""
    return f"about {_size(need.device_bytes)} of memory{host}{settings}{free}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
