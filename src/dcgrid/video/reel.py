"""A reel: scenes one after another as one film, with titles and cross-fades.

With a fade the end of a scene and the beginning of the next one are on screen together:

    scene 0   |================>>>|
    scene 1                   |>>>================>>>|
    scene 2                                      |>>>===============|
    reel      |===============|>>>|==============|>>>|==============|

Letters: T frames, H height, W width; the last 3 are red, green, blue.
"""

import math
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Protocol

import torch

from dcgrid.video.pixels import unit_of
from dcgrid.video.text import text_pixels, text_width

_INK = 240
_EDGE = 12  # nearly black, around the ink: legible on light and on dark
_MOST_LINES = 3
# The font grows with the frame: 16 pixels high at 192x320, 58 at 704x1280.
_ROWS_PER_PIXEL = 12
_COLUMNS_PER_PIXEL = 20
_LEAST_LETTERS = 9  # pixels; smaller ones cannot be read
# Frames that are taken at a time: a few megabytes at the sizes that models generate.
_STRETCH = 32


class Stretches(Protocol):
    """A clip that need not be in memory; a tensor THWC is one, too."""

    def __len__(self) -> int:
        """Return the number of frames."""

    def __getitem__(self, stretch: slice, /) -> torch.Tensor:
        """Return the frames of a slice, THWC, uint8."""


def reel_pieces(
    scenes: Sequence[Stretches],
    titles: Sequence[str],
    fps: Fraction | float,
    *,
    title_s: float = 0,
    fade_s: float = 0,
) -> Iterator[torch.Tensor]:
    """Put scenes one after another.

    A title is part of its scene: it fades in with it. It stands at the lower edge, wrapped and, if
    need be, shortened; a frame too small for a letter carries none. Memory: scenes are taken in
    short stretches, in order, each once but for the first frame.

    Args:
        scenes: At least one; RGB, uint8, shape (T, H, W, 3), T >= 1, all of the same H and W.
        titles: One for each scene; an empty one draws nothing.
        fps: Frames per second; > 0.
        title_s: Seconds at the beginning of a scene with its title; 0: no titles.
        fade_s: Seconds in which two scenes are on screen together; 0: hard cuts. Rounded to whole
            frames.

    Returns:
        Pieces of shape (t, H, W, 3), t >= 1, uint8; together `reel_length` frames.

    Raises:
        ValueError: No scene, scenes of another type or of different sizes, another number of
            titles, a time that is negative or not finite, or a fade longer than half of the
            shortest scene.
    """
    shapes = [_checked_shape(scene_THWC) for scene_THWC in scenes]
    if len({shape[1:] for shape in shapes}) > 1:
        raise ValueError(f"the scenes of a reel must have one size, not {shapes}")
    if len(titles) != len(shapes):
        raise ValueError(f"{len(shapes)} scenes and {len(titles)} titles")
    fade = _fade_frames([shape[0] for shape in shapes], fps, fade_s)
    titled = _frames_in("title_s", title_s, fps)
    return _reel(scenes, titles, titled, fade)


def reel_length(lengths: Sequence[int], fps: Fraction | float, fade_s: float = 0) -> int:
    """Return the number of frames of a reel.

    Args:
        lengths: Frames of each scene; at least one scene, each >= 1.
        fps: Frames per second; > 0.
        fade_s: Seconds in which two scenes are on screen together.

    Returns:
        The sum of the lengths, less what overlaps.

    Raises:
        ValueError: No scene, or a fade that `reel_pieces` refuses.
    """
    return sum(lengths) - (len(lengths) - 1) * _fade_frames(lengths, fps, fade_s)


def draw_title(frames_THWC: torch.Tensor, title: str) -> torch.Tensor:
    """Draw a title at the lower edge of frames.

    Args:
        frames_THWC: RGB, uint8, shape (T, H, W, 3); left as they are.
        title: Accents are left out.

    Returns:
        New frames of the same shape; the same pixels are drawn over on every frame.
    """
    placed = _title_pixels(title, frames_THWC.shape[1], frames_THWC.shape[2])
    drawn_THWC = frames_THWC.clone()
    if placed is not None:
        ink_HW1, edge_HW1 = (plane_HW[..., None] for plane_HW in placed)
        drawn = frames_THWC * (1 - edge_HW1) + _EDGE * edge_HW1
        drawn_THWC = (drawn * (1 - ink_HW1) + _INK * ink_HW1).round().to(torch.uint8)
    return drawn_THWC


def _checked_shape(scene: Stretches) -> tuple[int, ...]:
    first_THWC = scene[:1]
    shape = (len(scene), *first_THWC.shape[1:])
    if first_THWC.dtype != torch.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise ValueError(f"a scene must be uint8 THWC, not {first_THWC.dtype} {shape}")
    return shape


