"""Write a clip as an MP4 that plays everywhere, with the sound of its source.

H.264, yuv420p, tagged and converted as bt709 limited, index at the front. Files appear whole or not
at all: a temporary name in the same folder, checked, then renamed.
"""

import contextlib
import errno
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import av.error
import torch
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from dcgrid.io.atomic import whole_file
from dcgrid.video.clip import Picture, SoundSource
from dcgrid.video.sound import Layer, SoundTrack, open_sound

__all__ = [
    "Timing",
    "WriteReport",
    "write_pictures",
    "write_pieces",
    "write_video",
]

_BT709 = 1  # the code of bt709 for matrix, primaries and transfer alike
# The same pixels must give the same file. With x264's macroblock tree they do not (measured with
# noise: 5 files of 40 runs on one machine, 1 thread or 4), nor with code chosen by processor.
_X264_OPTIONS = {
    "crf": "16",
    "preset": "veryfast",
    "x264-params": "mbtree=0:cpu-independent=1",
}
# Fixed, because x264's output depends on it.
_X264_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When frames may be on display."""

    fps: Fraction
    """Frames per second, on average where the rate varies; > 0."""
    tick: Fraction
    """Seconds of which all times are multiples; others are rounded to it."""
    varies: bool = False
    """True: frames last differently. None is coded out of order then: muxers add up the length of
    a file in the order of coding, and the last frames would not count in full."""

    @classmethod
    def constant(cls, fps: Fraction | float) -> Self:
        """Return the timing of a constant rate."""
        rate = Fraction(fps).limit_denominator(100_000)
        return cls(fps=rate, tick=1 / rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReport:
    """What was written."""

    path: Path
    """The file."""
    num_frames: int
    """Frames written."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    fps: Fraction
    """Frames per second, on average."""
    duration_s: float
    """Seconds of video."""
    sound: str
    """"copied", "transcoded" or "none"."""
    notes: tuple[str, ...] = ()
    """Sentences about what was changed or left out."""


class _SoundFailedError(Exception):
    """The sound, and not the picture, could not be written."""


def write_video(
    path: Path | str,
    frames_THWC: torch.Tensor,
    fps: Fraction | float,
    *,
    sound: SoundSource | None = None,
    overwrite: bool = False,
    comment: str = "",
) -> WriteReport:
    """Write frames, and the sound that goes with them, to an MP4 file.

    Damaged sound never stops the picture: it is left out and the report says so.

    Args:
        path: The file to make; its folder must exist.
        frames_THWC: RGB, uint8, shape (T, H, W, 3), T >= 1, on the CPU.
        fps: Frames per second; > 0.
        sound: Copied packet for packet where MP4 can hold it, else turned into AAC.
        overwrite: Replace an existing file.
        comment: Text for the file's comment tag.

    Returns:
        What was written.

    Raises:
        OutputError: The folder is missing or read-only, the file exists, or the disk is full.
        ValueError: Frames of another shape or type.
    """
    # Checked here as well, before a file is opened: a wrong tensor is a caller's bug.
    _check_frames(frames_THWC)
    return write_pieces(
        path,
        lambda: [frames_THWC],
        fps,
        num_frames=len(frames_THWC),
        sound=sound,
        overwrite=overwrite,
        comment=comment,
    )


def write_pieces(
    path: Path | str,
    pieces: Callable[[], Iterable[torch.Tensor]],
    fps: Fraction | float,
    *,
    num_frames: int,
    sound: SoundSource | None = None,
    overwrite: bool = False,
    comment: str = "",
) -> WriteReport:
    """Write frames that come piece by piece, and their sound, to an MP4 file.

    The file is the same, byte for byte, however the frames are cut into pieces; memory holds one
    piece. Damaged sound never stops the picture: it is left out and the report says so.

    Args:
        path: The file to make; its folder must exist.
        pieces: Gives the pieces from the first on each time it is called: a second time when the
            sound turns out to be unusable half-way. RGB, uint8, shape (t, H, W, 3), t >= 1, on the
            CPU, all of the same H and W.
        fps: Frames per second; > 0.
        num_frames: Frames of all pieces; >= 1.
        sound: Copied packet for packet where MP4 can hold it, else turned into AAC.
        overwrite: Replace an existing file.
        comment: Text for the file's comment tag.

    Returns:
        What was written.

    Raises:
        OutputError: The folder is missing or read-only, the file exists, or the disk is full.
        ValueError: Pieces of another shape or type, or not `num_frames` frames; no file is left.
    """
    timing = Timing.constant(fps)

    def timed() -> Iterator[Picture]:
        step = 1 / timing.fps
        for index, frame_HWC in enumerate(_frames(pieces(), num_frames)):
            yield Picture(rgb_HWC=frame_HWC, time=index * step, duration=step)

    return write_pictures(path, timed, timing, sound=sound, overwrite=overwrite, comment=comment)


