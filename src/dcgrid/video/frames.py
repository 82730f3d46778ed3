"""A planned clip, piece by piece: stretches at the size of a cell, and the source's own frames.

    source frames   |0   |1   |2   |3   |4   |5   |6   |7      each with its own time
    cell frames     |0       |1       |2       |3              at the model's rate

Both go through a file once, forwards; nothing is held but what is asked for.
"""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch

from dcgrid.errors import InputVideoError
from dcgrid.io.progress import counted
from dcgrid.video import color
from dcgrid.video.clip import ClipPlan, Picture, SourceInfo
from dcgrid.video.decode import DecodeTally, TimedFrame, decode_frames
from dcgrid.video.read import Renderer, cell_render, sample_frames

# Decoding for a stretch begins this long before it, so that a frame that leans on its neighbours
# (deinterlaced, or shown before the key frame it was stored after) has them.
_RUN_UP_S = 1.0
_COARSE = Fraction(1, 1000)
_USUAL_TICK = Fraction(1, 90_000)
_FINEST = 2**31 - 1  # what an MP4 file can say


class CellFrames:
    """Frames of a planned clip as the model gets them, any stretch on demand.

    As long as stretches go forwards, overlapping or not, the file is decoded once; one that goes
    back begins anew from shortly before it.
    """

    def __init__(self, path: Path, plan: ClipPlan) -> None:
        self._path, self._plan = path, plan
        self._tally: DecodeTally | None = None
        self._source: Iterator[torch.Tensor] | None = None
        self._kept: list[torch.Tensor] = []
        self._end = 0  # number of the frame after those kept

    def stretch(self, first: int, count: int) -> torch.Tensor:
        """Return a few frames.

        Args:
            first: Number of the first; the clip's first is 0.
            count: How many; >= 1.

        Returns:
            RGB, uint8, shape (count, H, W, 3), held ones included. (After damage in the file the
            pixels may depend on where decoding began.)

        Raises:
            InputVideoError: The file cannot be read, or it ends before the stretch does.
            ValueError: A stretch that does not lie in the clip.
        """
        plan = self._plan
        if first < 0 or count < 1 or first + count > plan.num_frames:
            raise ValueError(f"frames {first} to {first + count} of a clip of {plan.num_frames}")
        source = self._source
        if source is None or not self._end - len(self._kept) <= first <= self._end:
            source = self._source = self._decoded(first)
            self._kept, self._end = [], first
        while self._end < first + count:
            frame_HWC = next(source, None)
            if frame_HWC is None:
                raise self._ends_early()
            self._kept.append(frame_HWC)
            self._end += 1
        self._kept = self._kept[len(self._kept) - (self._end - first) :]
        return torch.stack(self._kept[:count])

    def _decoded(self, first: int) -> Iterator[torch.Tensor]:
        """Yield the frames from one on to the end of the clip; held ones are repeated."""
        plan = self._plan
        tally = self._tally = DecodeTally()
        begin = min(first, plan.num_frames - plan.held_frames - 1)
        run_up_s = plan.start_s + begin / plan.fps - _RUN_UP_S
        picked = sample_frames(
            decode_frames(self._path, start_s=max(plan.start_s, run_up_s), tally=tally),
            start_s=plan.start_s,
            fps=plan.fps,
            first=begin,
            count=plan.num_frames,
            hold=plan.keeps_all,
        )
        yield from itertools.islice(self._rendered(picked), first - begin, None)

    def _rendered(self, picked: Iterator[TimedFrame]) -> Iterator[torch.Tensor]:
        """Yield frames as the model gets them, the last one again where it is held."""
        plan = self._plan
        render = Renderer(plan.info, cell_render(plan))
        shown_HWC = None
        for timed in picked:
            shown_HWC = render(timed)
            yield shown_HWC
        if not plan.keeps_all and shown_HWC is not None:
            for _ in range(plan.held_frames):
                yield shown_HWC

    def _ends_early(self) -> InputVideoError:
        plan, end_s = self._plan, self._tally.end_s if self._tally else 0.0
        return InputVideoError(
            f"{self._path}: the video ends early, at {end_s:.2f} s; "
            f"{counted(plan.num_frames, 'frame')} at {plan.fps:.4g} fps "
            f"from {plan.start_s:.2f} s on were planned.",
            hint=f"Ask for less: try --duration {max(end_s - plan.start_s, 0.0):.2f}.",
        )


def source_frames(
    path: Path, plan: ClipPlan, tally: DecodeTally | None = None
) -> Iterator[Picture]:
    """Yield the used frames of a source at its own size, each with its own time.

    Frames whose stamps lie on the grid of a constant rate, up to rounding to the container's
    clock, get exact ones.

    Args:
        path: The video file that the plan is for.
        plan: Says which part is used; the frame on display at its start is the first.
        tally: Filled in along the way.

    Raises:
        InputVideoError: The file cannot be read.
    """
    info, start_s = plan.info, plan.start_s
    tick = _own_tick(info)
    render = Renderer(
        info, lambda frame, turn: color.render_whole(frame, turn, (info.height, info.width))
    )
    stamps = _Stamps(info)
    end_s = None if plan.to_end else start_s + plan.duration_s - float(tick) / 2
    shown: TimedFrame | None = None
    begin = time = Fraction(0)
    for upcoming in decode_frames(path, start_s=start_s, tally=tally):
        if end_s is not None and upcoming.time_s >= end_s:
            break
        stamp = stamps.place(upcoming.time_s)
        if shown is None or upcoming.time_s <= start_s + float(tick) / 2:
            # On a grid the plan begins with a frame; elsewhere the first one may be cut short.
            begin = stamp if info.rate else max(stamp, round(start_s / tick) * tick)
        else:
            yield Picture(rgb_HWC=render(shown), time=time, duration=stamp - begin - time)
        shown, time = upcoming, max(stamp - begin, Fraction(0))
    if shown is not None:
        length = stamps.length(shown)
        yield Picture(rgb_HWC=render(shown), time=time, duration=length)


def clock_tick(info: SourceInfo) -> Fraction:
    """Return the time of which all times of `source_frames` are multiples, in seconds."""
    tick = _own_tick(info)
    if info.rate is None:
        return tick
    fine = math.lcm(tick.denominator, info.rate.numerator)
    return Fraction(1, fine) if fine <= _FINEST else _USUAL_TICK


def _own_tick(info: SourceInfo) -> Fraction:
    """Return the container's clock, or a finer one where it is coarse and stamps are missing."""
    base = info.time_base
    return Fraction(1, base.denominator) if 0 < base <= _COARSE else _USUAL_TICK


class _Stamps:
    """Exact times of frames, strictly growing."""

    def __init__(self, info: SourceInfo) -> None:
        self._rate, self._tick = info.rate, _own_tick(info)
        self._previous: Fraction | None = None

    def place(self, time_s: float) -> Fraction:
        """Return the exact time of a frame."""
        stamp = round(time_s / self._tick) * self._tick
        if self._rate is not None:
            near = round(stamp * self._rate) / self._rate
            is_new = self._previous is None or near > self._previous
            stamp = near if is_new and abs(near - stamp) <= self._tick else stamp
        if self._previous is not None and stamp <= self._previous:
            stamp = self._previous + self._tick
        self._previous = stamp
        return stamp

    def length(self, last: TimedFrame) -> Fraction:
        """Return how long the last frame is on display."""
        shown = round((last.end_s - last.time_s) / self._tick) * self._tick
        if self._rate is not None and abs(shown - 1 / self._rate) <= 2 * self._tick:
            return 1 / self._rate
        return max(shown, self._tick)
