"""Time stamps that can be used: jumps of joined recordings are closed, strays are found.

    stored   0   1   2   3   500   501   502      two recordings joined, or a receiver's lost clock
    mended   0   1   2   3     4     5     6      picture and sound moved together

Rules and limits are FFmpeg's own (-dts_delta_threshold, -dts_error_threshold), so that a file is as
long here as it is for the ffmpeg command.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.video.stream import VideoStream

from dcgrid.video.source import DECODE_ERRORS

MediaPacket: TypeAlias = "Packet[Any]"
MediaStreams: TypeAlias = "Sequence[VideoStream | AudioStream]"

JUMP_S = 10
"""A longer step between stamps is a jump."""
_BACK_S = 0.1
_ABSURD_S = 30 * 3600
_MOST_REORDERED = 16  # pictures that a decoder may hold back


def mended_packets(
    container: InputContainer, streams: MediaStreams, jumps_s: list[float] | None = None
) -> Iterator[MediaPacket]:
    """Yield packets in the order of the file, with stamps that go on.

    In containers whose stamps may jump (MPEG-TS, MPEG-PS, Ogg) a jump moves all that follows to
    where its stream had come. In others stamps are believed, but for those more than 30 hours off,
    which are removed. The empty packets that ask a decoder for its rest come through.

    Args:
        container: The file.
        streams: The picture and the sound that is played with it: they are moved together.
        jumps_s: Gets the mended time of each jump, in seconds on the file's clock.

    Raises:
        av.error.FFmpegError: The file is damaged; nothing comes after that.
    """
    closes, jumps_s = may_jump(container), [] if jumps_s is None else jumps_s
    ticks_s = {stream.index: float(stream.time_base or 0) for stream in streams}
    # In seconds: by what stamps are moved, and were before the last jump; when the next packet of
    # each stream is due; the last.
    offset_s, earlier_s, due_s, last_s = 0.0, 0.0, dict[int, float](), None
    for packet in container.demux(list(streams)):
        # Not `stream_index`, which is 0 in the empty packets at the end.
        index, tick_s = packet.stream.index, ticks_s[packet.stream.index]
        if packet.dts is None or not tick_s:
            yield packet
            continue
        expected_s = due_s.get(index)
        if closes:
            _move(packet, offset_s, tick_s)
            reference_s = last_s if expected_s is None else expected_s
            step_s = 0.0 if reference_s is None else packet.dts * tick_s - reference_s
            if expected_s is not None and abs(step_s + earlier_s - offset_s) < min(
                abs(step_s), _BACK_S
            ):
                # From before the other stream's jump: Ogg stores a second of each in turn.
                _move(packet, earlier_s - offset_s, tick_s)
            elif abs(step_s) > JUMP_S or (expected_s is not None and step_s < -_BACK_S):
                earlier_s, offset_s = offset_s, offset_s - step_s
                _move(packet, -step_s, tick_s)
                jumps_s.append(packet.dts * tick_s)
            if packet.pts is not None and (packet.pts - packet.dts) * tick_s > JUMP_S:
                packet.pts = None  # a frame from after the jump, stored before it
        last_s = packet.dts * tick_s
        if not closes and expected_s is not None:
            if packet.pts is not None and abs(packet.pts * tick_s - expected_s) > _ABSURD_S:
                packet.pts = None
            if abs(last_s - expected_s) > _ABSURD_S:
                packet.dts, last_s = None, expected_s
        due_s[index] = last_s + (packet.duration or 0) * tick_s
        yield packet


def _move(packet: MediaPacket, by_s: float, tick_s: float) -> None:
    ticks = round(by_s / tick_s)
    if ticks and packet.dts is not None:
        packet.dts += ticks
    if ticks and packet.pts is not None:
        packet.pts += ticks


def may_jump(container: InputContainer) -> bool:
    """Return True for containers whose stamps may jump by their nature."""
    return Flags.ts_discont in Flags(container.format.flags)


def jumps_before(container: InputContainer, streams: MediaStreams, time_s: float) -> bool:
    """Return True if stamps jump before a moment on the file's clock; reads packets up to there.

    A seek to a moment after a jump leads astray: the container only knows the stored stamps.
    """
    jumps_s: list[float] = []
    if may_jump(container):
        try:
            for packet in mended_packets(container, streams, jumps_s):
                if jumps_s or (packet.dts or 0) * packet.time_base > time_s:
                    break
        except DECODE_ERRORS:
            return True
    return bool(jumps_s)


def stray_stamps(times_s: Sequence[float], jump_s: float) -> set[int]:
    """Return the places of single stamps that jump ahead although those after them do not.

    A frame is stored a few places before it is shown, so one that is far ahead is a stray only if
    more earlier ones come after it than after any other frame.

    Args:
        times_s: Times of display, in the order of storage.
        jump_s: A stamp that is more than this ahead has jumped.
    """
    ahead = dict[int, int]()
    usual = 0
    for place, time_s in enumerate(times_s):
        after = times_s[place + 1 : place + 2 + _MOST_REORDERED]
        earlier = sum(other < time_s for other in after)
        if earlier and time_s - min(after) > jump_s:
            ahead[place] = earlier
        else:
            usual = max(usual, earlier)
    return {
        place
        for place, count in ahead.items()
        if count > usual + 1 and not {place - 1, place + 1} & ahead.keys()
    }
