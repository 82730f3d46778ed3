"""`dcgrid edit` from the top: read the clip, fill the grid, choose, write. No way back.

    prepare_edit -> plan_edit -> run_edit        (plan.py has the first two)

    read clip -> load model -> fill_grid -> rank tries -> write videos, sheet, manifest together

Letters: T frames, H W height/width, C the 3 colours.
"""

import hashlib
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dcgrid import __version__, hub
from dcgrid.errors import DeviceError
from dcgrid.pipelines.choose import TryScore, rank_tries
from dcgrid.pipelines.fill import FilledCell, FillSettings, fill_grid, sample_settings
from dcgrid.pipelines.manifest import OutputRecord, RunManifest, write_manifest
from dcgrid.pipelines.models import LoadedModel, check_weights, load_model
from dcgrid.pipelines.outputs import StagedFiles
from dcgrid.pipelines.plan import EditPlan, clip_rules
from dcgrid.pipelines.progress import Progress
from dcgrid.pipelines.request import GridRequest, edit_request
from dcgrid.runtime import device as runtime
from dcgrid.video.clip import Clip
from dcgrid.video.read import read_clip
from dcgrid.video.sheet import tile_grid, write_contact_sheet
from dcgrid.video.write import resample_frames, write_video


@dataclass(frozen=True, slots=True, kw_only=True)
class EditResult:
    """What a run made."""

    manifest: RunManifest
    """What made it."""
    files: tuple[Path, ...]
    """Every file, videos first."""
    notes: tuple[str, ...]
    """What was changed or left out while writing."""
    same_pixels: bool | None
    """True: the pixels of an earlier run were reached again. None: not a rerun."""

    def as_json(self) -> dict[str, Any]:
        """Return the result for programs."""
        manifest = self.manifest
        return {
            "files": [str(path) for path in self.files],
            "outputs": [
                {"path": one.path, "edit": one.edit, "cell": one.cell, "structure": one.structure}
                for one in manifest.outputs
            ],
            "seed": manifest.job.seed,
            "timings_s": dict(manifest.timings_s),
            "peak_memory_bytes": manifest.peak_memory_bytes,
            "notes": list(self.notes),
            "same_pixels": self.same_pixels,
        }


