"""Pictures of clips: PNG files, contact sheets with labels, and a whole grid as one video.

A contact sheet is laid out so, labels above their rows and heads above the columns:

    head       head       head
    label of row 0
    [frame]    [frame]    [frame]
    label of row 1
    [frame]    [frame]
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import torch
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from dcgrid.io.atomic import whole_file
from dcgrid.video.pixels import unit_of
from dcgrid.video.text import text_pixels, text_width

_GAP = 4
_PAPER = 24  # dark grey, so that dark and light frames both have an edge
_INK = 235
_LEAST_LETTERS = 12  # pixels; smaller ones cannot be read
_FRAMES_OF_A_CLIP = 4
_LEAST_WIDTH, _MOST_WIDTH, _AREA = 320, 640, 90_000


def sheet_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width at which a picture of a size is shown on a sheet of results.

    All take about the room of 400x225 pixels, and are 320 to 640 pixels wide.

    >>> sheet_size((720, 1280)), sheet_size((1920, 1080)), sheet_size((96, 160))
    ((225, 400), (569, 320), (232, 387))
    """
    height, width = size
    wide = round((_AREA * width / height) ** 0.5)
    wide = min(max(wide, _LEAST_WIDTH), _MOST_WIDTH)
    return max(1, round(wide * height / width)), wide


def write_png(path: Path | str, picture_HWC: torch.Tensor, *, overwrite: bool = False) -> None:
    """Write a picture as a PNG file.

    Args:
        path: The file to make; its folder must exist.
        picture_HWC: RGB, uint8, shape (H, W, 3), on the CPU.
        overwrite: Replace an existing file.

    Raises:
        OutputError: The folder is missing or read-only, the file exists, or the disk is full.
        ValueError: A picture of another shape or type.
    """
    if picture_HWC.dtype != torch.uint8 or picture_HWC.ndim != 3 or picture_HWC.shape[2] != 3:
        raise ValueError(f"a picture must be uint8 HWC, not {picture_HWC.shape}")
    with whole_file(Path(path), overwrite=overwrite) as part:
        part.write_bytes(_png_bytes(picture_HWC))


def _png_bytes(picture_HWC: torch.Tensor) -> bytes:
    """Encode a picture with libav's PNG encoder."""
    coder = av.CodecContext.create("png", "w")
    assert isinstance(coder, VideoCodecContext)
    coder.height, coder.width = picture_HWC.shape[:2]
    coder.pix_fmt, coder.time_base = "rgb24", Fraction(1, 25)
    frame = VideoFrame.from_ndarray(picture_HWC.contiguous().numpy(), format="rgb24")
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    return b"".join(bytes(packet) for packet in [*coder.encode(frame), *coder.encode(None)])


def write_contact_sheet(
    path: Path | str,
    rows: Sequence[Sequence[torch.Tensor]],
    labels: Sequence[str] = (),
    *,
    heads: Sequence[str] = (),
    frames_per_clip: int = _FRAMES_OF_A_CLIP,
    overwrite: bool = False,
) -> None:
    """Write rows of pictures with a label each as one PNG file.

    Args:
        path: The file to make; its folder must exist.
        rows: Each entry is a frame (H, W, 3), or a clip (T, H, W, 3) that is shown as evenly spaced
            frames; RGB, uint8. Sizes may differ.
        labels: One text per row, drawn above it; may be fewer.
        heads: One text per column, drawn above the first row; may be fewer.
        frames_per_clip: How many frames stand for a clip.
        overwrite: Replace an existing file.

    Raises:
        OutputError: The folder is missing or read-only, the file exists, or the disk is full.
        ValueError: No picture at all.
    """
    write_png(path, contact_sheet(rows, labels, heads, frames_per_clip), overwrite=overwrite)


