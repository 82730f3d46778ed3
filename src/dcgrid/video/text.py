"""Lines of text as pixels, in the font that Pillow brings along (Aileron, CC0)."""

from functools import lru_cache

import torch
from PIL import Image, ImageDraw, ImageFont


def text_pixels(text: str, size: int) -> torch.Tensor:
    """Draw one line of text.

    Args:
        text: The line; signs that the font lacks are drawn as a box.
        size: Height of the font in pixels; >= 1. Lines of one size have one height.

    Returns:
        How much ink is on each pixel, uint8, 0 to 255, shape (H, W); W is at least 1.
    """
    font = _font(size)
    ascent, descent = font.getmetrics()
    width = max(1, round(font.getlength(text)))
    picture = Image.new("L", (width, ascent + descent))
    ImageDraw.Draw(picture).text((0, 0), text, fill=255, font=font)
    ink = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return ink.view(ascent + descent, width)


def text_width(text: str, size: int) -> int:
    """Return how many pixels wide a line is."""
    return max(1, round(_font(size).getlength(text)))


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # a Pillow that was built without FreeType
        raise RuntimeError("Pillow has no FreeType: install it with `pip install pillow`")
    return font
