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

import av
import av.error
import torch
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream

from dcgrid.video.clip import SoundSource
from dcgrid.video.resample import resample_frames
from dcgrid.video.sound import Layer, SoundTrack, open_sound
from dcgrid.video.whole import whole_file

__all__ = ["WriteReport", "resample_frames", "write_pieces", "write_video"]

_BT709 = 1  # the code of bt709 for matrix, primaries and transfer alike
# The same pixels must give the same file. With x264's macroblock tree they do not (measured with
# noise: 5 files of 40 runs on one machine, 1 thread or 4), nor with code chosen by processor.
_X264_OPTIONS = {
    "crf": "16",
    "preset": "medium",
    "x264-params": "mbtree=0:cpu-independent=1",
}
# Fixed, because x264's output depends on it.
_X264_THREADS = 4


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
    """Frames per second."""
    sound: str
    """"copied", "transcoded" or "none"."""
    notes: tuple[str, ...] = ()
    """Sentences about what was changed or left out."""

    @property
    def duration_s(self) -> float:
        """Seconds of video."""
        return float(self.num_frames / self.fps)


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
    path = Path(path)
    rate = Fraction(fps).limit_denominator(100_000)
    notes: list[str] = []
    with whole_file(path, overwrite=overwrite) as part, ExitStack() as stack:
        track = None if sound is None else stack.enter_context(open_sound(sound))
        if track is not None:
            notes.extend(track.notes)
        try:
            size = _encode(part, _frames(pieces(), num_frames), rate, track, comment)
        except _SoundFailedError as error:
            notes.append(f"The sound is left out: it could not be written ({error}).")
            track = None
            size = _encode(part, _frames(pieces(), num_frames), rate, None, comment)
        _check_whole(part, num_frames)
    height, width = (side + side % 2 for side in size)
    if (height, width) != size:
        padded = f"Padded from {size[1]}x{size[0]} to {width}x{height}: H.264 needs even sides."
        notes.insert(0, padded)
    return WriteReport(
        path=path,
        num_frames=num_frames,
        width=width,
        height=height,
        fps=rate,
        sound="none" if track is None else track.mode,
        notes=tuple(notes),
    )


def _frames(pieces: Iterable[torch.Tensor], num_frames: int) -> Iterator[torch.Tensor]:
    """Yield the frames (H, W, 3) of all pieces, checking what was promised about them."""
    count, shape = 0, None
    for piece_THWC in pieces:
        _check_frames(piece_THWC)
        shape = piece_THWC.shape[1:] if shape is None else shape
        if piece_THWC.shape[1:] != shape:
            raise ValueError(f"pieces of {tuple(shape)} and {tuple(piece_THWC.shape[1:])}")
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


def _encode(
    part: Path,
    frames: Iterator[torch.Tensor],
    rate: Fraction,
    track: SoundTrack | None,
    comment: str,
) -> tuple[int, int]:
    """Write one MP4 file; sound packets are laid between the frames they belong to.

    Returns:
        Height and width of the frames as they came.
    """
    first_HWC = next(frames)  # the file's header needs the size
    height, width = first_HWC.shape[:2]
    frames = _put_back(first_HWC, frames)
    del first_HWC  # or its piece would stay in memory until the end
    container = av.open(str(part.absolute()), "w", options={"movflags": "+faststart"})
    try:
        if comment:
            container.metadata["comment"] = comment
        stream = _add_video(container, height + height % 2, width + width % 2, rate)
        lay_sound = None
        if track is not None:
            try:
                lay_sound = track.attach(container)
            except (av.error.FFmpegError, ValueError) as error:
                raise _SoundFailedError(str(error)) from error
        for index, frame_HWC in enumerate(frames):
            container.mux(stream.encode(_to_yuv(_pad_to_even(frame_HWC), index, rate)))
            if lay_sound is not None:
                _lay(lay_sound, float((index + 1) / rate))
        container.mux(stream.encode(None))
        if lay_sound is not None:
            _lay(lay_sound, math.inf)
    except BaseException:
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
            container.close()
        raise
    container.close()
    return height, width


def _put_back(first_HWC: torch.Tensor, rest: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield a frame that was taken and then the rest; unlike a chain, this lets go of the first."""
    yield first_HWC
    del first_HWC
    yield from rest


def _add_video(container: OutputContainer, height: int, width: int, rate: Fraction) -> VideoStream:
    """Add an H.264 stream of even sides whose tags say what `_to_yuv` does."""
    stream = container.add_stream("libx264", rate=rate, options=dict(_X264_OPTIONS))
    stream.height, stream.width = height, width
    stream.pix_fmt = "yuv420p"
    coder = stream.codec_context
    coder.thread_count = _X264_THREADS
    coder.color_range = ColorRange.MPEG
    coder.colorspace = coder.color_primaries = coder.color_trc = _BT709
    return stream


def _to_yuv(frame_HWC: torch.Tensor, index: int, rate: Fraction) -> VideoFrame:
    """Convert one RGB picture of shape (H, W, 3) to bt709 limited yuv420p with its time."""
    rgb = VideoFrame.from_ndarray(frame_HWC.contiguous().numpy(), format="rgb24")
    full_chroma = rgb.reformat(
        format="yuv444p16le",  # rounded once, after the chroma is halved
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_colorspace=Colorspace.ITU709,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
        threads=1,
    )
    luma_HW, *chroma = torch.from_numpy(full_chroma.to_ndarray().astype("int32")).unbind(-1)
    planes = [(luma_HW + 128) // 256, *(_halve_chroma(plane_HW) for plane_HW in chroma)]
    packed = torch.cat([plane.flatten() for plane in planes]).to(torch.uint8)
    packed = packed.reshape(-1, frame_HWC.shape[1])
    yuv = VideoFrame.from_ndarray(packed.numpy(), format="yuv420p")
    yuv.color_range, yuv.colorspace = ColorRange.MPEG, Colorspace.ITU709
    yuv.color_primaries, yuv.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    yuv.pts, yuv.time_base, yuv.duration = index, 1 / rate, 1
    return yuv


def _halve_chroma(plane_HW: torch.Tensor) -> torch.Tensor:
    """Halve a 16-bit plane to 8 bits where players look for it: even columns, between rows.

    swscale would put it between two columns, which shifts colours by half a pixel.
    """
    rows_HW = plane_HW[0::2] + plane_HW[1::2]
    left_HW = torch.cat([rows_HW[:, :1], rows_HW[:, 1:-1:2]], dim=1)
    sums_HW = left_HW + 2 * rows_HW[:, 0::2] + rows_HW[:, 1::2]
    return (sums_HW + 1024) // 2048  # 8 samples of 16 bits


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
