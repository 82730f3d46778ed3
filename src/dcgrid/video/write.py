"""Write a clip as an MP4 that plays everywhere, with the sound of its source.

H.264, yuv420p, tagged and converted as bt709 limited, index at the front. Files appear whole or not
at all: a temporary name in the same folder, checked, then renamed.
"""

import contextlib
import errno
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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

from dcgrid.errors import OutputError
from dcgrid.video.clip import SoundSource
from dcgrid.video.sound import Layer, SoundTrack, open_sound

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
    path = Path(path)
    _check_frames(frames_THWC)
    rate = Fraction(fps).limit_denominator(100_000)
    even_THWC, notes = _pad_to_even(frames_THWC)
    with whole_file(path, overwrite=overwrite) as part, ExitStack() as stack:
        track = None if sound is None else stack.enter_context(open_sound(sound))
        if track is not None:
            notes.extend(track.notes)
        try:
            _encode(part, even_THWC, rate, track, comment)
        except _SoundFailedError as error:
            notes.append(f"The sound is left out: it could not be written ({error}).")
            track = None
            _encode(part, even_THWC, rate, None, comment)
        _check_whole(part, len(even_THWC))
    return WriteReport(
        path=path,
        num_frames=len(even_THWC),
        width=even_THWC.shape[2],
        height=even_THWC.shape[1],
        fps=rate,
        sound="none" if track is None else track.mode,
        notes=tuple(notes),
    )


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
    """
    rate_in, rate_out = Fraction(fps_in), Fraction(fps_out)
    if rate_in <= 0 or rate_out <= 0 or len(frames_THWC) == 0:
        raise ValueError(f"cannot resample {len(frames_THWC)} frames from {fps_in} to {fps_out}")
    seconds = len(frames_THWC) / rate_in if duration_s is None else Fraction(duration_s)
    count = max(1, math.floor(seconds * rate_out + Fraction(1, 2)))
    last = len(frames_THWC) - 1
    # The frame on display in the middle of each new frame: no drift, no frame early.
    picks = [min(last, math.floor((i + Fraction(1, 2)) / rate_out * rate_in)) for i in range(count)]
    return frames_THWC[torch.tensor(picks)]


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it at the end, or leave nothing.

    Yields:
        A path with the same suffix in the same folder.

    Raises:
        OutputError: The folder is missing or read-only, the file exists, or the disk is full.
    """
    part = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        _check_place(path, overwrite=overwrite)
        yield part
        os.replace(part, path)
    except (av.error.FFmpegError, OSError) as error:
        raise _output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _check_place(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError where a file cannot go, before any work is done."""
    if path.is_dir():
        raise OutputError(f"{path}: this is a directory.", hint="Name a file in it.")
    if not path.parent.is_dir():
        raise OutputError(
            f"{path}: the folder {path.parent} does not exist.",
            hint=f"Try `mkdir -p {path.parent}`.",
        )
    # stat, not exists(): a name that is too long must be an error here.
    with contextlib.suppress(FileNotFoundError):
        path.stat()
        if not overwrite:
            raise OutputError(f"{path}: this file exists.", hint="Add --force to replace it.")


def _output_error(path: Path, error: OSError | av.error.FFmpegError) -> OutputError:
    """Turn an error of the file system into a sentence."""
    reason = error.strerror or "unknown error"
    hints = {
        errno.ENOSPC: f"Free some space: `df -h {path.parent}`.",
        errno.EACCES: f"Choose another place with --out; see `ls -ld {path.parent}`.",
        errno.EROFS: "Choose another place with --out; this disk is read-only.",
        errno.ENAMETOOLONG: "Choose a shorter name with --out.",
    }
    hint = hints.get(error.errno or 0, "Choose another place with --out.")
    return OutputError(f"{path}: this file cannot be written ({reason.lower()}).", hint=hint)


def _check_frames(frames_THWC: torch.Tensor) -> None:
    if frames_THWC.dtype != torch.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3:
        raise ValueError(f"frames must be uint8 THWC, not {frames_THWC.dtype} {frames_THWC.shape}")
    if 0 in frames_THWC.shape:
        raise ValueError("there is no frame to write")


def _pad_to_even(frames_THWC: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
    """Repeat the last row or column where a side is odd; yuv420p needs even sides."""
    height, width = frames_THWC.shape[1:3]
    if height % 2 == 0 and width % 2 == 0:
        return frames_THWC, []
    if height % 2:
        frames_THWC = torch.cat([frames_THWC, frames_THWC[:, -1:]], 1)
    if width % 2:
        frames_THWC = torch.cat([frames_THWC, frames_THWC[:, :, -1:]], 2)
    even = f"{frames_THWC.shape[2]}x{frames_THWC.shape[1]}"
    return frames_THWC, [f"Padded from {width}x{height} to {even}: H.264 needs even sides."]


def _encode(
    part: Path, frames_THWC: torch.Tensor, rate: Fraction, track: SoundTrack | None, comment: str
) -> None:
    """Write one MP4 file; sound packets are laid between the frames they belong to."""
    container = av.open(str(part.absolute()), "w", options={"movflags": "+faststart"})
    try:
        if comment:
            container.metadata["comment"] = comment
        stream = _add_video(container, frames_THWC, rate)
        lay_sound = None
        if track is not None:
            try:
                lay_sound = track.attach(container)
            except (av.error.FFmpegError, ValueError) as error:
                raise _SoundFailedError(str(error)) from error
        for index, frame_HWC in enumerate(frames_THWC):
            container.mux(stream.encode(_to_yuv(frame_HWC, index, rate)))
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


def _add_video(
    container: OutputContainer, frames_THWC: torch.Tensor, rate: Fraction
) -> VideoStream:
    """Add an H.264 stream whose tags say what `_to_yuv` does."""
    stream = container.add_stream("libx264", rate=rate, options=dict(_X264_OPTIONS))
    stream.height, stream.width = frames_THWC.shape[1:3]
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
