"""From decoded frames to RGB: matrix and range, transparency, rotation, scale and crop.

`render_frame` is the whole way of one frame. Nothing here opens a file.
"""

import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import torch
from av.filter import Graph
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from dcgrid.video.gamut import is_converted, to_bt709
from dcgrid.video.hdr import HLG, PQ, to_standard

# AVColorSpace of a frame -> matrix of swscale. 5 and 6 are both bt601; 10 is bt2020 with constant
# luminance, for which the plain bt2020 matrix is the nearest that swscale has.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_MATRIX_NAMES = {
    Colorspace.ITU709: "bt709",
    Colorspace.FCC: "fcc",
    Colorspace.ITU601: "bt601",
    Colorspace.SMPTE240M: "smpte240m",
    Colorspace.BT2020: "bt2020",
}
_HDR_TRANSFERS = {16: PQ, 18: HLG}
_HD_HEIGHT = 720
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BICUBIC
# Above this many times the cell's pixels, crop first: a 1x8000 strip must not become a wall.
_MOST_SCALED = 8
_MOST_UNNAMED = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How a frame's stored values stand for colours."""

    matrix: Colorspace
    """Matrix from YUV to RGB (not used for RGB frames)."""
    is_full: bool
    """True: values use the full range 0-255."""
    is_rgb: bool
    """True: stored as RGB, no matrix."""
    is_guessed: bool
    """True: the file does not say which matrix."""
    hdr: str
    """"PQ" or "HLG"; empty: standard dynamic range."""
    primaries: int
    """AVColorPrimaries."""
    transfer: int
    """AVColorTransferCharacteristic."""

    @property
    def text(self) -> str:
        """A few words for the plan."""
        if self.is_rgb:
            return "rgb"
        reach = "full" if self.is_full else "limited"
        return f"{_MATRIX_NAMES[self.matrix]} {reach}{' ' + self.hdr if self.hdr else ''}"


def frame_coding(frame: VideoFrame) -> Coding:
    """Read a frame's colour tags; untagged: bt709 from 720 lines on, else bt601, limited."""
    tag = int(frame.colorspace)
    guess = Colorspace.ITU709 if frame.height >= _HD_HEIGHT else Colorspace.ITU601
    name = frame.format.name
    is_full = int(frame.color_range) == int(ColorRange.JPEG) or name.startswith("yuvj")
    is_grey = name.startswith(("gray", "ya", "mono"))
    return Coding(
        matrix=_MATRICES.get(tag, guess),
        is_full=is_full,
        is_rgb=frame.format.is_rgb or name == "pal8",
        is_guessed=not is_grey and tag not in _MATRICES,
        hdr=_HDR_TRANSFERS.get(int(frame.color_trc), ""),
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
    )


def has_alpha(frame: VideoFrame) -> bool:
    """Return True if the frame's pixel format can carry transparency."""
    return frame.format.name == "pal8" or any(c.is_alpha for c in frame.format.components)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How the stored picture is turned for display: first transposed, then mirrored."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False
    is_exact: bool = True
    """False: the file asks for an angle that is no multiple of 90 degrees."""

    @property
    def degrees(self) -> int:
        """Clockwise degrees of the turn, mirroring aside."""
        if self.transpose:
            return 90 if self.flip_x else 270
        return 180 if self.flip_y else 0

    def apply(self, frame_HWC: torch.Tensor) -> torch.Tensor:
        """Turn a stored picture of shape (H, W, 3)."""
        turned = frame_HWC.transpose(0, 1) if self.transpose else frame_HWC
        axes = [axis for axis, flip in ((0, self.flip_y), (1, self.flip_x)) if flip]
        return turned.flip(axes) if axes else turned


def frame_turn(frame: VideoFrame) -> Turn:
    """Read the display matrix of a frame (PyAV does not apply it); nonsense means no turn.

    The matrix maps stored (x, y) to shown (a x + c y, b x + d y); a, b, c, d are the 32-bit
    fixed-point numbers 0, 1, 3 and 4 of nine.
    """
    # PyAV types side_data as one entry; it is a container of them.
    entries = cast("Iterable[SideData]", _named_side_data(frame).side_data)
    entry = next((e for e in entries if e.type.name == "DISPLAYMATRIX"), None)
    raw = b"" if entry is None else bytes(entry)
    if len(raw) < 36:
        return Turn()
    a, b, _, c, d, *_ = struct.unpack("=9i", raw[:36])
    if a * d - b * c == 0:
        return Turn()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        exact = b == 0 == c
        return Turn(flip_x=a < 0, flip_y=d < 0, is_exact=exact)
    return Turn(transpose=True, flip_x=c < 0, flip_y=b < 0, is_exact=a == 0 == d)


