"""The frames of the inputs: a short clip in memory, a long one read window by window.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch

from dcgrid import hub
from dcgrid.models.base import ModelSpec
from dcgrid.pipelines.plan import RunPlan, clip_rules, windows_of
from dcgrid.pipelines.progress import Progress
from dcgrid.pipelines.windows import Window
from dcgrid.video.clip import ClipPlan, ClipRules, SoundSource
from dcgrid.video.read import measure_plan, read_clip, read_window

Asked = tuple[float | None, float | None]
"""Start and duration that were asked of a clip, in seconds; None: its first frame, the usual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """What a run uses of one input."""

    path: Path
    """The input."""
    plan: ClipPlan
    """What of it is used."""
    whole_THWC: torch.Tensor | None
    """All its frames, uint8; None: they are read when they are needed."""
    sha256: str = ""
    """Hash of the file."""

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
    """Read the inputs of a run; long ones later, window by window.

    Only decoding shows where a file lied about its length, so the plan may come back shorter.

    Raises:
        InputVideoError: An input cannot be decoded.
    """
    asked = tuple(zip(plan.prepared.job.starts_s, plan.asked_s, strict=True))
    known = plan.prepared.inputs_sha256
    footage = read_clips(plan.spec, plan.clips, asked, progress, known)
    clips = tuple(one.plan for one in footage)
    return replace(plan, clips=clips, windows=windows_of(plan.spec, clips[0].num_frames)), footage


def read_clips(
    spec: ModelSpec,
    clips: Sequence[ClipPlan],
    asked_s: Sequence[Asked],
    progress: Progress,
    known_sha256: Sequence[str] = (),
) -> tuple[Footage, ...]:
    """Read clips that were planned: short ones now, those of several windows later.

    Args:
        spec: The model.
        clips: A plan a clip, all of one length.
        asked_s: Start and duration that were asked of each.
        progress: Told of frames, and of what differs from the plans.
        known_sha256: Hashes of the files, if they were needed before.

    Returns:
        The clips, cut to the length of the shortest.

    Raises:
        InputVideoError: A clip cannot be decoded.
    """
    read = _measured if len(windows_of(spec, clips[0].num_frames)) > 1 else _read
    found = [read(spec, clip, asked, progress) for clip, asked in zip(clips, asked_s, strict=True)]
    count = min(one.plan.num_frames for one in found)
    # Where frames were read, their plan has told it.
    if read is _measured and count < clips[0].num_frames:
        progress.note(f"The video is shorter than it says: {count} frames are used.")
    digests = known_sha256 or [hub.file_sha256(one.path) for one in found]
    return tuple(
        replace(_shortened(one, count), sha256=digest)
        for one, digest in zip(found, digests, strict=True)
    )


def clip_fps(plan: RunPlan) -> Fraction:
    """Return the model's frame rate as a fraction."""
    return Fraction(plan.spec.fps).limit_denominator(100_000)


def _measured(spec: ModelSpec, clip: ClipPlan, asked_s: Asked, progress: Progress) -> Footage:
    """Find out how long a clip truly is, where the file only declares it; keep no frame."""
    if clip.info.num_frames is None or clip.is_guess:
        progress.start("measuring the clip")
        clip = measure_plan(clip.info, _rules(spec, clip), *asked_s)
    return Footage(path=clip.info.path, plan=clip, whole_THWC=None)


def _read(spec: ModelSpec, planned: ClipPlan, asked_s: Asked, progress: Progress) -> Footage:
    """Read a short clip, and tell what only decoding showed."""
    path = planned.info.path
    progress.start("reading the clip", planned.num_frames)
    clip, done = read_clip(
        path,
        _rules(spec, planned),
        start_s=asked_s[0],
        duration_s=asked_s[1],
        on_frame=progress.update,
    )
    for line in done.lines():
        if line not in planned.lines():
            progress.note(line)
    return Footage(path=path, plan=done, whole_THWC=clip.frames_THWC)


def _rules(spec: ModelSpec, clip: ClipPlan) -> ClipRules:
    """Return the model's rules for a clip whose size is settled."""
    return replace(clip_rules(spec), cell_sizes=(clip.cell_size,))


def _shortened(footage: Footage, count: int) -> Footage:
    """Return footage cut to fewer frames."""
    plan = footage.plan
    if count == plan.num_frames:
        return footage
    held = max(0, plan.held_frames - (plan.num_frames - count))
    used_s = min(plan.duration_s, count / plan.fps)
    short = replace(plan, num_frames=count, held_frames=held, duration_s=used_s)
    whole_THWC = None if footage.whole_THWC is None else footage.whole_THWC[:count]
    return replace(footage, plan=short, whole_THWC=whole_THWC)