@dataclass(slots=True, kw_only=True)
class _Stopwatch:
    """Collects the seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Take:
    """One video that will be written."""

    path: Path
    edit: str
    filled: FilledCell
    score: TryScore


def run_edit(plan: EditPlan, progress: Progress) -> EditResult:
    """Carry out a plan. All files appear together at the end; after an error there is none.

    Args:
        plan: From `plan_edit`.
        progress: Told of stages, steps and remarks.

    Returns:
        The result.

    Raises:
        InputVideoError: The input cannot be decoded.
        WeightsError: Weights are missing or damaged.
        AdapterError: The adapter is damaged or for another model.
        NetworkError: A download failed or the network is off.
        DeviceError: A rerun came to other pixels than the run it repeats (unless `force`).
        OutputError: A file cannot be written.
    """
    job, watch = plan.prepared.job, _Stopwatch()
    threads = plan.prepared.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    device = torch.device(plan.device)
    dtype = runtime.choose_dtype(plan.dtype, device)
    _warn_of_memory(plan, progress)
    with watch.stage("read"):
        clip = _read(plan, progress)
    with watch.stage("load"):
        model = load_model(job, device, dtype, progress)
    if not job.force:
        check_weights(model, plan.prepared.expected_weights)
    _warn_of_words(plan, model, progress)
    with watch.stage("fill"):
        settings = FillSettings(seed=job.seed, device=device)
        filled = fill_grid(model.backbone, _request(plan, clip), settings, progress)
    takes = _choose(plan, clip, filled)
    same_pixels = _compare(plan, takes, progress)
    # Known only after writing, so the manifest is made in there with everything but itself.
    with StagedFiles() as staged:
        with watch.stage("write"):
            records, notes = _write_media(plan, clip, filled, takes, staged, progress)
        manifest = _manifest(plan, clip, model, watch.seconds, records)
        write_manifest(staged.stage(plan.prepared.outputs.manifest), manifest)
        staged.commit()
    return EditResult(
        manifest=manifest,
        files=plan.prepared.outputs.all(),
        notes=tuple(notes),
        same_pixels=same_pixels,
    )


def frames_sha256(frames_THWC: Tensor) -> str:
    """Return the SHA-256 of a uint8 clip's shape and pixels."""
    digest = hashlib.sha256(f"{tuple(frames_THWC.shape)}".encode())
    digest.update(frames_THWC.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(plan: EditPlan, progress: Progress) -> Clip:
    job = plan.prepared.job
    progress.start("reading the clip", plan.clip.num_frames)
    clip, done = read_clip(
        job.input,
        clip_rules(plan.spec),
        start_s=job.start_s,
        duration_s=job.duration_s,
        on_frame=progress.update,
    )
    # Only decoding shows where a file lied; what differs from the plan is told.
    for line in done.lines():
        if line not in plan.clip.lines():
            progress.note(line)
    return clip


def _request(plan: EditPlan, clip: Clip) -> GridRequest:
    return edit_request(plan.prepared.grid, clip.frames_THWC)


def _warn_of_memory(plan: EditPlan, progress: Progress) -> None:
    if 0 < plan.available_bytes < plan.memory_bytes:
        progress.warn(
            f"the run may need {plan.memory_bytes / 1e9:.1f} GB of memory and "
            f"{plan.available_bytes / 1e9:.1f} GB are free; a shorter --duration needs less"
        )


def _warn_of_words(plan: EditPlan, model: LoadedModel, progress: Progress) -> None:
    """Name the words of free text that the model never saw, if the model can tell."""
    job = plan.prepared.job
    words = model.backbone.unknown_words(" ".join((job.prompt, job.subject, job.motion)))
    if words:
        progress.warn(f"the model {plan.spec.name} never saw: {', '.join(words)}")


def _choose(plan: EditPlan, clip: Clip, filled: list[FilledCell]) -> list[_Take]:
    """Rank the tries at each edit and give the kept ones their files, the best first."""
    by_cell = {one.cell: one for one in filled}
    prepared, takes = plan.prepared, []
    groups = zip(prepared.grid.edits, prepared.grid.tries, prepared.outputs.videos, strict=True)
    for edit, cells, paths in groups:
        tries_NTHWC = torch.stack([by_cell[cell].frames_THWC for cell in cells])
        ranked = rank_tries(clip.frames_THWC, tries_NTHWC)
        for path, (index, score) in zip(paths, ranked, strict=False):
            take = _Take(path=path, edit=edit.name, filled=by_cell[cells[index]], score=score)
            takes.append(take)
    return takes


def _compare(plan: EditPlan, takes: list[_Take], progress: Progress) -> bool | None:
    """Compare pixels with those of the run that is repeated.

    Raises:
        DeviceError: They differ and `force` is not set.
    """
    expected = plan.prepared.expected_frames
    if not expected:
        return None
    other = [
        take.edit
        for take in takes
        if expected.get((take.edit, take.filled.cell)) != frames_sha256(take.filled.frames_THWC)
    ]
    if not other:
        return True
    message = f"the rerun came to other pixels in {', '.join(other)}"
    if not plan.prepared.job.force:
        raise DeviceError(
            message,
            hint="the machine, its torch or its threads differ from the manifest's; "
            "--force writes the result all the same",
        )
    progress.warn(message)
    return False


def _write_media(
    plan: EditPlan,
    clip: Clip,
    filled: list[FilledCell],
    takes: list[_Take],
    staged: StagedFiles,
    progress: Progress,
) -> tuple[list[OutputRecord], list[str]]:
    """Write videos, contact sheet and grid under temporary names."""
    outputs, records, notes = plan.prepared.outputs, [], list[str]()
    progress.start("writing", len(outputs.all()) - 1)
    for done, take in enumerate(takes, start=1):
        part = staged.stage(take.path)
        frames_THWC, fps = _at_wanted_rate(plan, clip, take.filled.frames_THWC)
        report = write_video(part, frames_THWC, fps, sound=clip.sound(), comment=_comment(plan))
        notes += [note for note in report.notes if note not in notes]
        records.append(
            OutputRecord(
                path=take.path.name,
                edit=take.edit,
                cell=take.filled.cell,
                frames_sha256=frames_sha256(take.filled.frames_THWC),
                file_sha256=hub.file_sha256(part),
                structure=round(take.score.structure, 6),
                flicker=round(take.score.flicker, 6),
            )
        )
        progress.update(done)
    given_THWC = _resized_like(clip.frames_THWC, filled[0].frames_THWC)
    if outputs.sheet is not None:
        best = {take.edit: take.filled.frames_THWC for take in reversed(takes)}
        rows = [given_THWC, *(best[edit.name] for edit in plan.prepared.grid.edits)]
        labels = ["given", *(edit.name for edit in plan.prepared.grid.edits)]
        write_contact_sheet(staged.stage(outputs.sheet), [[row] for row in rows], labels)
    if outputs.grid is not None:
        cells = {one.cell: one.frames_THWC for one in filled} | {
            plan.prepared.grid.given: given_THWC
        }
        grid = plan.prepared.grid
        tiled_THWC = tile_grid([cells[cell] for cell in sorted(cells)], grid.rows, grid.cols)
        frames_THWC, fps = _at_wanted_rate(plan, clip, tiled_THWC)
        write_video(staged.stage(outputs.grid), frames_THWC, fps, sound=clip.sound())
    return records, notes


def _at_wanted_rate(plan: EditPlan, clip: Clip, frames_THWC: Tensor) -> tuple[Tensor, Fraction]:
    """Return the frames and their rate: the model's, or resampled to the source's."""
    source_fps = clip.source.fps_avg
    if plan.prepared.job.fps == "model" or not source_fps:
        return frames_THWC, clip.fps
    wanted = Fraction(source_fps).limit_denominator(1001)
    return resample_frames(frames_THWC, clip.fps, wanted), wanted


def _resized_like(frames_THWC: Tensor, like_THWC: Tensor) -> Tensor:
    """Enlarge the given clip to the size of the filled ones, for pictures only."""
    size = tuple(like_THWC.shape[1:3])
    if tuple(frames_THWC.shape[1:3]) == size:
        return frames_THWC
    video_TCHW = rearrange(frames_THWC, "t h w c -> t c h w").float()
    larger_TCHW = F.interpolate(video_TCHW, size, mode="bicubic", antialias=True)
    return rearrange(larger_TCHW.round().clamp(0, 255).to(torch.uint8), "t c h w -> t h w c")


def _comment(plan: EditPlan) -> str:
    """Return what the file says of itself: that a model made it, and which."""
    return f"made by dcgrid {__version__} with the model {plan.spec.name}"


def _manifest(
    plan: EditPlan,
    clip: Clip,
    model: LoadedModel,
    timings_s: dict[str, float],
    records: list[OutputRecord],
) -> RunManifest:
    """Gather what made the result."""
    sampler = sample_settings(model.backbone.spec, _request(plan, clip))
    return RunManifest(
        versions={
            "dcgrid": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            **{name: metadata.version(name) for name in ("torch", "av", "peft")},
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        job=replace(plan.prepared.job, input=plan.prepared.job.input.resolve()),
        grid=plan.prepared.grid,
        input_sha256=hub.file_sha256(plan.prepared.job.input),
        clip={
            "frames": len(clip.frames_THWC),
            "fps": float(clip.fps),
            "cell_size": list(clip.frames_THWC.shape[1:3]),
            "start_s": clip.start_s,
            "duration_s": clip.duration_s,
        },
        model={
            "name": plan.spec.name,
            "license": plan.spec.license,
            "weights": dict(model.weights),
            "adapter": model.adapter,
            "adapter_sha256": model.adapter_sha256,
        },
        sampler={
            "solver": sampler.solver,
            "num_inference_steps": sampler.schedule.num_inference_steps,
            "time_shift": sampler.schedule.shift,
            "noise_scale": sampler.noise_scale,
            "given": sampler.given,
        },
        machine={
            "device": plan.device,
            "dtype": plan.dtype,
            "threads": torch.get_num_threads(),
        },
        timings_s=timings_s,
        peak_memory_bytes=runtime.peak_memory_bytes(torch.device(plan.device)),
        outputs=tuple(records),
    )
