"""What of the inputs a model takes, and what results become: length, size, rate, windows.

No torch at the top: plans are refused before it is loaded. Inputs are read by footage.py.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dcgrid.errors import UsageError
from dcgrid.io.progress import Progress, counted
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.pipelines.script import StoryJob
from dcgrid.pipelines.windows import Join, Window, plan_windows

if TYPE_CHECKING:
    from dcgrid.grid.layout import LatentGeometry
    from dcgrid.models.base import ModelSpec
    from dcgrid.video.clip import ClipPlan, ClipRules, Picture

REEL_STAGE = "encoding the reel"
"""What progress calls the writing of a story's reel."""


def result_size(job: GridJob, clip: "ClipPlan") -> tuple[int, int]:
    """Return height and width of a result that has a source, before sides are made even."""
    return clip.scaled_size if job.upsample == "none" else (clip.info.height, clip.info.width)


def result_rate(job: GridJob, clip: "ClipPlan") -> float:
    """Return the frames per second of a result that has a source; of varying ones the mean."""
    if job.fps == "model":
        return clip.fps
    return float(clip.info.rate or clip.info.fps_avg or clip.fps)


def result_frames(job: GridJob, clip: "ClipPlan") -> int:
    """Return how many frames a result has that has a source; an estimate where stamps vary."""
    return max(1, round(clip.duration_s * result_rate(job, clip)))


def result_pixels(job: GridJob, clip: "ClipPlan") -> int:
    """Return the pixels of all frames of a result that has a source."""
    height, width = result_size(job, clip)
    return height * width * result_frames(job, clip)


def result_json(job: GridJob, clip: "ClipPlan") -> dict[str, Any]:
    """Return the size, length and rate of a result that has a source, for programs."""
    height, width = (side + side % 2 for side in result_size(job, clip))
    rate = round(result_rate(job, clip), 4)
    return {"width": width, "height": height, "frames": result_frames(job, clip), "fps": rate}


def result_line(job: GridJob, clip: "ClipPlan") -> str:
    """Return what results have of their source, and what of the model, as a sentence."""
    result = result_json(job, clip)
    about = "about " if clip.info.is_vfr or clip.is_guess else ""
    rate = "the model's rate" if job.fps == "model" else "each at its own time in the input"
    how = {
        "guided": "fine detail is the input's where the model shows the same, else enlarged",
        "plain": "enlarged by bicubic interpolation: all detail is the model's",
        "none": "as the model makes it",
    }
    return (
        f"Result: {result['width']}x{result['height']}, {about}"
        f"{counted(result['frames'], 'frame')}, "
        f"{result['fps']:.4g} fps, {rate}; {how[job.upsample]}."
    )


def writing_stage(job: GridJob) -> str:
    """Return what progress calls the last stage of a job; each frame is enlarged, then encoded."""
    return "encoding the result" if job.upsample == "none" else "enlarging and encoding"


class FrameCounter:
    """Reports each frame of all videos of a run as it is written.

    Args:
        progress: Gets their number.
        total: How many there will be, if the sources are as long as they say.
        stage: What is done with them; see `writing_stage`.
    """

    def __init__(self, progress: Progress, total: int, stage: str) -> None:
        self._progress, self._total, self._done = progress, total, 0
        progress.start(stage, total)

    def counted(
        self, pictures: Callable[[], Iterator["Picture"]]
    ) -> Callable[[], Iterator["Picture"]]:
        """Return the same frames of one video; gone through again, they are counted again."""
        before = self._done

        def frames() -> Iterator["Picture"]:
            for number, picture in enumerate(pictures(), start=1):
                yield picture
                self._done = min(before + number, self._total)
                self._progress.update(self._done)

        return frames


LONGEST_FRAMES = 1_000_001
"""Most frames of a whole clip, generated in windows; a day at 12 frames a second."""


def plan_clips(
    job: GridJob, spec: "ModelSpec"
) -> tuple[tuple["ClipPlan", ...], tuple[float | None, ...]]:
    """Plan what of each input is used: size and length are those of the first.

    Nothing of the first is lost. The others are cropped to its cell, and used as long as it lasts.

    Returns:
        A plan an input, and the seconds asked of it; nothing for a story from text alone.

    Raises:
        InputVideoError: An input is not a video, or starts after its end.
        UsageError: A start or the duration is out of range.
    """
    from dcgrid.video.clip import ClipPlan
    from dcgrid.video.read import plan_clip, probe

    rules = clip_rules(spec, job.cell_size)
    if not job.inputs:
        return (), ()
    first = plan_clip(probe(job.inputs[0]), rules, job.starts_s[0], job.duration_s)
    same = replace(rules, cell_sizes=(first.cell_size,), keeps_all=False)
    plans: list[ClipPlan] = [first]
    asked: list[float | None] = [job.duration_s]
    for path, start_s in zip(job.inputs[1:], job.starts_s[1:], strict=True):
        asked.append(first.num_frames / rules.fps)
        plans.append(plan_clip(probe(path), same, start_s, asked[-1]))
    return tuple(plans), tuple(asked)


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


