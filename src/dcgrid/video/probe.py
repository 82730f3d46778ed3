"""Find out what a video file is, from its first frame and the stamps of its packets.

Headers lie about length and rate, so both come from the packets; long files are sampled. Which
codecs this build of FFmpeg has stands here, too.
"""

import itertools
import math
import statistics
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dcgrid.errors import InputVideoError
from dcgrid.video import color
from dcgrid.video.clip import SourceInfo
from dcgrid.video.decode import DecodeTally, decode_frames, frame_interval_s
from dcgrid.video.gamut import gamut_lines
from dcgrid.video.source import (
    DECODE_ERRORS,
    audio_stream,
    media_streams,
    open_container,
    reading,
    video_stream,
)
from dcgrid.video.stamps import JUMP_S, may_jump, mended_packets, stray_stamps

# Enough to see the rate and its variation; reading packets costs a fraction of decoding them.
_MOST_PACKETS = 900
# A step between two frames is a pause if it is this many times the usual one.
_PAUSE_STEPS = 20
# A declared length is doubted if the file's size speaks for one that is this many times another.
_DOUBT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stamps:
    """What the packets say about time."""

    count: int
    """Packets seen, from the first that can be decoded on."""
    span_s: float
    """From that packet's time to the end of the last."""
    skipped_s: float
    """Seconds before it, which cannot be decoded."""
    steps_s: tuple[float, ...]
    """Times between neighbours, in order of display."""
    is_whole: bool
    """True: every packet of the file was seen."""
    tick_s: float
    """The finest time that the container can say."""
    jumps_s: tuple[float, ...]
    """Where stamps jumped, in seconds after the first frame; they are mended."""
    strays: int
    """Single frames whose stamps are far ahead of their neighbours'; they are passed over."""
    pause: tuple[float, float] | None
    """Start and length of the longest time with neither a new picture nor sound, in seconds after
    the first frame; None: there is no long one."""


def probe(path: Path | str) -> SourceInfo:
    """Look at a video file without reading all of it.

    Args:
        path: The video file.

    Returns:
        Its facts, with a sentence for each odd one.

    Raises:
        InputVideoError: It is missing, empty, not a video, or has no frame that can be decoded.
    """
    path = Path(path)
    tally = DecodeTally()
    frames = decode_frames(path, tally=tally)
    try:
        first = next(frames).frame
    except StopIteration:  # decode_frames raises before this can happen
        raise InputVideoError(f"{path}: there is no frame in this video.") from None
    finally:
        frames.close()
    with open_container(path) as container, reading(path):
        info = _describe(path, container, first, tally.origin_s)
    if tally.interlaced:
        words = "The file is interlaced; its frames are made whole (bwdif)."
        return replace(info, warnings=(*info.warnings, words))
    return info


