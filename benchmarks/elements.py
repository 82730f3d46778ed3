"""Elements that the procedural world draws, to be composed with a clip.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from dcgrid.eval.suites.footage import to_pixels as to_pixels
from dcgrid.eval.suites.footage import to_unit as to_unit
from dcgrid.synthetic.fusion import ELEMENTS, draw_element


def draw_like(element: str, clip_THWC: Tensor, fps: float, seed: int) -> Tensor:
    """Draw an element as a clip of the length and size of another.

    Args:
        element: Key of `ELEMENTS`.
        clip_THWC: The other, uint8.
        fps: Frames per second of both.
        seed: Of the drawing.

    Returns:
        The element, THWC, uint8.
    """
    clip_CTHW = to_unit(clip_THWC)
    seconds_T = torch.arange(clip_CTHW.shape[1]) / fps
    return to_pixels(
        draw_element(element, clip_CTHW, seconds_T, torch.Generator().manual_seed(seed))
    )


def words_of(element: str) -> Mapping[str, str]:
    """Return the words that a user would give for an element, by the field of a ComposeJob."""
    words = ELEMENTS[element]
    return {"concept": words.phrases[0], "concept_motion": words.motion}