def write_pictures(
    path: Path | str,
    pictures: Callable[[], Iterable[Picture]],
    timing: Timing,
    *,
    sound: SoundSource | None = None,
    overwrite: bool = False,
    comment: str = "",
) -> WriteReport:
    """Write frames with times of their own, and their sound, to an MP4 file.

    Memory holds one frame, and what the encoder looks ahead. Damaged sound never stops the picture:
    it is left out and the report says so.

    Args:
        path: The file to make; its folder must exist.
        pictures: Gives the frames from the first on each time it is called: a second time when the
            sound turns out to be unusable half-way. All of one size, times strictly growing.
        timing: The rate, and the clock that the file gets.
        sound: Copied packet for packet where MP4 can hold it, else turned into AAC.
        overwrite: Replace an existing file.
        comment: Text for the file's comment tag.

    Returns:
        What was written.

    Raises:
        OutputError: The folder is missing or read-only, the file exists, or the disk is full.
        ValueError: No frame, or frames of another shape or type; no file is left.
    """
    path = Path(path)
    notes: list[str] = []
    with whole_file(path, overwrite=overwrite) as part, ExitStack() as stack:
        track = None if sound is None else stack.enter_context(open_sound(sound))
        if track is not None:
            notes.extend(track.notes)
        try:
            done = _encode(part, iter(pictures()), timing, track, comment)
        except _SoundFailedError as error:
            notes.append(f"The sound is left out: it could not be written ({error}).")
            track = None
            done = _encode(part, iter(pictures()), timing, None, comment)
        _check_whole(part, done.count)
    height, width = (side + side % 2 for side in done.size)
    if (height, width) != done.size:
        padded = f"Padded from {done.size[1]}x{done.size[0]} to {width}x{height}"
        notes.insert(0, f"{padded}: H.264 needs even sides.")
    return WriteReport(
        path=path,
        num_frames=done.count,
        width=width,
        height=height,
        fps=timing.fps,
        duration_s=float(done.end),
        sound="none" if track is None else track.mode,
        notes=tuple(notes),
    )


def _frames(pieces: Iterable[torch.Tensor], num_frames: int) -> Iterator[torch.Tensor]:
    """Yield the frames (H, W, 3) of all pieces, checking what was promised about them."""
    count = 0
    for piece_THWC in pieces:
        _check_frames(piece_THWC)
        count += len(piece_THWC)
        if count > num_frames:
            raise ValueError(f"{num_frames} frames were promised to write, {count} or more came")
        yield from piece_THWC
    if count != num_frames or count == 0:
        raise ValueError(f"{num_frames} frames were promised to write, {count} came")


def _check_frames(frames_THWC: torch.Tensor) -> None:
    if frames_THWC.dtype != torch.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3:
        raise ValueError(f"frames must be uint8 THWC, not {frames_THWC.dtype} {frames_THWC.shape}")
    if 0 in frames_THWC.shape:
        raise ValueError("there is no frame to write")


def _pad_to_even(frame_HWC: torch.Tensor) -> torch.Tensor:
    """Repeat the last row or column where a side is odd; yuv420p needs even sides."""
    height, width = frame_HWC.shape[:2]
    if height % 2:
        frame_HWC = torch.cat([frame_HWC, frame_HWC[-1:]], 0)
    if width % 2:
        frame_HWC = torch.cat([frame_HWC, frame_HWC[:, -1:]], 1)
    return frame_HWC


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    """What came through the encoder."""

    count: int
    """Frames."""
    size: tuple[int, int]
    """Height and width of the frames as they came."""
    end: Fraction
    """Seconds until the last one ends."""


def _encode(
    part: Path,
    pictures: Iterator[Picture],
    timing: Timing,
    track: SoundTrack | None,
    comment: str,
) -> _Encoded:
    """Write one MP4 file; sound packets are laid between the frames they belong to."""
    first = next(pictures, None)  # the file's header needs the size
    if first is None:
        raise ValueError("there is no frame to write")
    _check_frames(first.rgb_HWC[None])
    shape = first.rgb_HWC.shape
    height, width = shape[:2]
    pictures = _put_back(first, pictures)
    del first  # or it would stay in memory until the end
    count, end, durations = 0, Fraction(0), dict[int, int]()
    container = av.open(str(part.absolute()), "w", options={"movflags": "+faststart"})
    try:
        if comment:
            container.metadata["comment"] = comment
        stream = _add_video(container, height + height % 2, width + width % 2, timing)
        lay_sound = None
        if track is not None:
            try:
                lay_sound = track.attach(container)
            except (av.error.FFmpegError, ValueError) as error:
                raise _SoundFailedError(str(error)) from error
        for picture in pictures:
            if picture.rgb_HWC.shape != shape:
                raise ValueError(f"frames of {tuple(shape)} and {tuple(picture.rgb_HWC.shape)}")
            yuv = _to_yuv(picture, timing.tick)
            durations[yuv.pts or 0] = yuv.duration or 1
            _mux(container, stream.encode(yuv), durations)
            count, end = count + 1, picture.time + picture.duration
            if lay_sound is not None:
                _lay(lay_sound, float(end))
        _mux(container, stream.encode(None), durations)
        if lay_sound is not None:
            _lay(lay_sound, math.inf)
    except BaseException:
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
            container.close()
        raise
    container.close()
    return _Encoded(count=count, size=(height, width), end=end)