def _describe(
    path: Path, container: InputContainer, first: VideoFrame, origin_s: float | None
) -> SourceInfo:
    """Gather the facts of an open file."""
    stream, sound = video_stream(container, path), audio_stream(container)
    stamps = _scan(path, container, stream, origin_s)
    coding, turn = color.frame_coding(first), color.frame_turn(first)
    sar = color.sane_sar(stream.sample_aspect_ratio)
    height, width = color.shown_size(first, sar, turn)
    mean_step = stamps.span_s / stamps.count if stamps.count > 1 else 0.0
    return SourceInfo(
        path=path,
        container=container.format.name,
        codec=stream.codec_context.codec.canonical_name,
        width=width,
        height=height,
        rotation=turn.degrees,
        sar=sar,
        fps_avg=1 / mean_step if mean_step > 0 else 0.0,
        is_vfr=_is_vfr(stamps),
        rate=_exact_rate(stream, stamps),
        time_base=stream.time_base or Fraction(1, 90_000),
        num_frames=stamps.count if stamps.is_whole else None,
        duration_s=_duration_s(container, stream, stamps),
        has_audio=sound is not None,
        audio_codec=sound.codec_context.codec.canonical_name if sound is not None else "",
        color=coding.text,
        has_alpha=color.has_alpha(first),
        origin_s=origin_s or 0.0,
        pause=stamps.pause,
        warnings=_warnings(coding, turn, stream.sample_aspect_ratio)
        + _stamp_warnings(stamps)
        + _length_warning(stream, stamps),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packets:
    """Stamps as they were read, in the order of the file."""

    times_s: Sequence[float]
    """When frames are shown, on the file's clock."""
    last_s: float
    """How long the last one is shown."""
    sound_s: frozenset[int]
    """Whole seconds in which sound begins."""
    jumps_s: tuple[float, ...]
    """Where stamps jumped."""
    strays: int
    """Frames whose stamps were taken away, as they were far off."""
    is_whole: bool
    """True: every packet of the file was seen."""


def _read(
    path: Path, container: InputContainer, stream: VideoStream, origin_s: float | None
) -> _Packets:
    """Read the stamps of the first packets, or of all where those speak against the header."""
    usual_s, tick_s = frame_interval_s(stream), float(stream.time_base or 0)
    times_s, jumps_s, sound_s = array("d"), list[float](), set[int]()
    last_s, is_whole, is_doubtful, end_byte, unstamped = usual_s, False, False, 0, 0
    streams = media_streams(container, path)
    sound_tick_s = float(streams[-1].time_base or 0)
    packets = mended_packets(container, streams, jumps_s)
    while len(times_s) < _MOST_PACKETS or is_doubtful:
        try:
            packet = next(packets, None)
        except DECODE_ERRORS:
            packet = None
        if packet is None:
            is_whole = True
            break
        if not packet.size or packet.is_discard:
            continue
        stamp = packet.pts if packet.pts is not None else packet.dts
        if packet.stream.index != stream.index:
            if stamp is not None:
                sound_s.add(int(stamp * sound_tick_s))
            continue
        unstamped += packet.pts is None and packet.dts is not None
        in_turn_s = times_s[-1] + usual_s if times_s else origin_s or 0.0
        times_s.append(in_turn_s if stamp is None else stamp * tick_s)
        last_s = packet.duration * tick_s if packet.duration else usual_s
        end_byte = max(end_byte, (packet.pos or 0) + packet.size)
        if len(times_s) == _MOST_PACKETS:
            guess_s = _likely_duration_s(container, stream, times_s, end_byte)
            declared_s = _declared_s(container, stream) or guess_s
            ratio = guess_s / declared_s if declared_s > 0 else 1
            is_doubtful = bool(jumps_s) or not 1 / _DOUBT < ratio < _DOUBT
    return _Packets(
        times_s=times_s,
        last_s=last_s,
        sound_s=frozenset(sound_s),
        jumps_s=tuple(jumps_s),
        strays=0 if jumps_s or not may_jump(container) else unstamped,
        is_whole=is_whole,
    )


def _likely_duration_s(
    container: InputContainer, stream: VideoStream, times_s: Sequence[float], end_byte: int
) -> float:
    """Guess the length of a file from its first packets, by the count of frames or its size."""
    seen_s = statistics.median_low([b - a for a, b in itertools.pairwise(sorted(times_s))]) * len(
        times_s
    )
    if stream.frames:
        return seen_s * stream.frames / len(times_s)
    return seen_s * max(1.0, container.size / end_byte)


def _scan(
    path: Path, container: InputContainer, stream: VideoStream, origin_s: float | None
) -> _Stamps:
    """Read stamps, and work out what they say of the frames from the first that decodes on."""
    read, usual_s = _read(path, container, stream, origin_s), frame_interval_s(stream)
    tick_s = float(stream.time_base or 0)
    in_order = sorted(read.times_s)
    all_steps = [b - a for a, b in itertools.pairwise(in_order)]
    step_s = statistics.median(all_steps) if all_steps else usual_s
    jump_s = max(JUMP_S, _PAUSE_STEPS * step_s)
    has_steps = any(step > jump_s for step in all_steps)
    strays = stray_stamps(read.times_s, jump_s) if has_steps else set()
    begin_s = -math.inf if origin_s is None else origin_s - usual_s / 2
    times = sorted(
        time_s
        for place, time_s in enumerate(read.times_s)
        if place not in strays and time_s >= begin_s
    )
    steps = tuple(b - a for a, b in itertools.pairwise(times))
    count = len(times) + len(strays)
    span_s = times[-1] - times[0] + read.last_s if times else 0.0
    if not any(steps):
        span_s = count * usual_s
    pauses = [
        (at + step_s - times[0], step - step_s)
        for at, step in zip(times, (*steps, read.last_s), strict=True)
        if step > jump_s and not _is_heard(read.sound_s, at, at + step)
    ]
    return _Stamps(
        count=count,
        span_s=span_s,
        skipped_s=max(0.0, times[0] - in_order[0]) if times else 0.0,
        steps_s=steps,
        is_whole=read.is_whole,
        tick_s=tick_s,
        jumps_s=tuple(at - times[0] for at in read.jumps_s) if times else (),
        strays=len(strays) + read.strays,
        pause=max(pauses, key=lambda pause: pause[1], default=None),
    )


def _is_heard(sound_s: frozenset[int], begin_s: float, end_s: float) -> bool:
    """Return True if there is sound in most of a time."""
    seconds = range(int(begin_s) + 1, int(end_s))
    return 2 * sum(second in sound_s for second in seconds) > len(seconds)


def _is_vfr(stamps: _Stamps) -> bool:
    """Return True where steps differ by more than rounding to the container's clock explains."""
    if len(stamps.steps_s) < 2:
        return False
    usual = statistics.median(stamps.steps_s)
    slack = max(0.1 * usual, 1.5 * stamps.tick_s)
    return any(abs(step - usual) > slack for step in stamps.steps_s)


def _exact_rate(stream: VideoStream, stamps: _Stamps) -> Fraction | None:
    """Return the declared rate on whose grid all stamps lie, up to rounding to the clock."""
    times = list(itertools.accumulate(stamps.steps_s, initial=0.0))
    for rate in (stream.guessed_rate, stream.average_rate):
        if not rate or not 0.01 <= rate <= 1000:
            continue
        slack_s = min(1.01 * stamps.tick_s, float(0.25 / rate))
        places = [round(time * rate) for time in times]
        near = (abs(t - p / rate) <= slack_s for t, p in zip(times, places, strict=True))
        if all(near) and all(a < b for a, b in itertools.pairwise(places)):
            return Fraction(rate)
    return None


def _duration_s(container: InputContainer, stream: VideoStream, stamps: _Stamps) -> float | None:
    """Return the seconds of video: measured where all packets were seen, else as declared."""
    if stamps.is_whole:
        return stamps.span_s or None
    declared_s = _declared_s(container, stream)
    return None if declared_s is None else max(declared_s - stamps.skipped_s, stamps.span_s)


def _declared_s(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the seconds that the header states; None: it does not."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _warnings(coding: color.Coding, turn: color.Turn, sar: Fraction | None) -> tuple[str, ...]:
    """Say what is odd about the picture."""
    found = []
    if coding.is_guessed and not coding.is_rgb:
        name = coding.text.split()[0]
        found.append(f"The file does not say its colour matrix; {name} is taken (by its height).")
    if coding.hdr:
        found.append(f"The file is HDR ({coding.hdr}); it is brought to standard range.")
    else:
        found.extend(gamut_lines(coding.primaries, coding.transfer))
    if not turn.is_exact:
        found.append("The file asks for a slanted rotation; the nearest quarter turn is taken.")
    if sar and color.sane_sar(sar) != sar:
        found.append(f"The file's pixel shape {sar} is absurd; square pixels are taken.")
    return tuple(found)


def _stamp_warnings(stamps: _Stamps) -> tuple[str, ...]:
    """Say what is odd about the time stamps, and what is done about it."""
    found = []
    if stamps.skipped_s > 0.1:
        found.append(
            f"The first {stamps.skipped_s:.2f} s of the file cannot be decoded: it begins between "
            "key frames. Times count from the first picture."
        )
    if stamps.jumps_s:
        first, more = max(0.0, stamps.jumps_s[0]), len(stamps.jumps_s) - 1
        others = f" and {more} more time{'s' * (more > 1)}" if more else ""
        found.append(
            f"The time stamps jump at {first:.2f} s{others}; picture and sound go on there without "
            "a gap, as FFmpeg plays them."
        )
    if stamps.strays:
        words = "1 time stamp is" if stamps.strays == 1 else f"{stamps.strays} time stamps are"
        found.append(f"{words} far ahead of those around; such a frame is shown in its turn.")
    if stamps.pause:
        at, length = stamps.pause
        found.append(f"From {at:.2f} s on no new picture and no sound comes for {length:.2f} s.")
    return tuple(found)


def _length_warning(stream: VideoStream, stamps: _Stamps) -> tuple[str, ...]:
    """Say it when a file holds clearly less video than it declares."""
    if not (stamps.is_whole and stream.duration and stream.time_base):
        return ()
    declared_s = float(stream.duration * stream.time_base) - stamps.skipped_s
    if stamps.jumps_s or stamps.strays or declared_s < stamps.span_s + 0.5:
        return ()
    return (f"The file ends early: {stamps.span_s:.2f} s of {declared_s:.2f} s are there.",)


_DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "gif", "theora")
_ENCODERS = ("libx264", "libx264rgb", "aac", "png")


def codec_support() -> dict[str, dict[str, bool]]:
    """Return, under "decode" and "encode", whether each codec that matters here is present."""
    return {
        "decode": {name: _has(name, "r") for name in _DECODERS},
        "encode": {name: _has(name, "w") for name in _ENCODERS},
    }


def _has(name: str, mode: Literal["r", "w"]) -> bool:
    try:
        av.Codec(name, mode)
    except ValueError:
        return False
    return True
