"""The frames of the inputs: a short clip in memory, a long one read window by window.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch

from dcgrid.pipelines.plan import RunPlan, clip_rules, windows_of
from dcgrid.pipelines.progress import Progress
from dcgrid.pipelines.windows import Window
from dcgrid.video.clip import Clip, ClipPlan, ClipRules, SoundSource
from dcgrid.video.read import measure_plan, read_clip, read_window


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
        """Yield all frames in order, those of a window at a time."""
        for window in windows:
            yield self.frames(window)[window.fresh]

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
        return _measured(plan, progress)
    read = [_read(plan, index, progress) for index in range(len(inputs))]
    frames = min(len(clip.frames_THWC) for clip, _ in read)
    footage = tuple(
        Footage(path=path, plan=_shortened(done, frames), whole_THWC=clip.frames_THWC[:frames])
        for path, (clip, done) in zip(inputs, read, strict=True)
    )
    return _with_clips(plan, tuple(one.plan for one in footage)), footage


def clip_fps(plan: RunPlan) -> Fraction:
    """Return the model's frame rate as a fraction."""
    return Fraction(plan.spec.fps).limit_denominator(100_000)


def _measured(plan: RunPlan, progress: Progress) -> tuple[RunPlan, tuple[Footage, ...]]:
    """Find out how long clips truly are, where the files only declare it; keep no frame."""
    job, measured = plan.prepared.job, []
    for index, clip in enumerate(plan.clips):
        if clip.info.num_frames is None or clip.is_guess:
            progress.start("measuring the clip")
            start_s, asked_s = job.starts_s[index], plan.asked_s[index]
            clip = measure_plan(clip.info, _rules(plan, clip), start_s, asked_s)
        measured.append(clip)
    frames = min(clip.num_frames for clip in measured)
    clips = tuple(_shortened(clip, frames) for clip in measured)
    if frames < plan.clips[0].num_frames:
        progress.note(f"The video is shorter than it says: {frames} frames are used.")
    footage = tuple(
        Footage(path=path, plan=clip, whole_THWC=None)
        for path, clip in zip(job.inputs, clips, strict=True)
    )
    return _with_clips(plan, clips), footage


def _with_clips(plan: RunPlan, clips: tuple[ClipPlan, ...]) -> RunPlan:
    """Return the plan for what the clips turned out to be."""
    windows = windows_of(plan.spec, clips[0].num_frames)
    return replace(plan, clips=clips, windows=windows)


def _rules(plan: RunPlan, clip: ClipPlan) -> ClipRules:
    """Return the model's rules for a clip whose size is settled."""
    return replace(clip_rules(plan.spec), cell_sizes=(clip.cell_size,))


def _read(plan: RunPlan, index: int, progress: Progress) -> tuple[Clip, ClipPlan]:
    planned, start_s = plan.clips[index], plan.prepared.job.starts_s[index]
    rules = _rules(plan, planned)
    return read_planned(planned, rules, (start_s, plan.asked_s[index]), progress)


def read_planned(
    planned: ClipPlan,
    rules: ClipRules,
    asked_s: tuple[float | None, float | None],
    progress: Progress,
) -> tuple[Clip, ClipPlan]:
    """Read a clip that was planned, and tell what only decoding showed.

    Args:
        planned: From `plan_clip`, with the same rules and seconds.
        rules: What the model asks.
        asked_s: Start and duration that were asked for.
        progress: Told of frames, and of what differs from the plan.

    Raises:
        InputVideoError: The video cannot be decoded.
    """
    progress.start("reading the clip", planned.num_frames)
    clip, done = read_clip(
        planned.info.path,
        rules,
        start_s=asked_s[0],
        duration_s=asked_s[1],
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