def contact_sheet(
    rows: Sequence[Sequence[torch.Tensor]],
    labels: Sequence[str] = (),
    heads: Sequence[str] = (),
    frames_per_clip: int = _FRAMES_OF_A_CLIP,
) -> torch.Tensor:
    """Lay out a contact sheet; see `write_contact_sheet`.

    Returns:
        RGB, uint8, shape (H, W, 3).
    """
    pictures = [[f for entry in row for f in _frames(entry, frames_per_clip)] for row in rows]
    flat = [picture for row in pictures for picture in row]
    if not flat:
        raise ValueError("a contact sheet needs at least one picture")
    columns = max(len(row) for row in pictures)
    widths = [
        max((row[i].shape[1] for row in pictures if i < len(row)), default=0)
        for i in range(columns)
    ]
    size = min(24, max(_LEAST_LETTERS, min(picture.shape[1] for picture in flat) // 16))
    bands = [_strip_of_heads(heads, widths, size)] if heads else []
    for index, row in enumerate(pictures):
        if index < len(labels) and labels[index]:
            bands.append(_strip(sum(widths) + _GAP * (columns + 1), [(_GAP, labels[index])], size))
        bands.append(_row_of_pictures(row, widths))
    return torch.cat([*bands, _blank(_GAP, bands[0].shape[1])])


def _frames(entry: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Return the frames (H, W, 3) that stand for a frame or a clip."""
    if entry.ndim == 3:
        return [entry]
    picks = torch.linspace(0, len(entry) - 1, min(count, len(entry))).round().long().tolist()
    return [entry[i] for i in picks]


def _blank(height: int, width: int) -> torch.Tensor:
    return torch.full((height, width, 3), _PAPER, dtype=torch.uint8)


def _row_of_pictures(row: list[torch.Tensor], widths: list[int]) -> torch.Tensor:
    """Put pictures side by side on paper, a gap before each and above all."""
    tallest = max((picture.shape[0] for picture in row), default=0)
    band_HWC = _blank(tallest + _GAP, sum(widths) + _GAP * (len(widths) + 1))
    left = _GAP
    for picture, width in zip(row, widths, strict=False):
        height = picture.shape[0]
        band_HWC[_GAP : _GAP + height, left : left + picture.shape[1]] = picture
        left += width + _GAP
    return band_HWC


def _strip_of_heads(heads: Sequence[str], widths: list[int], size: int) -> torch.Tensor:
    """Draw each column's head above it, cut to the column."""
    texts, left = [], _GAP
    for head, width in zip(heads, widths, strict=False):
        texts.append((left, _cut(head, width, size)))
        left += width + _GAP
    return _strip(sum(widths) + _GAP * (len(widths) + 1), texts, size)


def _cut(text: str, width: int, size: int) -> str:
    """Return as much of a text as fits into a width; at least one letter."""
    while len(text) > 1 and text_width(text, size) > width:
        text = text[:-1]
    return text


def _strip(width: int, texts: list[tuple[int, str]], size: int) -> torch.Tensor:
    """Draw texts at their left edges on a strip of paper; what does not fit is cut."""
    drawn = [(left, text_pixels(text, size)) for left, text in texts]
    strip_HWC = _blank(max((ink_HW.shape[0] for _, ink_HW in drawn), default=1) + _GAP, width)
    for left, ink_HW in drawn:
        ink_HW = unit_of(ink_HW[:, : max(0, width - left)])
        place_HWC = strip_HWC[_GAP : _GAP + ink_HW.shape[0], left : left + ink_HW.shape[1]]
        place_HWC.copy_((_PAPER + (_INK - _PAPER) * ink_HW[..., None]).round())
    return strip_HWC


def tile_grid(cells: Sequence[torch.Tensor], rows: int, cols: int) -> torch.Tensor:
    """Put the cells of a grid side by side, row by row, as one video.

    Args:
        cells: rows * cols clips of equal shape (T, H, W, 3).
        rows: Rows of the grid.
        cols: Columns of the grid.

    Returns:
        Shape (T, rows * H, cols * W, 3).
    """
    if len(cells) != rows * cols or len({cell.shape for cell in cells}) != 1:
        raise ValueError(
            f"a {rows}x{cols} grid needs {rows * cols} clips of one shape, "
            f"not {[tuple(cell.shape) for cell in cells]}"
        )
    lines = [torch.cat(list(cells[r * cols : (r + 1) * cols]), dim=2) for r in range(rows)]
    return torch.cat(lines, dim=1)