def frames_of_text(rules: "ClipRules", duration_s: float | None) -> int:
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


def one_pass_rules(spec: "ModelSpec") -> "ClipRules":
    """Return the rules of measurements: what one pass of a model takes, cropped to a cell.

    Comparisons are made at the size of a cell, where a padding would be scored with the picture.
    """
    return replace(clip_rules(spec), longest=None, keeps_all=False)


def geometry_of(spec: "ModelSpec") -> "LatentGeometry":
    """Return how a model turns pixels into tokens."""
    from dcgrid.grid.layout import LatentGeometry

    return LatentGeometry(stride_T=spec.stride_T, stride_HW=spec.stride_HW, patch=spec.patch)


def windows_of(spec: "ModelSpec", num_frames: int) -> tuple[Window, ...]:
    """Return the windows in which a model generates a clip of so many frames."""
    join = Join(head=spec.carried_frames, blend=spec.blended_frames)
    return plan_windows(num_frames, spec.max_frames, join, spec.stride_T)


def windows_line(spec: "ModelSpec", windows: Sequence[Window]) -> str:
    """Return how a long clip is generated, as a sentence; there are two windows or more."""
    first, second = windows[:2]
    return (
        f"Windows: {len(windows)} of up to {counted(first.count, 'frame')} "
        f"({first.count / spec.fps:.2f} s), each going on from {counted(second.head, 'frame')} "
        f"of the one before, {second.blend} more blended."
    )


def check_cells(job: GridJob, spec: "ModelSpec", grid: ResolvedGrid, size: tuple[int, int]) -> None:
    """Check that the cells of a grid have room: between each other, and in the position table.

    Raises:
        UsageError: They have not; the hint names the nearest size of the same shape that fits.
    """
    alone = job.generated_by not in ("grid", "inpaint")
    counts = (1, 1) if alone else (grid.rows, grid.cols)
    # The offset grid has a token more in each direction.
    unit, spare = spec.stride_HW * spec.patch[1], 1 if spec.offset_tokens else 0
    most = []
    for count, side, pitch in zip(counts, size, spec.cell_pitch or (None, None), strict=True):
        limits = [side]
        if pitch is not None and count > 1:
            limits.append((pitch - spare) * unit)
        if spec.most_places is not None:
            limits.append(spec.most_places // count * unit)
        most.append(min(limits))
    share = min(limit / side for limit, side in zip(most, size, strict=True))
    if share < 1:
        height, width = (
            min(limit, max(unit, round(side * share / unit) * unit))
            for limit, side in zip(most, size, strict=True)
        )
        sides = zip(("wide", "high"), most[::-1], size[::-1], strict=True)
        longest = " and ".join(f"{limit} {way}" for way, limit, side in sides if limit < side)
        raise UsageError(
            f"--size {size[1]}x{size[0]}: cells of {spec.name} in a grid of "
            f"{counts[0]}x{counts[1]} are at most {longest}",
            hint=f"use --size {width}x{height}",
        )


def check_from_text(job: GridJob, spec: "ModelSpec") -> None:
    """Refuse a story without a clip on a model that makes none from words.

    Raises:
        UsageError: It is one.
    """
    if not job.inputs and not spec.generates_from_text:
        raise UsageError(
            f"the model {spec.name} makes no character from words alone: it would be noise",
            hint="name a clip with --from (or `from` in the story file), or a larger model with "
            "--model",
        )


def check_fade(job: GridJob, frames: int, spec: "ModelSpec") -> None:
    """Check that scenes of so many frames are long enough for the fades at both ends.

    Raises:
        UsageError: They are not.
    """
    seconds = frames / spec.fps
    if isinstance(job, StoryJob) and job.fade_s * 2 > seconds:
        raise UsageError(
            f"a fade of {job.fade_s} s is longer than half of a scene ({seconds:.2f} s)",
            hint=f"use --fade {seconds / 4:.2f}",
        )
