"""Read a clip from any video file: probe it, plan what to keep, then decode just that.

`read_clip` is the whole way; decode.py has the packet loop and color.py the way of one frame.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import torch
from av.video.frame import VideoFrame

from dcgrid.errors import InputVideoError, UsageError
from dcgrid.video import color
from dcgrid.video.clip import Clip, ClipPlan, ClipRules, SourceInfo
from dcgrid.video.decode import DecodeTally, TimedFrame, decode_frames
from dcgrid.video.probe import probe
from dcgrid.video.source import reading

__all__ = ["decode_all", "measure_plan", "plan_clip", "probe", "read_clip", "read_window"]

ALPHA_NOTE = "Transparent pixels are put over black."
# Sums of frame times carry rounding errors far below this.
_EPSILON_S = 1e-6
# Decoding for a window begins this long before it, so that a frame that leans on its neighbours
# (deinterlaced, or shown before the key frame it was stored after) has them.
_RUN_UP_S = 1.0


def plan_clip(
    info: SourceInfo,
    rules: ClipRules,
    start_s: float | None = None,
    duration_s: float | None = None,
) -> ClipPlan:
    """Plan what of a source is kept and what becomes of it, without decoding.

    Args:
        info: The source, from `probe`.
        rules: What the model asks.
        start_s: Seconds after the first frame; None: 0.
        duration_s: Seconds to use; None: the model's default, at most what there is. Where the
            rules allow windows (`longest`), infinity means up to the end of the source.

    Returns:
        The plan. Where the file lies about its length, `read_clip` and `measure_plan` return a
        truer one.

    Raises:
        UsageError: A negative start, or a duration that is not positive (or not finite, where the
            rules allow no windows).
        InputVideoError: The start is past the end.
    """
    start = _checked_start(start_s)
    asked_frames = _asked_frames(rules, duration_s)
    if info.duration_s is not None and start >= info.duration_s:
        raise _start_past_end(info.path, start, info.duration_s)
    left_s = _left_s(info, start)
    found = min(asked_frames, _frames_in(left_s, rules.fps))
    plan = _plan_for(info, rules, start, found, _target_s(left_s, duration_s))
    return dataclasses.replace(plan, is_guess=left_s == math.inf and duration_s == math.inf)


def measure_plan(
    info: SourceInfo,
    rules: ClipRules,
    start_s: float | None = None,
    duration_s: float | None = None,
) -> ClipPlan:
    """Plan like `plan_clip`, but decode the part to see how long it truly is.

    It takes the time of decoding and the memory of one frame. A plan to read windows by should come
    from here where the file may lie: when `info.num_frames` is None, its length is only declared.

    Args:
        info: The source, from `probe`.
        rules: What the model asks.
        start_s: Seconds after the first frame; None: 0.
        duration_s: Seconds to use, as in `plan_clip`.

    Returns:
        The plan that `read_clip` would return, without the notes about the frames.

    Raises:
        UsageError: A negative start, or a duration that is not positive.
        InputVideoError: The source cannot be read, or the start is past the end.
    """
    plan = plan_clip(info, rules, start_s, duration_s)
    tally = DecodeTally()
    found = sum(1 for _ in _wanted_frames(plan, rules, duration_s, tally))
    return _plan_found(plan, rules, duration_s, found, tally)


def read_clip(
    path: Path | str,
    rules: ClipRules,
    *,
    start_s: float | None = None,
    duration_s: float | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> tuple[Clip, ClipPlan]:
    """Read a clip that obeys a model's rules.

    Frames are scaled as they arrive, and decoding stops after the last one needed, so neither an
    8K nor an hour-long source is ever held whole.

    Args:
        path: The video file.
        rules: What the model asks.
        start_s: Seconds after the first frame; None: 0.
        duration_s: Seconds to use, as in `plan_clip`.
        on_frame: Called after each kept frame with (frames so far, frames expected).

    Returns:
        The clip and what was done to make it.

    Raises:
        UsageError: A negative start, or a duration that is not positive.
        InputVideoError: Not a readable video, no frames, or the start is past the end.
    """
    info = probe(Path(path))
    plan = plan_clip(info, rules, start_s, duration_s)
    tally = DecodeTally()
    picked = _wanted_frames(plan, rules, duration_s, tally)
    render = _Renderer(info, plan.cell_size)
    kept: list[torch.Tensor] = []
    for timed in picked:
        kept.append(render(timed))
        if on_frame is not None and len(kept) <= plan.num_frames:
            on_frame(len(kept), plan.num_frames)
    plan = _plan_found(plan, rules, duration_s, len(kept), tally)
    plan = dataclasses.replace(plan, notes=_notes(tally, render))
    clip = Clip(
        frames_THWC=_fit_count(kept, plan.num_frames),
        fps=Fraction(rules.fps).limit_denominator(100_000),
        source=info,
        start_s=plan.start_s,
        duration_s=plan.duration_s,
    )
    return clip, plan


def read_window(path: Path | str, plan: ClipPlan, first: int, count: int) -> torch.Tensor:
    """Read a few frames of a planned clip, decoding from shortly before them.

    Args:
        path: The video file that the plan is for.
        plan: From `plan_clip`, `measure_plan` or `read_clip`.
        first: Number of the first frame wanted; the clip's first is 0.
        count: Frames wanted; >= 1.

    Returns:
        RGB, uint8, shape (count, H, W, 3): frames `first` to `first + count` of what `read_clip`
        gives, held ones included. (After damage in the file the pixels may differ: what a decoder
        makes of it depends on where it began.)

    Raises:
        InputVideoError: The file cannot be read, or it ends before the window does.
        ValueError: A window that does not lie in the clip.
    """
    if first < 0 or count < 1 or first + count > plan.num_frames:
        raise ValueError(f"frames {first} to {first + count} of a clip of {plan.num_frames}")
    # Held frames are copies of the last real one.
    last = plan.num_frames - plan.held_frames - 1
    begin, end = min(first, last), min(first + count - 1, last) + 1
    tally = DecodeTally()
    run_up_s = plan.start_s + begin / plan.fps - _RUN_UP_S
    source = decode_frames(Path(path), start_s=max(plan.start_s, run_up_s), tally=tally)
    picked = sample_frames(source, start_s=plan.start_s, fps=plan.fps, first=begin, count=end)
    render = _Renderer(plan.info, plan.cell_size)
    kept = [render(timed) for timed in picked]
    if len(kept) < end - begin:
        left_s = max(tally.end_s - plan.start_s, 0.0)
        raise InputVideoError(
            f"{path}: the video ends early, at {tally.end_s:.2f} s; {plan.num_frames} frames at "
            f"{plan.fps:.4g} fps from {plan.start_s:.2f} s on were planned.",
            hint=f"Ask for less: try --duration {left_s:.2f}.",
        )
    return _fit_count(kept, count)


def sample_frames(
    frames: Iterable[TimedFrame], *, start_s: float, fps: float, count: int, first: int = 0
) -> Iterator[TimedFrame]:
    """Pick the frame to show at each of `count` moments, 1 / fps apart.

    It is the nearest in time, but never shown more than half a step early, so that a slide show
    keeps its cuts. The last frame counts until its end; after that the picking stops.

        source   |0      |1      |2      |3
        moments  ^    ^    ^    ^    ^    ^
        picked   0    1    1    2    2    3

    Args:
        frames: In order of time; from a little before the first moment on.
        start_s: Moment 0.
        fps: Moments per second.
        count: Where to end: the moments before this number are taken.
        first: Number of the first moment to take.

    Yields:
        At most `count - first` frames; the same object again where a frame is repeated.
    """
    shown: TimedFrame | None = None
    made = first
    for upcoming in frames:
        while made < count and (moment := start_s + made / fps) < upcoming.time_s:
            yield _nearest(shown, upcoming, moment, fps)
            made += 1
        if made == count:
            return
        shown = upcoming
    if shown is None:
        return
    if made == 0 and count and start_s < shown.end_s:  # however short, it is one frame
        yield shown
        made = 1
    while made < count and start_s + (made + 0.5) / fps <= shown.end_s + _EPSILON_S:
        yield shown
        made += 1


def _nearest(
    shown: TimedFrame | None, upcoming: TimedFrame, moment: float, fps: float
) -> TimedFrame:
    """Choose between the frame on display at `moment` and the next one."""
    if shown is None:
        return upcoming
    early = upcoming.time_s - moment
    is_nearer = early < moment - shown.time_s and early < 0.5 / fps
    return upcoming if is_nearer else shown


class _Renderer:
    """Renders frames to cells; a repeated frame is rendered once."""

    def __init__(self, info: SourceInfo, cell: tuple[int, int]) -> None:
        self.info = info
        self.cell = cell
        self.is_see_through = False
        self._last: TimedFrame | None = None
        self._rendered = torch.empty(0)
        self._turns: dict[int, color.Turn] = {}

    def __call__(self, timed: TimedFrame) -> torch.Tensor:
        """Return the frame as RGB, uint8, shape (H, W, 3)."""
        if timed is not self._last:
            turn = self._turn(timed.frame)
            with reading(self.info.path):
                opaque, is_see_through = color.flatten(timed.frame)
                self._rendered = color.render_frame(opaque, self.info.sar, turn, self.cell)
            self.is_see_through |= is_see_through
            self._last = timed
        return self._rendered

    def _turn(self, frame: VideoFrame) -> color.Turn:
        """Return how to turn a frame; the matrix is read once for each rotation that is met.

        PyAV ties a frame whose side data was looked at into a cycle, so looking at each would
        keep 8K frames in memory until the collector runs.
        """
        if frame.rotation not in self._turns:
            self._turns[frame.rotation] = color.frame_turn(frame)
        return self._turns[frame.rotation]


def _wanted_frames(
    plan: ClipPlan, rules: ClipRules, duration_s: float | None, tally: DecodeTally
) -> Iterator[TimedFrame]:
    """Decode the frames that were asked for, even beyond what the source claims to have."""
    wanted = rules.frames_within(_asked_frames(rules, duration_s))
    source = decode_frames(plan.info.path, start_s=plan.start_s, tally=tally)
    return sample_frames(source, start_s=plan.start_s, fps=rules.fps, count=wanted)


def _plan_found(
    plan: ClipPlan, rules: ClipRules, duration_s: float | None, found: int, tally: DecodeTally
) -> ClipPlan:
    """Return the true plan after decoding gave `found` frames.

    Raises:
        InputVideoError: None was found: the start is past the end.
    """
    if not found:
        raise _start_past_end(plan.info.path, plan.start_s, tally.end_s)
    left_s = tally.end_s - plan.start_s if tally.reached_end else _left_s(plan.info, plan.start_s)
    return _plan_for(plan.info, rules, plan.start_s, found, _target_s(left_s, duration_s))


def _checked_start(start_s: float | None) -> float:
    start = 0.0 if start_s is None else start_s
    if not 0 <= start < math.inf:
        raise UsageError(f"--start {start_s}: a start is 0 or more seconds.", hint="Try --start 0.")
    return start


def _asked_frames(rules: ClipRules, duration_s: float | None) -> int:
    """Return how many frames to look for before the rule stride * n + 1."""
    if duration_s is None:
        return min(rules.default_frames or rules.max_frames, rules.max_frames)
    is_whole = duration_s == math.inf and rules.longest is not None
    if not (0 < duration_s < math.inf or is_whole):
        raise UsageError(
            f"--duration {duration_s}: a duration is more than 0 seconds.",
            hint=f"Try --duration {rules.max_frames / rules.fps:.2f}.",
        )
    return max(1, min(_frames_in(duration_s, rules.fps), rules.most_frames))


def _frames_in(seconds: float, fps: float) -> int:
    """Return how many frames fit, to the nearest; a cap stands for "unknown, plenty"."""
    return max(1, math.floor(min(seconds, 1e9) * fps + 0.5 + _EPSILON_S))


def _left_s(info: SourceInfo, start_s: float) -> float:
    return math.inf if info.duration_s is None else info.duration_s - start_s


def _target_s(left_s: float, duration_s: float | None) -> float:
    """Return the seconds that the user means: what was asked, or all that is left."""
    return left_s if duration_s is None else min(left_s, duration_s)


def _start_past_end(path: Path, start_s: float, end_s: float) -> InputVideoError:
    return InputVideoError(
        f"{path}: the start ({start_s:.2f} s) is past the end of the video ({end_s:.2f} s).",
        hint="Choose an earlier --start.",
    )


def _plan_for(
    info: SourceInfo, rules: ClipRules, start_s: float, found: int, target_s: float
) -> ClipPlan:
    """Build the plan for a source that gives `found` frames at the rules' rate."""
    kept = rules.frames_within(found)
    if found < rules.least_frames:
        kept = found
    used_s = min(kept / rules.fps, target_s)
    shown = (info.height, info.width)
    cell = color.best_cell_size(shown, rules.cell_sizes)
    return ClipPlan(
        info=info,
        fps=rules.fps,
        num_frames=max(kept, rules.least_frames),
        held_frames=max(0, rules.least_frames - kept),
        start_s=start_s,
        duration_s=used_s,
        dropped_s=None if target_s == math.inf else max(0.0, target_s - used_s),
        cell_size=cell,
        scaled_size=color.cover_size(shown, cell),
    )


