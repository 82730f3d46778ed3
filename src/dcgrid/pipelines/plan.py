"""What an edit will do, before it does it: frames, tokens, memory, downloads, files.

`prepare_edit` is the cheap half (no torch, no video); `plan_edit` adds the model's facts and the
video's. `dcgrid edit --dry-run` prints a plan and stops.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcgrid import hub
from dcgrid.pipelines.job import EditJob, ResolvedEdits, check_input, resolve_edits
from dcgrid.pipelines.outputs import OutputPaths, name_outputs

if TYPE_CHECKING:
    from dcgrid.models.base import ModelSpec
    from dcgrid.video.clip import ClipPlan, ClipRules

_MIB = 1024 * 1024
# Measured on `mini`, see memory_estimate_bytes.
_BASE_BYTES = 350 * _MIB
_BYTES_PER_PIXEL = 1100


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedEdit:
    """A job whose names, texts and files have been checked."""

    job: EditJob
    """What was asked."""
    grid: ResolvedEdits
    """Edits, text, cells."""
    outputs: OutputPaths
    """Files that will be written."""
    expected_frames: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Hash of pixels that must come out, by edit and cell; empty: anything may."""
    expected_weights: Mapping[str, str] = field(default_factory=dict)
    """Hash that each weight file must have, by file name; empty: any."""
    threads: int = 0
    """CPU threads to use; 0: torch's own choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditPlan:
    """All that is known before the model is loaded."""

    prepared: PreparedEdit
    """The checked job."""
    spec: "ModelSpec"
    """The model."""
    clip: "ClipPlan"
    """What of the input is used."""
    tokens: int
    """Tokens of the whole grid."""
    memory_bytes: int
    """Estimate of the memory that the run takes."""
    available_bytes: int
    """Free memory of the device; 0: unknown."""
    downloads: Mapping[str, int | None]
    """Bytes to download by weight reference (None: unknown size)."""
    device: str
    """Device it will run on."""
    dtype: str
    """Number format."""

    def lines(self) -> list[str]:
        """Return the plan as sentences, one per line."""
        grid, names = self.prepared.grid, [edit.name for edit in self.prepared.grid.edits]
        cells = ", ".join("given" if index is None else names[index] for index in grid.edit_of_cell)
        height, width = self.clip.cell_size
        factor = self.spec.upsample
        free = f" ({_size(self.available_bytes)} free)" if self.available_bytes else ""
        lines = [
            *self.clip.lines(),
            f"Grid: {grid.rows}x{grid.cols} cells of {width}x{height} ({cells}), "
            f"{self.tokens} tokens, {grid.num_inference_steps} steps.",
            f"Model: {self.spec.name} on {self.device}, {self.dtype}, "
            f"about {_size(self.memory_bytes)} of memory{free}.",
            f"Result: {width * factor}x{height * factor}, "
            f"{', '.join(path.name for path in self.prepared.outputs.all())}.",
        ]
        for reference, size in self.downloads.items():
            amount = "unknown size" if size is None else _size(size)
            lines.append(f"Download: {reference} ({amount}).")
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return the plan for programs."""
        clip, grid = self.clip, self.prepared.grid
        return {
            "input": str(self.prepared.job.input),
            "edits": [edit.name for edit in grid.edits],
            "prompt": grid.prompt.text,
            "rows": grid.rows,
            "cols": grid.cols,
            "given": grid.given,
            "frames": clip.num_frames,
            "fps": clip.fps,
            "start_s": clip.start_s,
            "duration_s": clip.duration_s,
            "cell_size": list(clip.cell_size),
            "tokens": self.tokens,
            "num_inference_steps": grid.num_inference_steps,
            "model": self.spec.name,
            "device": self.device,
            "dtype": self.dtype,
            "memory_bytes": self.memory_bytes,
            "available_bytes": self.available_bytes,
            "downloads": dict(self.downloads),
            "outputs": [str(path) for path in self.prepared.outputs.all()],
            "notes": clip.lines(),
        }


def prepare_edit(job: EditJob, recipe_dir: Path | None = None) -> PreparedEdit:
    """Check a job as far as that goes in milliseconds: input, effects, text, output files.

    Args:
        job: What was asked.
        recipe_dir: The user's own recipes.

    Raises:
        InputVideoError: The input is missing or unreadable.
        UsageError: The job contradicts itself.
        RecipeError: An effect or the layout is unknown or wrong.
        PromptError: The prompt cannot be rendered.
        OutputError: A result cannot be written where it should go.
    """
    check_input(job.input)
    grid = resolve_edits(job, recipe_dir)
    outputs = name_outputs(
        job, [edit.name for edit in grid.edits], [len(cells) for cells in grid.tries]
    )
    return PreparedEdit(job=job, grid=grid, outputs=outputs)


def plan_edit(prepared: PreparedEdit) -> EditPlan:
    """Add the facts of the model and of the video to a checked job; nothing is decoded or loaded.

    Raises:
        UsageError: No such model, device or dtype.
        DeviceError: The device is not on this machine.
        InputVideoError: The input is not a video, or starts after its end.
        LayoutError: The cells do not divide into tokens.
    """
    # Torch comes in here and not with the module, so that a misspelt effect is told at once.
    from dcgrid.grid.layout import LatentGeometry, cell_token_shape
    from dcgrid.models.loading import model_spec
    from dcgrid.pipelines.models import adapter_reference
    from dcgrid.runtime import device as runtime
    from dcgrid.video.read import plan_clip, probe

    job = prepared.job
    spec = model_spec(job.model)
    device = runtime.choose_device(job.device)
    dtype = runtime.choose_dtype(job.dtype, device)
    clip = plan_clip(probe(job.input), clip_rules(spec), job.start_s, job.duration_s)
    geometry = LatentGeometry(stride_T=spec.stride_T, stride_HW=spec.stride_HW, patch=spec.patch)
    tokens = cell_token_shape(clip.num_frames, *clip.cell_size, geometry).count
    references = [one for one in (adapter_reference(job),) if one != "none"]
    downloads = {one: hub.download_bytes(one) for one in references}
    return EditPlan(
        prepared=prepared,
        spec=spec,
        clip=clip,
        tokens=tokens * prepared.grid.rows * prepared.grid.cols,
        memory_bytes=memory_estimate_bytes(spec, clip.num_frames, clip.cell_size),
        available_bytes=runtime.available_memory_bytes(device),
        downloads={name: size for name, size in downloads.items() if size != 0},
        device=str(device),
        dtype=runtime.dtype_name(dtype),
    )


def clip_rules(spec: "ModelSpec") -> "ClipRules":
    """Return what a model asks of a clip, in the words of the video reader."""
    from dcgrid.video.clip import ClipRules

    return ClipRules(
        fps=spec.fps,
        stride=spec.stride_T,
        max_frames=spec.max_frames,
        cell_sizes=spec.cell_sizes,
        default_frames=spec.default_frames,
    )


def memory_estimate_bytes(spec: "ModelSpec", frames: int, cell_size: tuple[int, int]) -> int:
    """Estimate the memory of a run: the program itself, and the decoder, which is the widest part.

    Args:
        spec: The model.
        frames: Pixel frames of a clip.
        cell_size: Height and width of a cell in pixels.

    Returns:
        Bytes; measured with `mini` on a CPU, within about a third there, rougher elsewhere.
    """
    return _BASE_BYTES + frames * cell_size[0] * cell_size[1] * _BYTES_PER_PIXEL


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
