"""Decode frames one by one, each with its true time.

`decode_frames` is the only loop over packets; it never holds more than two frames. Times count from
the first frame of the stream, so 0.0 is where the picture starts.
"""

from collections.abc import Generator, Iterable, Iterator
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
from dcgrid.video.source import (
    CHECK_HINT,
    DECODE_ERRORS,
    media_streams,
    open_container,
    reading,
    video_stream,
)
from dcgrid.video.stamps import JUMP_S, jumps_before, may_jump, mended_packets

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
    origin_s: float | None = None
    """Time of the first frame on the container's own clock; None: it has no stamp."""
    end_s: float = 0.0
    """End of the last frame taken, in seconds after the first frame."""
    strays: int = 0
    """Frames whose stamps were far ahead of their neighbours' and have been passed over."""
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
        # Theora carries its headers among the pictures; joined files need them read, which FFmpeg
        # can't with several threads.
        is_theora = stream.codec_context.name == "theora"
        stream.codec_context.thread_count = 1 if is_theora else _THREADS
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
    if start_s > 0:
        yield from _from_seek(path, start_s, tally)
        if tally.frames:
            return
    # No seek asked for, or this file cannot seek: from the top.
    with open_container(path) as container:
        stream = video_stream(container, path)
        clock = _Clock(frame_interval_s(stream), tally)
        yield from clock.timed(_raw_frames(container, stream, path, tally))
    if not tally.frames:
        raise InputVideoError(
            f"{path}: there is not one frame in this video that can be decoded.", hint=CHECK_HINT
        )


def _from_seek(path: Path, start_s: float, tally: DecodeTally) -> Iterator[TimedFrame]:
    """Yield frames from the key frame before `start_s`; nothing when the file cannot seek."""
    with open_container(path) as container:
        stream, top = video_stream(container, path), DecodeTally()
        usual_s = frame_interval_s(stream)
        next(_Clock(usual_s, top).timed(_raw_frames(container, stream, path, top)), None)
        if top.origin_s is None or stream.time_base is None:
            return
        if may_jump(container):
            with open_container(path) as again:
                if jumps_before(again, media_streams(again, path), top.origin_s + start_s):
                    return
        try:
            target = int((top.origin_s + start_s) / float(stream.time_base))
            container.seek(target, stream=stream, backward=True)
        except DECODE_ERRORS:
            return
        tally.origin_s = top.origin_s
        is_first = True
        for timed in _Clock(usual_s, tally).timed(_raw_frames(container, stream, path, tally)):
            if is_first and (timed.frame.pts is None or timed.time_s > start_s):
                # The index led past the target: a full decode is slower but right.
                tally.frames, tally.origin_s = 0, None
                return
            is_first = False
            yield timed


def _raw_frames(
    container: InputContainer, stream: VideoStream, path: Path, tally: DecodeTally
) -> Iterator[VideoFrame]:
    """Yield every frame that can be decoded, interlaced ones as whole pictures, and count them."""
    with reading(path):
        for frame in whole_frames(_coded_frames(container, stream, path, tally)):
            tally.frames += 1
            yield frame
        tally.reached_end = True


def _coded_frames(
    container: InputContainer, stream: VideoStream, path: Path, tally: DecodeTally
) -> Iterator[VideoFrame]:
    """Yield every frame as the decoder gives it; damage is counted, not raised."""
    decoder = make_decoder(stream)
    packets = mended_packets(container, media_streams(container, path))
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except DECODE_ERRORS:
            tally.damaged += 1
            return
        # An empty packet with a time repeats the picture before it; only one without is the end.
        is_repeat = not packet.size and packet.dts is not None
        if packet.stream.index != stream.index or is_repeat:
            continue
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

    def __init__(self, interval_s: float, tally: DecodeTally) -> None:
        self._interval_s, self._tally = interval_s, tally
        self._previous_s: float | None = None

    def timed(self, frames: Iterable[VideoFrame]) -> Iterator[TimedFrame]:
        """Yield frames with their times from the origin.

        A frame whose stamp jumps ahead waits for the next one: if that goes back, the stamp was
        wrong. The first of a file always waits, as all times are counted from it.
        """
        waiting: VideoFrame | None = None
        for frame in frames:
            if waiting is not None:
                yield self._place(waiting, frame)
                waiting = None
            if self._has_jumped(frame):
                waiting = frame
            else:
                yield self._place(frame)
        if waiting is not None:
            yield self._place(waiting)

    def _has_jumped(self, frame: VideoFrame) -> bool:
        stamp = _stamp(frame)
        if self._previous_s is None:
            return self._tally.origin_s is None
        return (
            stamp is not None and stamp - (self._tally.origin_s or 0.0) > self._previous_s + JUMP_S
        )

    def _place(self, frame: VideoFrame, after: VideoFrame | None = None) -> TimedFrame:
        """Return a frame with its time; `after` is the next one where this may have jumped."""
        tally, stamp = self._tally, _stamp(frame)
        next_stamp = None if after is None else _stamp(after)
        if stamp is not None and next_stamp is not None and next_stamp < stamp - JUMP_S / 2:
            tally.strays, stamp = tally.strays + 1, None
        if stamp is None and next_stamp is not None and self._previous_s is None:
            stamp = next_stamp - self._interval_s
        if self._previous_s is None and tally.origin_s is None:
            tally.origin_s = stamp
        time_s = None if stamp is None else stamp - (tally.origin_s or 0.0)
        if self._previous_s is not None and (time_s is None or time_s <= self._previous_s):
            time_s = self._previous_s + self._interval_s
        time_s = time_s or 0.0
        self._previous_s = time_s
        shown_s = float((frame.duration or 0) * (frame.time_base or 0))
        tally.end_s = time_s + (shown_s if shown_s > 0 else self._interval_s)
        return TimedFrame(frame=frame, time_s=time_s, end_s=tally.end_s)
