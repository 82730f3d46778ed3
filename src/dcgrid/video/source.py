"""Open a video file, and turn whatever libav throws into one sentence.

The only file that knows libav's exceptions while reading; decode.py builds on it.
"""

import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import av
import av.error
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from dcgrid.errors import InputVideoError
from dcgrid.io.text import as_typed, missing_hint

CHECK_HINT = "Check it with `ffprobe FILE`, or play it; if it plays, convert it to MP4 (H.264)."

# libav reports damage through its own errors and, where PyAV touches fields of a damaged file,
# through these plain ones.
DECODE_ERRORS = (
    av.error.FFmpegError,
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    LookupError,
    StopIteration,
    RuntimeError,
    NotImplementedError,
)

# Demuxers that read any text file as if it were a film.
_TEXT_CODECS = frozenset({"ansi", "bintext", "xbin", "idf"})


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn every error of libav in the body into an InputVideoError that names `path`.

    Raises:
        InputVideoError: Instead of whatever the body raised.
    """
    try:
        yield
    except MemoryError as error:
        raise InputVideoError(
            f"{path}: there is not enough memory to decode this video.",
            hint="Scale it down first: `ffmpeg -i FILE -vf scale=1280:-2 smaller.mp4`.",
        ) from error
    except av.error.PermissionError as error:
        raise _unreadable(path) from error
    except DECODE_ERRORS as error:
        raise InputVideoError(
            f"{path}: this is not a video that can be read ({reason(error)}).", hint=CHECK_HINT
        ) from error


def reason(error: BaseException) -> str:
    """Return in a few words what libav complained about."""
    if isinstance(error, av.error.FFmpegError):
        return str(error.strerror or "unknown error").lower()
    return "the file is damaged"


def check_file(path: Path) -> None:
    """Check that `path` is a readable, regular file with something in it.

    Raises:
        InputVideoError: It is missing, a directory, a device, empty or unreadable.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            path.open("rb").close()
    except PermissionError as error:
        raise _unreadable(path) from error
    except OSError as error:
        raise InputVideoError(
            f"{as_typed(path)}: there is no such file ({(error.strerror or 'unknown').lower()}).",
            hint=missing_hint(path),
        ) from error
    except ValueError as error:
        raise InputVideoError(
            f"{path!s:.200}: this is not a file name.", hint="Give the name of a video file."
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputVideoError(
            f"{path}: this is a directory, not a video.", hint="Name a file in it."
        )
    if not stat.S_ISREG(status.st_mode):
        raise InputVideoError(
            f"{path}: this is not a regular file.", hint="Save it to a file first."
        )
    if status.st_size == 0:
        raise InputVideoError(f"{path}: this file is empty (0 bytes).", hint="Copy it again.")
    _refuse_animated_webp(path)


def _refuse_animated_webp(path: Path) -> None:
    """Refuse what FFmpeg has no decoder for, with a way to what it can read.

    The header is RIFF, a size, WEBPVP8X, a size and flags, of which the second bit is animation.
    """
    with path.open("rb") as file:
        head = file.read(21)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20:] and head[20] & 2:
        made = path.with_suffix(".apng.png")
        opened = f"Image.open({str(path)!r})"
        code = f"from PIL import Image; {opened}.save({str(made)!r}, save_all=True)"
        raise InputVideoError(
            f"{path}: animated WebP cannot be decoded.",
            hint=f"Make an animated PNG of it: `python -c {shlex.quote(code)}`.",
        )


def _unreadable(path: Path) -> InputVideoError:
    return InputVideoError(
        f"{path}: this file may not be read (permission denied).", hint="Check its permissions."
    )


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open a media file for reading and close it at the end.

    Raises:
        InputVideoError: The file cannot be opened as media.
    """
    check_file(path)
    with reading(path):
        # An absolute path is never taken for a protocol ("concat:", "http:"), and the
        # whitelist keeps playlists from reaching the network.
        container = av.open(
            str(path.absolute()),
            metadata_errors="replace",
            options={"protocol_whitelist": "file"},
        )
    try:
        yield container
    finally:
        container.close()


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the stream that ffmpeg would show: the best one that is not a cover picture.

    Raises:
        InputVideoError: There is no video stream, or no decoder for it.
    """
    with reading(path):
        best = container.streams.best("video")
        # The cover picture of a music file is a stream, too.
        cover = av.stream.Disposition.attached_pic
        moving = [s for s in container.streams.video if not s.disposition & cover]
    if not moving:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "no stream at all"
        raise InputVideoError(
            f"{path}: there is no video in this file, only {kinds}.",
            hint="Give a file with a picture.",
        )
    stream = best if best in moving and isinstance(best, VideoStream) else moving[0]
    with reading(path):
        if stream.codec_context is None or stream.codec_context.name in _TEXT_CODECS:
            raise InputVideoError(
                f"{path}: this is not a video, or its codec is unknown.", hint=CHECK_HINT
            )
    return stream


def audio_stream(container: InputContainer) -> AudioStream | None:
    """Return the stream that ffmpeg would play; None: no sound, or none that can be decoded."""
    best = container.streams.best("audio")
    if not isinstance(best, AudioStream):
        return None
    # PyAV's types leave it out, but an unknown codec has no context.
    context = cast("AudioCodecContext | None", best.codec_context)
    return None if context is None else best


def media_streams(container: InputContainer, path: Path) -> list[VideoStream | AudioStream]:
    """Return the picture, and the sound that is played with it if there is any.

    Raises:
        InputVideoError: There is no video stream, or no decoder for it.
    """
    sound = audio_stream(container)
    return [video_stream(container, path), *([] if sound is None else [sound])]
