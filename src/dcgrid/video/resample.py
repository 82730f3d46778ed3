"""Another frame rate by repeating or dropping whole frames, on a whole clip or piece by piece.

Letters: T frames; the rest of a frame may have any shape.
"""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import torch


def resample_frames(
    frames_THWC: torch.Tensor,
    fps_in: Fraction | float,
    fps_out: Fraction | float,
    duration_s: float | None = None,
) -> torch.Tensor:
    """Change the frame rate by repeating or dropping whole frames; the duration stays.

    Args:
        frames_THWC: Any type, shape (T, ...), T >= 1.
        fps_in: Frames per second now; > 0.
        fps_out: Frames per second wanted; > 0.
        duration_s: Seconds to cover; None: T / fps_in. Beyond the end the last frame is held.

    Returns:
        Frames at `fps_out`; at least one.

    Raises:
        ValueError: No frame, or a rate that is not positive.
    """
    picks = list(_picks(len(frames_THWC), fps_in, fps_out, duration_s))
    return frames_THWC[torch.tensor(picks)]


def resample_pieces(
    pieces: Iterable[torch.Tensor],
    num_frames: int,
    fps_in: Fraction | float,
    fps_out: Fraction | float,
) -> Iterator[torch.Tensor]:
    """Change the frame rate as `resample_frames` does, holding one piece at a time.

    Args:
        pieces: Any type, shape (t, ...), t >= 1 each; together `num_frames` frames.
        num_frames: Frames of all pieces; >= 1.
        fps_in: Frames per second now; > 0.
        fps_out: Frames per second wanted; > 0.

    Returns:
        Pieces of at least one frame, together `resampled_count` frames.

    Raises:
        ValueError: No frame, a rate that is not positive, or (while the pieces are taken) other
            than `num_frames` frames.
    """
    # Not a generator itself, so that a wrong rate is an error here and not at the first piece.
    return _resampled(pieces, num_frames, _picks(num_frames, fps_in, fps_out))


def resampled_count(
    num_frames: int,
    fps_in: Fraction | float,
    fps_out: Fraction | float,
    duration_s: float | None = None,
) -> int:
    """Return how many frames resampling gives.

    Args:
        num_frames: Frames now; >= 1.
        fps_in: Frames per second now; > 0.
        fps_out: Frames per second wanted; > 0.
        duration_s: Seconds to cover; None: num_frames / fps_in.

    Returns:
        Frames at `fps_out`; at least one.

    Raises:
        ValueError: No frame, or a rate that is not positive.
    """
    rate_in, rate_out = Fraction(fps_in), Fraction(fps_out)
    if rate_in <= 0 or rate_out <= 0 or num_frames < 1:
        raise ValueError(f"cannot resample {num_frames} frames from {fps_in} to {fps_out}")
    seconds = num_frames / rate_in if duration_s is None else Fraction(duration_s)
    return max(1, math.floor(seconds * rate_out + Fraction(1, 2)))


def _picks(
    num_frames: int,
    fps_in: Fraction | float,
    fps_out: Fraction | float,
    duration_s: float | None = None,
) -> Iterator[int]:
    """Return which frame to show at each new moment; never falling, checked at once.

    It is the frame on display in the middle of each new frame: no drift, no frame early.
    """
    count = resampled_count(num_frames, fps_in, fps_out, duration_s)
    step, last = Fraction(fps_in) / Fraction(fps_out), num_frames - 1
    return (min(last, math.floor((i + Fraction(1, 2)) * step)) for i in range(count))


def _resampled(
    pieces: Iterable[torch.Tensor], num_frames: int, picks: Iterator[int]
) -> Iterator[torch.Tensor]:
    """Yield the picked frames of each piece; pieces of which none is picked are left out."""
    begin = 0
    pick = next(picks, None)
    for piece_THWC in pieces:
        end = begin + len(piece_THWC)
        inside = []
        while pick is not None and pick < end:
            inside.append(pick - begin)
            pick = next(picks, None)
        if inside:
            yield piece_THWC[torch.tensor(inside)]
        begin = end
    if begin != num_frames:
        raise ValueError(f"{num_frames} frames were promised to resample, {begin} came")