def _frames_in(name: str, seconds: float, fps: Fraction | float) -> int:
    """Return the whole frames nearest to a time."""
    if not (0 <= seconds < math.inf and 0 < fps < math.inf):
        raise ValueError(f"{name} = {seconds} at {fps} frames per second")
    return math.floor(Fraction(seconds) * Fraction(fps) + Fraction(1, 2))


def _fade_frames(lengths: Sequence[int], fps: Fraction | float, fade_s: float) -> int:
    """Return how many frames neighbouring scenes share."""
    if not lengths:
        raise ValueError("a reel needs at least one scene")
    fade = _frames_in("fade_s", fade_s, fps)
    # More than half, and the fades at both ends of a scene would meet.
    if 2 * fade > min(lengths):
        raise ValueError(
            f"a fade of {fade} frames is longer than half of the shortest scene, "
            f"which has {min(lengths)}"
        )
    return fade


def _reel(
    scenes: Sequence[Stretches], titles: Sequence[str], titled: int, fade: int
) -> Iterator[torch.Tensor]:
    """Yield the pieces: of each scene the fade from the one before, then the rest in stretches."""
    tail_THWC: torch.Tensor | None = None
    for index, (scene, title) in enumerate(zip(scenes, titles, strict=True)):
        shared = fade if index + 1 < len(titles) else 0
        begin, end = 0, len(scene) - shared
        if tail_THWC is not None:
            yield _mix(tail_THWC, _titled(scene, 0, fade, title, titled))
            begin = fade
        for start in range(begin, end, _STRETCH):
            yield _titled(scene, start, min(start + _STRETCH, end), title, titled)
        tail_THWC = _titled(scene, end, len(scene), title, titled) if shared else None


def _titled(scene: Stretches, start: int, stop: int, title: str, titled: int) -> torch.Tensor:
    """Return a stretch of a scene, with its title on those of its first `titled` frames."""
    frames_THWC = scene[start:stop]
    named = min(titled, stop) - start
    if named <= 0:
        return frames_THWC
    return torch.cat([draw_title(frames_THWC[:named], title), frames_THWC[named:]])


def _mix(old_THWC: torch.Tensor, new_THWC: torch.Tensor) -> torch.Tensor:
    """Cross-fade two pieces of equal length n; frame i is (i + 1) / (n + 1) of the new one.

    In whole numbers, rounded to the nearest, so that it is the same on every machine.
    """
    parts = len(new_THWC) + 1
    new_T111 = torch.arange(1, parts, dtype=torch.int32).view(-1, 1, 1, 1)
    sums_THWC = (parts - new_T111) * old_THWC.int() + new_T111 * new_THWC.int()
    return ((sums_THWC + parts // 2) // parts).to(torch.uint8)


def _title_pixels(title: str, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return how much of the ink of a title, and of the edge around it, is on each pixel.

    Returns:
        Two tables of shares in [0, 1] of shape (H, W); None: nothing to draw.
    """
    size = min(height // _ROWS_PER_PIXEL, width // _COLUMNS_PER_PIXEL)
    size = max(_LEAST_LETTERS, size)
    margin, by = max(3, size // 2), max(1, size // 10)
    pitch = text_pixels("", size).shape[0]
    fitting = (height - 2 * margin) // pitch
    if fitting < 1 or width - 2 * margin < size:
        return None
    lines = _title_lines(title, width - 2 * margin, size, min(_MOST_LINES, fitting))
    ink_HW = torch.zeros(height, width)
    for index, line in enumerate(reversed(lines)):
        line_HW = unit_of(text_pixels(line, size))
        line_HW = line_HW[:, : width - 2 * margin]
        bottom = height - margin - index * pitch
        left = (width - line_HW.shape[1]) // 2
        ink_HW[bottom - pitch : bottom, left : left + line_HW.shape[1]] = line_HW
    return (ink_HW, _grown(ink_HW, by)) if ink_HW.any() else None


def _title_lines(title: str, width: int, size: int, most: int) -> list[str]:
    """Break a title into at most `most` lines of a width; dots stand for a rest."""
    # The font lacks many accents: the bare letter reads better than a box.
    bare = "".join(c for c in unicodedata.normalize("NFKD", title) if not unicodedata.combining(c))
    letters = max(1, len(bare))
    while letters > 1:
        lines = textwrap.wrap(bare, letters, max_lines=most, placeholder="..."[:letters])
        if all(text_width(line, size) <= width for line in lines):
            return lines
        letters -= 1
    return textwrap.wrap(bare, 1, max_lines=1, placeholder=".")


def _grown(ink_HW: torch.Tensor, by: int) -> torch.Tensor:
    """Return the most ink at most `by` pixels away, in any direction."""
    grown = torch.nn.functional.max_pool2d(ink_HW[None, None], 2 * by + 1, stride=1, padding=by)
    return grown[0, 0]