def _notes(tally: DecodeTally, render: _Renderer) -> tuple[str, ...]:
    """Say what the decoding met."""
    notes = []
    if render.is_see_through:
        notes.append(ALPHA_NOTE)
    if tally.damaged:
        notes.append(f"Damaged: {tally.damaged} packets of the video could not be decoded.")
    return tuple(notes)


def _fit_count(kept: list[torch.Tensor], count: int) -> torch.Tensor:
    """Stack exactly `count` frames to THWC, holding the last one where they do not suffice."""
    held = [kept[-1]] * (count - len(kept))
    return torch.stack(kept[:count] + held)


def decode_all(path: Path | str) -> Iterator[tuple[float, torch.Tensor]]:
    """Decode every frame at its stored size, turned but neither scaled nor resampled.

    For tests and measurements against other decoders; memory stays at one frame.

    Args:
        path: The video file.

    Yields:
        Time in seconds after the first frame, and RGB, uint8, shape (H, W, 3).

    Raises:
        InputVideoError: The file cannot be read or has no frame.
    """
    for timed in decode_frames(Path(path)):
        with reading(Path(path)):
            opaque, _ = color.flatten(timed.frame)
            rgb_HWC = torch.from_numpy(color.to_rgb(opaque).to_ndarray())
        yield timed.time_s, color.frame_turn(timed.frame).apply(rgb_HWC)