def _named_side_data(frame: VideoFrame) -> VideoFrame:
    """Return the frame without the side data for which PyAV has no name, such as EXIF.

    PyAV shows none of a frame's side data where it cannot name all.
    """
    for _ in range(_MOST_UNNAMED):
        try:
            _ = frame.side_data
        except ValueError as error:  # "31 is not a valid Type"
            kind = re.match(r"\d+", str(error))
            if kind is None:
                raise
            frame = _without_side_data(frame, int(kind[0]))
        else:
            break
    return frame


def _without_side_data(frame: VideoFrame, kind: int) -> VideoFrame:
    """Return a frame without the side data of one AVFrameSideDataType."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 25),
    )
    delete = graph.add("sidedata", f"mode=delete:type={kind}")
    graph.link_nodes(source, delete, graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def sane_sar(sar: Fraction | None) -> Fraction:
    """Return a pixel shape that can be believed; unknown or absurd ones become 1."""
    return sar if sar and Fraction(1, 16) <= sar <= 16 else Fraction(1)


def shown_size(frame: VideoFrame, sar: Fraction, turn: Turn) -> tuple[int, int]:
    """Return (height, width) of the frame as a viewer sees it."""
    wide, tall = max(1, round(frame.width * sar)), frame.height
    return (wide, tall) if turn.transpose else (tall, wide)


def cover_size(shown: tuple[int, int], cell: tuple[int, int]) -> tuple[int, int]:
    """Return the size (height, width), same aspect as `shown`, that just covers `cell`."""
    scale = max(cell[0] / shown[0], cell[1] / shown[1])
    return max(cell[0], round(shown[0] * scale)), max(cell[1], round(shown[1] * scale))


def contained_size(shown: tuple[int, int], cell: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size (height, width), same aspect as `shown`, that fits into `cell`."""
    scale = min(cell[0] / shown[0], cell[1] / shown[1])
    tall, wide = max(1, round(shown[0] * scale)), max(1, round(shown[1] * scale))
    return min(cell[0], tall), min(cell[1], wide)


def best_cell_size(
    shown: tuple[int, int], cell_sizes: tuple[tuple[int, int], ...]
) -> tuple[int, int]:
    """Return the cell size (height, width) whose aspect is nearest; of equals the largest."""

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        ratio = (size[1] / size[0]) / (shown[1] / shown[0])
        return round(abs(math.log(ratio)), 6), -size[0] * size[1]

    return min(cell_sizes, key=distance)


def to_rgb(frame: VideoFrame, size: tuple[int, int] | None = None) -> VideoFrame:
    """Convert a frame without transparency to rgb24 with its own matrix and range.

    Args:
        frame: A decoded frame of any format, from `flatten`. HDR is brought to standard range, and
            other primaries and transfers to bt709's.
        size: Stored height and width in pixels to scale to; None: as it is.
    """
    coding = frame_coding(frame)
    if not coding.hdr and not is_converted(coding.primaries, coding.transfer):
        return _reformat(frame, "rgb24", size)
    deep_HWC = _reformat(frame, "rgb48le", size).to_ndarray().astype("float32")
    signal_HWC = torch.from_numpy(deep_HWC) / 65_535
    if coding.hdr:
        shown_HWC = to_standard(signal_HWC, coding.hdr, coding.primaries)
    else:
        shown_HWC = to_bt709(signal_HWC, coding.primaries, coding.transfer)
    return VideoFrame.from_ndarray((shown_HWC * 255).round().byte().numpy(), format="rgb24")


def _reformat(frame: VideoFrame, name: str, size: tuple[int, int] | None) -> VideoFrame:
    """Run swscale with explicit matrix, range and rounding."""
    coding = frame_coding(frame)
    full = coding.is_full or coding.is_rgb
    return frame.reformat(
        width=None if size is None else size[1],
        height=None if size is None else size[0],
        format=name,
        src_colorspace=coding.matrix,
        dst_colorspace=coding.matrix,
        interpolation=_EXACT,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )


