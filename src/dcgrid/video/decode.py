"""Decode frames one by one, each with its true time.

`decode_frames` is the only loop over packets; it never holds more than one frame. Times count from
the first frame of the stream, so 0.0 is where the picture starts.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dcgrid.errors import InputVideoError
from dcgrid.video.deinterlace import whole_frames
from dcgrid.video.source import CHECK_HINT, DECODE_ERRORS, open_container, reading, video_stream

# Native decoders drop the alpha layer of VP8 and VP9; libvpx keeps it.
_ALPHA_DECODERS = {"vp9": "libvpx-vp9", "vp8": "libvpx"}
_GUESSED_RATE = Fraction(25)
# Each thread holds a frame or two of its own: 8K on 64 cores must not fill the memory.
_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedFrame:
    """A decoded frame and when it is on display."""

    frame: VideoFrame
    """As the decoder gave it (interlaced ones made whole): not rotated, any pixel format."""
    time_s: float
    """Seconds after the first frame of the stream."""
    end_s: float
    """When the next frame is due."""


@dataclass(slots=True, kw_only=True)
class DecodeTally:
    """What a decoding run met; filled in while frames are taken."""

    frames: int = 0
    """Frames decoded, those before the start included."""
    damaged: int = 0
    """Packets that could not be decoded."""
    origin_s: float = 0.0
    """Time of the first frame on the container's own clock."""
    end_s: float = 0.0
    """End of the last frame taken, in seconds after the first frame."""
    interlaced: bool = False
    """True: a frame was interlaced and has been made whole."""
    reached_end: bool = False
    """True: the file was read to its end."""


def frame_interval_s(stream: VideoStream) -> float:
    """Return the usual time between two frames, for files that do not stamp them."""
    for rate in (stream.guessed_rate, stream.average_rate, _GUESSED_RATE):
        if rate and 0.01 <= rate <= 1000:
            return float(1 / rate)
    return float(1 / _GUESSED_RATE)


def make_decoder(stream: VideoStream) -> VideoCodecContext:
    """Return the stream's decoder, or one that keeps transparency where the stream has it."""
    name = _ALPHA_DECODERS.get(stream.codec_context.codec.canonical_name)
    if name and stream.metadata.get("alpha_mode") == "1" and name in av.codecs_available:
        decoder = av.CodecContext.create(name, "r")
        assert isinstance(decoder, VideoCodecContext)
        if stream.codec_context.extradata:
            decoder.extradata = stream.codec_context.extradata
        return decoder
    if not stream.codec_context.is_open:
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = _THREADS
    return stream.codec_context


def decode_frames(
    path: Path, *, start_s: float = 0.0, tally: DecodeTally | None = None
) -> Generator[TimedFrame, None, None]:
    """Decode a file from the frame on display at `start_s` (or one before it) to its end.

    Args:
        path: The video file.
        start_s: Seconds after the first frame.
        tally: Filled in along the way.

    Yields:
        Frames with strictly growing times.

    Raises:
        InputVideoError: The file cannot be read or has no frame.
    """
    tally = tally if tally is not None else DecodeTally()
    with open_container(path) as container:
        stream = video_stream(container, path)
        clock = _Clock(frame_interval_s(stream))
        if start_s > 0:
            yield from _from_seek(container, stream, path, clock, start_s, tally)
            if tally.frames:
                return
            clock.previous_s = None
    # No seek asked for, or this file cannot seek: from the top.
    with open_container(path) as container:
        stream = video_stream(container, path)
        for frame in _raw_frames(container, stream, path, tally):
            if clock.origin_s is None:
                clock.origin_s = tally.origin_s = _stamp(frame) or 0.0
            yield clock.place(frame, tally)
    if not tally.frames:
        raise InputVideoError(
            f"{path}: there is not one frame in this video that can be decoded.", hint=CHECK_HINT
        )


def _from_seek(
    container: InputContainer,
    stream: VideoStream,
    path: Path,
    clock: "_Clock",
    start_s: float,
    tally: DecodeTally,
) -> Iterator[TimedFrame]:
    """Yield frames from the key frame before `start_s`; nothing when the file cannot seek."""
    first = next(_raw_frames(container, stream, path, DecodeTally()), None)
    origin_s = None if first is None else _stamp(first)
    if origin_s is None or stream.time_base is None:
        return
    clock.origin_s = tally.origin_s = origin_s
    try:
        target = int((origin_s + start_s) / float(stream.time_base))
        container.seek(target, stream=stream, backward=True)
    except DECODE_ERRORS:
        return
    for frame in _raw_frames(container, stream, path, tally):
        stamp = _stamp(frame)
        if tally.frames == 1 and (stamp is None or stamp - origin_s > start_s):
            # The index led past the target: a full decode is slower but right.
            tally.frames = 0
            return
        yield clock.place(frame, tally)


def _raw_frames(
    container: InputContainer, stream: VideoStream, path: Path, tally: DecodeTally
) -> Iterator[VideoFrame]:
    """Yield every frame that can be decoded, interlaced ones as whole pictures, and count them."""
    with reading(path):
        for frame in whole_frames(_coded_frames(container, stream, tally)):
            tally.frames += 1
            yield frame
        tally.reached_end = True


def _coded_frames(
    container: InputContainer, stream: VideoStream, tally: DecodeTally
) -> Iterator[VideoFrame]:
    """Yield every frame as the decoder gives it; damage is counted, not raised."""
    decoder = make_decoder(stream)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except DECODE_ERRORS:
            tally.damaged += 1
            return
        try:
            frames = decoder.decode(packet if packet.size else None)
        except av.error.EOFError:
            return
        except DECODE_ERRORS:
            tally.damaged += 1
            continue
        for frame in frames:
            if not frame.time_base and stream.time_base:  # frames flushed at the end
                frame.time_base = stream.time_base
            tally.interlaced |= bool(frame.interlaced_frame)
            yield frame


def _stamp(frame: VideoFrame) -> float | None:
    """Return the frame's time on the container's clock in seconds, None when it has none."""
    if frame.pts is None or not frame.time_base:
        return None
    return float(frame.pts * frame.time_base)


class _Clock:
    """Gives each frame its time; counts where the file's own stamps are missing or run back."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.origin_s: float | None = None
        self.previous_s: float | None = None

    def place(self, frame: VideoFrame, tally: DecodeTally) -> TimedFrame:
        """Return the frame with its time from the origin."""
        stamp = _stamp(frame)
        time_s = None if stamp is None else stamp - (self.origin_s or 0.0)
        if self.previous_s is not None and (time_s is None or time_s <= self.previous_s):
            time_s = self.previous_s + self.interval_s
        time_s = time_s or 0.0
        self.previous_s = time_s
        shown_s = float((frame.duration or 0) * (frame.time_base or 0))
        tally.end_s = time_s + (shown_s if shown_s > 0 else self.interval_s)
        return TimedFrame(frame=frame, time_s=time_s, end_s=tally.end_s)
