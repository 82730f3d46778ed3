"""Find out what a video file is, from its first frame and the stamps of its packets.

Headers lie about length and rate, so both come from the packets; long files are sampled.
"""

import itertools
import statistics
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dcgrid.errors import InputVideoError
from dcgrid.video import color
from dcgrid.video.clip import SourceInfo
from dcgrid.video.decode import DecodeTally, decode_frames, frame_interval_s
from dcgrid.video.source import DECODE_ERRORS, audio_stream, open_container, reading, video_stream

# Enough to see the rate and its variation; reading packets costs a fraction of decoding them.
_MOST_PACKETS = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stamps:
    """What the packets say about time."""

    count: int
    """Packets seen."""
    span_s: float
    """From the first packet's time to the end of the last."""
    steps_s: tuple[float, ...]
    """Times between neighbours, in order of display."""
    is_whole: bool
    """True: every packet of the file was seen."""
    tick_s: float
    """The finest time that the container can say."""


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
    with open_container(path) as container:
        stream = video_stream(container, path)
        with reading(path):
            info = _describe(path, container, stream, first)
    if tally.interlaced:
        told = "The file is interlaced; its frames are made whole (bwdif)."
        return replace(info, warnings=(*info.warnings, told))
    return info


def _describe(
    path: Path, container: InputContainer, stream: VideoStream, first: VideoFrame
) -> SourceInfo:
    """Gather the facts of an open file."""
    stamps = _scan(container, stream)
    coding, turn = color.frame_coding(first), color.frame_turn(first)
    sar = color.sane_sar(stream.sample_aspect_ratio)
    height, width = color.shown_size(first, sar, turn)
    sound = audio_stream(container)
    origin = 0.0 if first.pts is None else float(first.pts * (first.time_base or 0))
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
        origin_s=origin,
        warnings=_warnings(coding, turn, stream.sample_aspect_ratio)
        + _length_warning(stream, stamps),
    )


def _scan(container: InputContainer, stream: VideoStream) -> _Stamps:
    """Read the stamps of the first packets."""
    usual_s, tick_s = frame_interval_s(stream), float(stream.time_base or 0)
    times: list[float] = []
    last_s, whole = usual_s, False
    packets = container.demux(stream)
    while len(times) < _MOST_PACKETS:
        try:
            packet = next(packets, None)
        except DECODE_ERRORS:
            packet = None
        if packet is None:
            whole = True
            break
        if not packet.size or packet.is_discard:
            continue
        stamp = packet.pts if packet.pts is not None else packet.dts
        times.append(len(times) * usual_s if stamp is None else stamp * tick_s)
        last_s = packet.duration * tick_s if packet.duration else usual_s
    times.sort()
    steps = tuple(b - a for a, b in itertools.pairwise(times))
    span_s = times[-1] - times[0] + last_s if times else 0.0
    if not any(steps):
        span_s = len(times) * usual_s
    return _Stamps(count=len(times), span_s=span_s, steps_s=steps, is_whole=whole, tick_s=tick_s)


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
    if stream.duration and stream.time_base:
        return max(float(stream.duration * stream.time_base), stamps.span_s)
    if container.duration:
        return max(container.duration / 1e6, stamps.span_s)
    return None


def _warnings(coding: color.Coding, turn: color.Turn, sar: Fraction | None) -> tuple[str, ...]:
    """Say what is odd about the picture."""
    found = []
    if coding.is_guessed and not coding.is_rgb:
        name = coding.text.split()[0]
        found.append(f"The file does not say its colour matrix; {name} is taken (by its height).")
    if coding.hdr:
        found.append(f"The file is HDR ({coding.hdr}); it is brought to standard range.")
    if not turn.is_exact:
        found.append("The file asks for a slanted rotation; the nearest quarter turn is taken.")
    if sar and color.sane_sar(sar) != sar:
        found.append(f"The file's pixel shape {sar} is absurd; square pixels are taken.")
    return tuple(found)


def _length_warning(stream: VideoStream, stamps: _Stamps) -> tuple[str, ...]:
    """Say it when a file holds clearly less video than it declares."""
    if not (stamps.is_whole and stream.duration and stream.time_base):
        return ()
    declared_s = float(stream.duration * stream.time_base)
    if declared_s < stamps.span_s + 0.5:
        return ()
    return (f"The file ends early: {stamps.span_s:.2f} s of {declared_s:.2f} s are there.",)
