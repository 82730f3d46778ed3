"""Read a clip from any video file: probe it, plan what to keep, then decode just that.

`read_clip` is the whole way; decode.py has the packet loop, color.py the way of one frame, and
frames.py what reads long clips a stretch at a time.
"""

import dataclasses
import itertools
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

__all__ = ["decode_all", "measure_plan", "plan_clip", "probe", "read_clip"]

ALPHA_NOTE = "Transparent pixels are put over black."
# Sums of frame times carry rounding errors far below this.
_EPSILON_S = 1e-6
# A clip that stands still for longer, and for most of its length, is used only when asked for.
_LONG_PAUSE_S = 60


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
        duration_s: Seconds to use; None: the model's default, at most what there is, or where the
            rules keep all everything. Where the rules allow windows (`longest`), infinity means up
            to the end of the source.

    Returns:
        The plan. Where the file lies about its length, `read_clip` and `measure_plan` return a
        truer one.

    Raises:
        UsageError: A negative start, or a duration that is not positive (or not finite, where the
            rules allow no windows).
        InputVideoError: The start is past the end.
    """
    start = _checked_start(start_s)
    if rules.keeps_all:
        return _plan_all(info, rules, start, duration_s)
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
    if rules.keeps_all:
        frames = decode_frames(info.path, start_s=plan.start_s, tally=tally)
        end_s = math.inf if plan.to_end else plan.start_s + plan.duration_s
        found = sum(1 for _ in itertools.takewhile(lambda timed: timed.time_s < end_s, frames))
        return _plan_all_found(plan, rules, duration_s, found, tally)
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
    render = Renderer(info, cell_render(plan))
    kept: list[torch.Tensor] = []
    for timed in picked:
        kept.append(render(timed))
        if on_frame is not None and len(kept) <= plan.num_frames:
            on_frame(len(kept), plan.num_frames)
    finish = _plan_all_found if rules.keeps_all else _plan_found
    plan = finish(plan, rules, duration_s, len(kept), tally)
    plan = dataclasses.replace(plan, notes=_notes(tally, render))
    clip = Clip(
        frames_THWC=_fit_count(kept, plan.num_frames),
        fps=Fraction(rules.fps).limit_denominator(100_000),
        source=info,
        start_s=plan.start_s,
        duration_s=plan.duration_s,
    )
    return clip, plan


def sample_frames(
    frames: Iterable[TimedFrame],
    *,
    start_s: float,
    fps: float,
    count: int,
    first: int = 0,
    hold: bool = False,
) -> Iterator[TimedFrame]:
    """Pick the frame to show at each of `count` moments, 1 / fps apart.

    It is the nearest in time, but never shown more than half a step early, so that a slide show
    keeps its cuts. The last frame counts until its end; after that the picking stops, or with
    `hold` goes on with it.

        source   |0      |1      |2      |3
        moments  ^    ^    ^    ^    ^    ^
        picked   0    1    1    2    2    3

    Args:
        frames: In order of time; from a little before the first moment on.
        start_s: Moment 0.
        fps: Moments per second.
        count: Where to end: the moments before this number are taken.
        first: Number of the first moment to take.
        hold: True: `count` moments are taken, however early the frames end.

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
    while made < count and (hold or start_s + (made + 0.5) / fps <= shown.end_s + _EPSILON_S):
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


Render = Callable[[VideoFrame, color.Turn], torch.Tensor]
"""Makes a picture of an opaque frame: RGB, uint8, shape (H, W, 3)."""


def cell_render(plan: ClipPlan) -> Render:
    """Return what renders a plan's frames at the size of a cell, cropped or padded."""

    def crop(frame: VideoFrame, turn: color.Turn) -> torch.Tensor:
        return color.render_frame(frame, plan.info.sar, turn, plan.cell_size)

    def pad(frame: VideoFrame, turn: color.Turn) -> torch.Tensor:
        picture_HWC = color.render_whole(frame, turn, plan.scaled_size)
        return color.mirror_pad(picture_HWC, plan.cell_size)

    return pad if plan.keeps_all else crop


