"""What a result that has a source will be: size, frames, rate. No torch here."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from dcgrid.io.progress import Progress
from dcgrid.pipelines.job import GridJob

if TYPE_CHECKING:
    from dcgrid.video.clip import ClipPlan, Picture

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
        f"Result: {result['width']}x{result['height']}, {about}{result['frames']} frames, "
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
