"""Parts: pieces of a long clip kept on disk without any loss, until the whole is put together.

H.264 in its lossless RGB mode in a Matroska file. The length and the SHA-256 of the pixels stand in
the header, so a part is either exactly what was written or it is refused.
"""

import errno
import hashlib
from fractions import Fraction
from pathlib import Path

import av
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dcgrid.errors import InputVideoError
from dcgrid.io.atomic import whole_file
from dcgrid.video.source import open_container, reading, video_stream

_TAG = "DCGRID_PART"
# qp 0 is x264's lossless mode. Measured on 33 real frames, against FFV1 (bgr0, long groups): at
# 192x320 50 to 94 % of its size, at 704x1280 (scaled up, so smooth) 155 to 176 %; written 3 to 6
# times and read 2 to 5 times as fast. Slower presets gain 10 to 20 % and cost all of that.
_CODEC = "libx264rgb"
_OPTIONS = {"qp": "0", "preset": "ultrafast"}
# A part has no rate of its own, but the file needs one.
_RATE = Fraction(25)


def write_part(path: Path | str, frames_THWC: torch.Tensor, *, overwrite: bool = False) -> None:
    """Write frames to a file that keeps each pixel as it is.

    The file is read back before it gets its name: a part that is there is whole.

    Args:
        path: The file to make, Matroska whatever its suffix; its folder must exist.
        frames_THWC: RGB, uint8, shape (T, H, W, 3), T >= 1, on the CPU.
        overwrite: Replace an existing file.

    Raises:
        OutputError: The folder is missing or read-only, the file exists, or the disk is full.
        ValueError: Frames of another shape or type.
    """
    if frames_THWC.dtype != torch.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3:
        raise ValueError(f"frames must be uint8 THWC, not {frames_THWC.dtype} {frames_THWC.shape}")
    if 0 in frames_THWC.shape:
        raise ValueError("there is no frame to write")
    with whole_file(Path(path), overwrite=overwrite) as part:
        _encode(part, frames_THWC)
        try:
            read_part(part)
        except InputVideoError as error:  # libav does not report every failed write
            raise OSError(errno.ENOSPC, "not all of it arrived; disk full?") from error


def read_part(path: Path | str) -> torch.Tensor:
    """Read what `write_part` wrote.

    Args:
        path: The file.

    Returns:
        RGB, uint8, shape (T, H, W, 3): the very pixels that were written.

    Raises:
        InputVideoError: The file is missing, cut short, damaged, or no part at all.
    """
    path = Path(path)
    frames: list[torch.Tensor] = []
    with open_container(path) as container:
        with reading(path):
            seal = container.metadata.get(_TAG)
        if seal is None:
            raise InputVideoError(
                f"{path}: this is not a part of a clip that dcgrid has kept.",
                hint="Name a file that dcgrid made.",
            )
        stream = video_stream(container, path)
        with reading(path):
            frames.extend(
                torch.from_numpy(frame.to_ndarray(format="rgb24"))
                for frame in container.decode(stream)
            )
    if len({frame_HWC.shape for frame_HWC in frames}) != 1 or _seal(frames) != seal:
        raise InputVideoError(
            f"{path}: this part of a clip is cut short or damaged.",
            hint=f"Delete it, and it will be made again: `rm {path}`.",
        )
    return torch.stack(frames)


def _encode(part: Path, frames_THWC: torch.Tensor) -> None:
    """Write one file; its seal stands in the header, before the frames."""
    with av.open(str(part.absolute()), "w", format="matroska") as container:
        container.metadata[_TAG] = _seal(frames_THWC)
        stream = container.add_stream(_CODEC, rate=_RATE, options=dict(_OPTIONS))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "rgb24"
        for index, frame_HWC in enumerate(frames_THWC):
            frame = VideoFrame.from_ndarray(frame_HWC.contiguous().numpy(), format="rgb24")
            frame.pts, frame.time_base = index, 1 / _RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _seal(frames: torch.Tensor | list[torch.Tensor]) -> str:
    """Return the shape (T, H, W) and the SHA-256 of frames, as one line."""
    digest = hashlib.sha256()
    for frame_HWC in frames:
        digest.update(frame_HWC.contiguous().numpy().data)
    height, width = frames[0].shape[:2]
    return f"1 {len(frames)}x{height}x{width} {digest.hexdigest()}"