class Renderer:
    """Renders frames; a repeated frame is rendered once."""

    def __init__(self, info: SourceInfo, render: Render) -> None:
        self.info = info
        self.is_see_through = False
        self._render = render
        self._last: TimedFrame | None = None
        self._rendered = torch.empty(0)
        self._turns: dict[int, color.Turn] = {}

    def __call__(self, timed: TimedFrame) -> torch.Tensor:
        """Return the frame as RGB, uint8, shape (H, W, 3)."""
        if timed is not self._last:
            turn = self._turn(timed.frame)
            with reading(self.info.path):
                opaque, is_see_through = color.flatten(timed.frame)
                self._rendered = self._render(opaque, turn)
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
    count = plan.num_frames
    if not rules.keeps_all:
        count = rules.frames_within(_asked_frames(rules, duration_s))
    source = decode_frames(plan.info.path, start_s=plan.start_s, tally=tally)
    return sample_frames(
        source, start_s=plan.start_s, fps=rules.fps, count=count, hold=rules.keeps_all
    )


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


def _plan_all(
    info: SourceInfo, rules: ClipRules, start_s: float, duration_s: float | None
) -> ClipPlan:
    """Plan a clip of which nothing is lost."""
    if duration_s is not None and not 0 < duration_s < math.inf:
        raise _bad_duration(duration_s, rules)
    if info.duration_s is not None and start_s >= info.duration_s:
        raise _start_past_end(info.path, start_s, info.duration_s)
    if duration_s is None:
        _refuse_pause(info, start_s)
    if info.rate is not None:  # a cut between two frames would leave a shorter one
        start_s = math.floor(start_s * info.rate + _EPSILON_S) / float(info.rate)
    return _plan_left(info, rules, start_s, duration_s, _left_s(info, start_s))


def _refuse_pause(info: SourceInfo, start_s: float) -> None:
    """Ask before most of a clip is made of one picture that the stamps hold for minutes.

    Raises:
        InputVideoError: The file has such a pause after the start.
    """
    at_s, length_s = info.pause or (0.0, 0.0)
    end_s, whole_s = at_s + length_s, info.duration_s or math.inf
    if length_s < _LONG_PAUSE_S or length_s < whole_s / 2 or end_s <= start_s:
        return
    choices = [f"--duration {whole_s - start_s:.2f} takes it all"]
    if end_s < whole_s:
        choices.insert(0, f"--start {end_s:.2f} takes what comes after")
    if at_s > start_s:
        choices.insert(0, f"--duration {at_s - start_s:.2f} takes what comes before")
    raise InputVideoError(
        f"{info.path}: from {at_s:.2f} s on no new picture and no sound comes for {length_s:.2f} s "
        f"of {whole_s:.2f} s; the time stamps may be wrong.",
        hint=f"Say what you want: {', '.join(choices)}.",
    )


def _plan_left(
    info: SourceInfo, rules: ClipRules, start_s: float, duration_s: float | None, left_s: float
) -> ClipPlan:
    """Build the plan of which nothing is lost, for a source with so many seconds left."""
    target_s = _target_s(left_s, duration_s)
    count = rules.frames_covering(_frames_over(target_s, rules.fps))
    shown = (info.height, info.width)
    cell = color.best_cell_size(shown, rules.cell_sizes)
    to_end = duration_s is None or duration_s >= left_s
    return ClipPlan(
        info=info,
        fps=rules.fps,
        num_frames=count,
        held_frames=max(0, count - _frames_over(left_s, rules.fps)),
        start_s=start_s,
        duration_s=min(target_s, count / rules.fps),
        dropped_s=None if left_s == math.inf else max(0.0, left_s - target_s),
        cell_size=cell,
        scaled_size=color.contained_size(shown, cell),
        keeps_all=True,
        to_end=to_end,
        is_guess=to_end and left_s == math.inf,
    )


def _plan_all_found(
    plan: ClipPlan, rules: ClipRules, duration_s: float | None, found: int, tally: DecodeTally
) -> ClipPlan:
    """Return the true plan of which nothing is lost, after decoding.

    Raises:
        InputVideoError: No frame was found: the start is past the end.
    """
    if not found or (tally.reached_end and tally.end_s <= plan.start_s):
        raise _start_past_end(plan.info.path, plan.start_s, tally.end_s)
    if not tally.reached_end:
        return plan
    return _plan_left(plan.info, rules, plan.start_s, duration_s, tally.end_s - plan.start_s)


def _frames_over(seconds: float, fps: float) -> int:
    """Return how many frames cover a time; a cap stands for "unknown, plenty"."""
    return max(1, math.ceil(min(seconds, 1e9) * fps - _EPSILON_S))


def _bad_duration(duration_s: float, rules: ClipRules) -> UsageError:
    return UsageError(
        f"--duration {duration_s}: a duration is more than 0 seconds.",
        hint=f"Try --duration {rules.max_frames / rules.fps:.2f}.",
    )


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
        raise _bad_duration(duration_s, rules)
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


def _notes(tally: DecodeTally, render: Renderer) -> tuple[str, ...]:
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
