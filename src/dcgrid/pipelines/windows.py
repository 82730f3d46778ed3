"""Long clips in windows: what each generates, and how it goes on from the one before.

A window is as long as the model's longest clip. Its head is given: frames that the window before
has generated, clean, so that the same model goes on where it stopped. What comes next both
generate, and it is blended, so that no step is seen:

    frames      0 ............ 32
    window 0    [==============]
    window 1              [##~~~========]          # head, given    ~ blended    = generated
    window 2                        [##~~~====]

Frames are counted as stride * n + 1 everywhere, as the autoencoder wants them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """How neighbouring windows share frames."""

    head: int
    """Frames at the beginning of a window that are given; stride * n + 1."""
    blend: int
    """Frames after them that both windows generate; a multiple of the stride; 0: a hard join."""

    @property
    def shared(self) -> int:
        """Frames that neighbours have in common."""
        return self.head + self.blend


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of a clip that is generated in one go."""

    index: int
    """Its place, from 0."""
    first: int
    """Its first frame in the clip."""
    count: int
    """Its frames; stride * n + 1."""
    head: int
    """Frames at its beginning that are given; 0 in the first window."""
    blend: int
    """Frames after the head that are mixed with those of the window before."""
    shown: int
    """Its frames before this one are delivered with it (the head was with the window before)."""

    @property
    def fresh(self) -> slice:
        """Its frames that are delivered with it."""
        return slice(self.head, self.shown)


def plan_windows(num_frames: int, longest: int, join: Join, stride: int) -> tuple[Window, ...]:
    """Cut a clip into windows.

    Args:
        num_frames: Frames of the clip, stride * n + 1.
        longest: Most frames of a window.
        join: What neighbours share.
        stride: Pixel frames per latent frame.

    Returns:
        One window for a clip that fits; else as few as can be, the last one shorter.

    Raises:
        ValueError: A count is not stride * n + 1, or a window would generate nothing new.
    """
    counts = (("num_frames", num_frames), ("longest", longest), ("head", join.head))
    for name, count in (*counts, ("blend + 1", join.blend + 1)):
        if count < 1 or (count - 1) % stride:
            raise ValueError(f"{name} = {count} is not {stride} n + 1")
    if num_frames <= longest:
        return (Window(index=0, first=0, count=num_frames, head=0, blend=0, shown=num_frames),)
    step = longest - join.shared
    if step < max(stride, join.blend):
        raise ValueError(
            f"windows of {longest} frames that share {join.shared} generate nothing new"
        )
    firsts = range(0, num_frames - join.shared, step)
    windows = []
    for index, first in enumerate(firsts):
        count = min(longest, num_frames - first)
        last = index == len(firsts) - 1
        windows.append(
            Window(
                index=index,
                first=first,
                count=count,
                head=join.head if index else 0,
                blend=join.blend if index else 0,
                shown=count if last else count - join.blend,
            )
        )
    return tuple(windows)