def _mux(
    container: OutputContainer, packets: "list[Packet[VideoStream]]", durations: dict[int, int]
) -> None:
    """Write packets with the durations of their frames, which the encoder forgets."""
    for packet in packets:
        packet.duration = durations.pop(packet.pts or 0, packet.duration or 1)
        container.mux(packet)


def _put_back(first: Picture, rest: Iterator[Picture]) -> Iterator[Picture]:
    """Yield a frame that was taken and then the rest; unlike a chain, this lets go of the first."""
    yield first
    del first
    yield from rest


def _add_video(container: OutputContainer, height: int, width: int, timing: Timing) -> VideoStream:
    """Add an H.264 stream of even sides whose tags say what `_to_yuv` does."""
    rate = timing.fps.limit_denominator(100_000)
    options = dict(_X264_OPTIONS)
    if timing.varies:
        options["bf"] = "0"
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.time_base = stream.codec_context.time_base = timing.tick
    stream.height, stream.width = height, width
    stream.pix_fmt = "yuv420p"
    coder = stream.codec_context
    coder.thread_count = _X264_THREADS
    coder.color_range = ColorRange.MPEG
    coder.colorspace = coder.color_primaries = coder.color_trc = _BT709
    return stream


# Rows: luma, blue and red difference; columns: red, green, blue. bt709 in limited range.
_YUV_OF_RGB = torch.tensor(
    [
        [0.2126 * 219, 0.7152 * 219, 0.0722 * 219],
        [-0.2126 / 1.8556 * 224, -0.7152 / 1.8556 * 224, 0.5 * 224],
        [0.5 * 224, -0.7152 / 1.5748 * 224, -0.0722 / 1.5748 * 224],
    ]
).div(255)


def _to_yuv(picture: Picture, tick: Fraction) -> VideoFrame:
    """Convert a picture to bt709 limited yuv420p of even sides, with its time.

    swscale would put the chroma between two columns, which shifts colours by half a pixel.
    """
    rgb_CHW = _pad_to_even(picture.rgb_HWC).permute(2, 0, 1).float()
    height, width = rgb_CHW.shape[1:]
    luma_HW = torch.tensordot(_YUV_OF_RGB[0], rgb_CHW, 1) + 16
    small_CHW = _halve(rgb_CHW).flatten(1)
    chroma = _YUV_OF_RGB[1:] @ small_CHW + 128
    packed = torch.cat([luma_HW.flatten(), chroma.flatten()]).add_(0.5).to(torch.uint8)
    yuv = VideoFrame.from_ndarray(packed.view(height * 3 // 2, width).numpy(), format="yuv420p")
    yuv.color_range, yuv.colorspace = ColorRange.MPEG, Colorspace.ITU709
    yuv.color_primaries, yuv.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    yuv.pts, yuv.time_base = round(picture.time / tick), tick
    yuv.duration = max(1, round(picture.duration / tick))
    return yuv


def _halve(rgb_CHW: torch.Tensor) -> torch.Tensor:
    """Halve both sides where players look for chroma: on even columns, between rows."""
    rows_CHW = rgb_CHW[:, 0::2] + rgb_CHW[:, 1::2]
    odd_CHW = rows_CHW[:, :, 1::2]
    left_CHW = torch.cat([rows_CHW[:, :, :1], odd_CHW[:, :, :-1]], dim=2)
    return (left_CHW + 2 * rows_CHW[:, :, 0::2] + odd_CHW) / 8


def _lay(lay_sound: Layer, until_s: float) -> None:
    """Write sound up to a moment; a failure is the sound's, unless the disk is full."""
    try:
        lay_sound(until_s)
    except (av.error.FFmpegError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
            raise
        raise _SoundFailedError(str(error)) from error


def _check_whole(part: Path, num_frames: int) -> None:
    """Read the file back: libav does not report every failed write (a full disk, say)."""
    try:
        with av.open(str(part.absolute())) as container:
            stream = container.streams.video[0]
            found = sum(1 for packet in container.demux(stream) if packet.size)
    except (av.error.FFmpegError, IndexError):
        found = 0
    if found != num_frames:
        raise OSError(errno.ENOSPC, f"only {found} of {num_frames} frames arrived; disk full?")
