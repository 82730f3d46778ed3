"""Long clips in windows: what each paints, and what it takes over from the one before.

A window is as long as the model's longest clip. Its first frames are the last ones of the window
before, given clean, so that the same model goes on where it stopped:

    frames      0 ............ 32
    window 0    [==============]
    window 1                [##===========]          # carried over, = painted
    window 2                            [##=====]

Frames are counted as stride * n + 1 everywhere, as the autoencoder wants them.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of a clip that is painted in one go."""

    index: int
    """Its place, from 0."""
    first: int
    """Its first frame in the clip."""
    count: int
    """Its frames; stride * n + 1."""
    carried: int
    """Frames at its head that the window before has painted; 0 or stride * n + 1."""


def plan_windows(num_frames: int, longest: int, carried: int, stride: int) -> tuple[Window, ...]:
    """Cut a clip into windows.

    Args:
        num_frames: Frames of the clip, stride * n + 1.
        longest: Most frames of a window.
        carried: Frames that neighbours share, stride * n + 1.
        stride: Pixel frames per latent frame.

    Returns:
        One window for a clip that fits; else as few as can be, the last one shorter.

    Raises:
        ValueError: A count is not stride * n + 1, or a window would paint nothing new.
    """
    for name, count in (("num_frames", num_frames), ("carried", carried), ("longest", longest)):
        if count < 1 or (count - 1) % stride:
            raise ValueError(f"{name} = {count} is not {stride} n + 1")
    if num_frames <= longest:
        return (Window(index=0, first=0, count=num_frames, carried=0),)
    step = longest - carried
    if step < stride:
        raise ValueError(f"windows of {longest} frames that share {carried} paint nothing new")
    firsts = range(0, num_frames - carried, step)
    return tuple(
        Window(
            index=index,
            first=first,
            count=min(longest, num_frames - first),
            carried=carried if index else 0,
        )
        for index, first in enumerate(firsts)
    )


def sheet_frames(windows: Sequence[Window], count: int) -> list[int]:
    """Return evenly spaced frames of the whole clip, at most `count`, the first and last included.

    >>> sheet_frames(plan_windows(9, 33, 5, 4), 3)
    [0, 4, 8]
    """
    total = windows[-1].first + windows[-1].count
    shown = min(count, total)
    return [round(i * (total - 1) / max(shown - 1, 1)) for i in range(shown)]