def flatten(frame: VideoFrame) -> tuple[VideoFrame, bool]:
    """Put a frame that carries transparency over black, at full size so that edges blend.

    Returns:
        The opaque frame (the same one where there is no transparency), and whether any pixel let
        the black through.
    """
    if not has_alpha(frame):
        return frame, False
    rgba_HWC = torch.from_numpy(_reformat(frame, "rgba", None).to_ndarray())
    alpha_HW1 = rgba_HWC[..., 3:].to(torch.int32)
    rgb_HWC = (rgba_HWC[..., :3].to(torch.int32) * alpha_HW1 + 127) // 255
    opaque = VideoFrame.from_ndarray(rgb_HWC.to(torch.uint8).numpy(), format="rgb24")
    opaque.color_primaries, opaque.color_trc = frame.color_primaries, frame.color_trc
    return opaque, bool((alpha_HW1 < 255).any())


def render_frame(
    frame: VideoFrame, sar: Fraction, turn: Turn, cell: tuple[int, int]
) -> torch.Tensor:
    """Return a frame as the model sees it: upright, square pixels, scaled and centre-cropped.

    Args:
        frame: A decoded frame, from `flatten`.
        sar: Shape of its pixels.
        turn: How to turn it.
        cell: Height and width in pixels of the result.

    Returns:
        RGB, uint8, shape (H, W, 3), contiguous.
    """
    shown = shown_size(frame, sar, turn)
    scaled = cover_size(shown, cell)
    if scaled[0] * scaled[1] > _MOST_SCALED * cell[0] * cell[1]:
        frame, scaled = _cut_to_aspect(frame, sar, turn, cell), cell
    stored = (scaled[1], scaled[0]) if turn.transpose else scaled
    rgb_HWC = torch.from_numpy(to_rgb(frame, stored).to_ndarray())
    return center_crop(turn.apply(rgb_HWC), cell).contiguous()


def render_whole(frame: VideoFrame, turn: Turn, size: tuple[int, int]) -> torch.Tensor:
    """Return a frame upright and scaled to a size, nothing cropped.

    Args:
        frame: A decoded frame, from `flatten`.
        turn: How to turn it.
        size: Height and width in pixels of the result.

    Returns:
        RGB, uint8, shape (H, W, 3), contiguous.
    """
    stored = (size[1], size[0]) if turn.transpose else size
    rgb_HWC = torch.from_numpy(to_rgb(frame, stored).to_ndarray())
    return turn.apply(rgb_HWC).contiguous()


def mirror_pad(frame_HWC: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Surround a picture of shape (H, W, 3) with its mirror images up to a size.

    The picture lies in the middle, where `ClipPlan.picture` says.
    """
    rows, cols = (
        _mirrored(inner, outer) for inner, outer in zip(frame_HWC.shape[:2], size, strict=True)
    )
    return frame_HWC[rows][:, cols]


def _mirrored(inner: int, outer: int) -> torch.Tensor:
    """Return for each of `outer` places the one of `inner` places that is shown there."""
    period = max(1, 2 * inner - 2)
    at = (torch.arange(outer) - (outer - inner) // 2) % period
    return torch.where(at < inner, at, period - at)


def _cut_to_aspect(
    frame: VideoFrame, sar: Fraction, turn: Turn, cell: tuple[int, int]
) -> VideoFrame:
    """Crop an extremely long frame to the cell's aspect before it is scaled."""
    stored_cell = (cell[1], cell[0]) if turn.transpose else cell
    aspect = stored_cell[1] / stored_cell[0] / float(sar)
    height = min(frame.height, max(1, round(frame.width / aspect)))
    width = min(frame.width, max(1, round(frame.height * aspect)))
    rgb_HWC = torch.from_numpy(to_rgb(frame).to_ndarray())
    cut_HWC = center_crop(rgb_HWC, (height, width)).contiguous()
    return VideoFrame.from_ndarray(cut_HWC.numpy(), format="rgb24")


def center_crop(frame_HWC: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return the middle of a picture of shape (H, W, 3)."""
    top = (frame_HWC.shape[0] - size[0]) // 2
    left = (frame_HWC.shape[1] - size[1]) // 2
    return frame_HWC[top : top + size[0], left : left + size[1]]
