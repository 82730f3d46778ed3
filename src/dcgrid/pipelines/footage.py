"""The frames of the inputs: a short clip in memory, a long one read window by window.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch

from dcgrid.pipelines.plan import RunPlan, clip_rules
from dcgrid.pipelines.progress import Progress
from dcgrid.pipelines.windows import Window, plan_windows
from dcgrid.video.clip import Clip, ClipPlan, SoundSource
from dcgrid.video.read import read_clip, read_window


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """What a run uses of one input."""

    path: Path
    """The input."""
    plan: ClipPlan
    """What of it is used."""
    whole_THWC: torch.Tensor | None
    """All its frames, uint8; None: they are read when they are needed."""

    def frames(self, window: Window) -> torch.Tensor:
        """Return the frames of a window, THWC, uint8.

        Raises:
            InputVideoError: The video ends or breaks before the window does.
        """
        if self.whole_THWC is not None:
            return self.whole_THWC[window.first : window.first + window.count]
        return read_window(self.path, self.plan, window.first, window.count)

    def pieces(self, windows: Sequence[Window]) -> Iterator[torch.Tensor]:
        """Yield all frames in order, a window's new ones at a time."""
        for window in windows:
            yield self.frames(window)[window.carried :]

    def sound(self) -> SoundSource | None:
        """Return the sound that goes with the frames; None: the source is silent."""
        if not self.plan.info.has_audio:
            return None
        return SoundSource(
            path=self.path,
            start_s=self.plan.start_s,
            duration_s=self.plan.duration_s,
            origin_s=self.plan.info.origin_s,
        )


def read_footage(plan: RunPlan, progress: Progress) -> tuple[RunPlan, tuple[Footage, ...]]:
    """Read the inputs; long ones later, window by window.

    Only decoding shows where a file lied about its length, so the plan may come back shorter.

    Raises:
        InputVideoError: An input cannot be decoded.
    """
    inputs = plan.prepared.job.inputs
    if len(plan.windows) > 1:
        long = [
            Footage(path=path, plan=clip, whole_THWC=None)
            for path, clip in zip(inputs, plan.clips, strict=True)
        ]
        return plan, tuple(long)
    read = [_read(plan, index, progress) for index in range(len(inputs))]
    frames = min(len(clip.frames_THWC) for clip, _ in read)
    footage = tuple(
        Footage(path=path, plan=_shortened(done, frames), whole_THWC=clip.frames_THWC[:frames])
        for path, (clip, done) in zip(inputs, read, strict=True)
    )
    spec = plan.spec
    windows = plan_windows(frames, spec.max_frames, spec.carried_frames, spec.stride_T)
    return replace(plan, clips=tuple(one.plan for one in footage), windows=windows), footage


def clip_fps(plan: RunPlan) -> Fraction:
    """Return the model's frame rate as a fraction."""
    return Fraction(plan.spec.fps).limit_denominator(100_000)


def _read(plan: RunPlan, index: int, progress: Progress) -> tuple[Clip, ClipPlan]:
    job, planned = plan.prepared.job, plan.clips[index]
    progress.start("reading the clip", planned.num_frames)
    clip, done = read_clip(
        job.inputs[index],
        replace(clip_rules(plan.spec), cell_sizes=(planned.cell_size,)),
        start_s=job.starts_s[index],
        duration_s=plan.asked_s[index],
        on_frame=progress.update,
    )
    for line in done.lines():
        if line not in planned.lines():
            progress.note(line)
    return clip, done


def _shortened(plan: ClipPlan, frames: int) -> ClipPlan:
    """Return the plan cut to fewer frames."""
    if frames == plan.num_frames:
        return plan
    held = max(0, plan.held_frames - (plan.num_frames - frames))
    used_s = min(plan.duration_s, frames / plan.fps)
    return replace(plan, num_frames=frames, held_frames=held, duration_s=used_s)
