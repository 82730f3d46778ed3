"""Sound of a clip: the packets of its source between two moments, or AAC made from them.

Packets are collected and decoded once before anything is written, so that damage is known in time
to leave the sound out: a megabyte or two a minute. Sound that must be turned into AAC is decoded a
second time while it is written.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
import av.error
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from dcgrid.errors import InputVideoError
from dcgrid.video.clip import SoundSource
from dcgrid.video.samples import SoundFormat, placed_samples
from dcgrid.video.source import (
    DECODE_ERRORS,
    audio_stream,
    media_streams,
    open_container,
    reason,
)
from dcgrid.video.stamps import may_jump, mended_packets

# Codecs that MP4 has a registered place for and that common players play.
COPIED_CODECS = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"})
_AAC_RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_AAC_BLOCK = 1024
_FEW = 2
# Packets with stamps after the end of a clip that may still be followed by some before it.
_MOST_STRAYS = 8

SoundPacket: TypeAlias = "Packet[AudioStream]"

Layer = Callable[[float], None]
"""Writes all sound that starts before a moment, in seconds after the clip's start."""


@dataclass(slots=True, kw_only=True)
class SoundTrack:
    """Sound ready to be written once."""

    mode: str
    """"copied", "transcoded" or "none" (nothing usable; see `notes`)."""
    notes: list[str] = field(default_factory=list)
    """Sentences about what was changed or left out."""
    stream: AudioStream | None = None
    """The source's stream, whose settings a copy takes over."""
    packets: list[SoundPacket] = field(default_factory=list)
    """To copy: packets with times on the clip's clock."""
    samples: Iterator[torch.Tensor] | None = None
    """To transcode: pieces of float32 samples in [-1, 1], channel first."""
    form: SoundFormat | None = None
    """To transcode: the form of the samples."""

    def attach(self, container: OutputContainer) -> Layer | None:
        """Add the sound to a file that is about to be written.

        Returns:
            What writes it piece by piece; None: there is nothing to write.
        """
        if self.mode == "copied" and self.stream is not None:
            stream = container.add_stream_from_template(self.stream)
            for packet in self.packets:
                packet.stream = stream
            return _layer(container, self.packets)
        if self.samples is not None and self.form is not None:
            stream = container.add_stream("aac", rate=self.form.rate, layout=self.form.layout)
            return _layer(container, _encode_aac(stream, self.samples, self.form))
        return None


def _layer(container: OutputContainer, packets: Iterable[SoundPacket]) -> Layer:
    """Return a function that writes packets in order, up to a moment."""
    waiting = iter(packets)
    held: list[SoundPacket] = []

    def lay(until_s: float) -> None:
        while True:
            packet = held.pop() if held else next(waiting, None)
            if packet is None:
                return
            if float((packet.pts or 0) * packet.time_base) >= until_s:
                held.append(packet)
                return
            container.mux(packet)

    return lay


@contextmanager
def open_sound(sound: SoundSource) -> Iterator[SoundTrack]:
    """Take the sound of a clip from its source; damage gives an empty track and a note.

    Args:
        sound: Which file, and which piece of it.

    Yields:
        The track; its source stays open until it is written.
    """
    try:
        source = open_container(sound.path)
        container = source.__enter__()
    except InputVideoError as error:
        yield SoundTrack(mode="none", notes=[f"The sound is left out: {error.message}"])
        return
    try:
        yield _take(container, sound)
    finally:
        source.__exit__(None, None, None)


def _take(container: InputContainer, sound: SoundSource) -> SoundTrack:
    """Collect the packets of the clip and decide what to do with them."""
    try:
        stream = audio_stream(container)
        if stream is None:
            return SoundTrack(mode="none")
        packets = _packets(container, stream, sound)
        if not packets:
            return SoundTrack(mode="none", notes=["The source has no sound in this part."])
        return _checked(stream, packets, sound)
    except DECODE_ERRORS as error:
        note = f"The sound is left out: it cannot be read ({reason(error)})."
        return SoundTrack(mode="none", notes=[note])


def _checked(stream: AudioStream, packets: list[SoundPacket], sound: SoundSource) -> SoundTrack:
    """Decode packets to find the damage, and decide what to do with them."""
    tally, forms = _Tally(), Counter[SoundFormat]()
    for frame in _decoded(stream, packets, tally):
        forms[SoundFormat.of(frame)] += 1
    name = stream.codec_context.codec.canonical_name
    if not forms:
        note = f"The sound is left out: none of its {name} packets can be decoded."
        return SoundTrack(mode="none", notes=[note])
    damaged = f"Damaged sound: {tally.damaged} of {len(packets)} packets."
    notes = [damaged] if tally.damaged else []
    # A few frames of another form are damage, or a decoder that has only just begun.
    changes = sum(count > _FEW for count in forms.values()) > 1
    if name in COPIED_CODECS and not changes:
        packets = _on_clip_clock(packets, sound)
        return SoundTrack(mode="copied", notes=notes, stream=stream, packets=packets)
    why = "its format changes on the way" if changes else f"MP4 cannot hold {name}"
    form = SoundFormat(
        sample="fltp",
        layout="mono" if all(form.channels == 1 for form in forms) else "stereo",
        rate=min(_AAC_RATES, key=lambda known: abs(known - next(iter(forms)).rate)),
    )
    stream.codec_context.flush_buffers()
    begin_s = sound.origin_s + sound.start_s
    frames = _decoded(stream, packets, _Tally())
    return SoundTrack(
        mode="transcoded",
        notes=[*notes, f"The sound is converted to AAC: {why}."],
        samples=placed_samples(frames, form, begin_s, sound.duration_s),
        form=form,
    )


def _packets(
    container: InputContainer, stream: AudioStream, sound: SoundSource
) -> list[SoundPacket]:
    """Return the packets that sound at some time between start and end, in order."""
    begin = sound.origin_s + sound.start_s
    if begin > 1 and not may_jump(container):
        try:
            container.seek(int((begin - 0.5) * 1_000_000))
        except DECODE_ERRORS:
            container.seek(0)
    found, late = list[SoundPacket](), 0
    for packet in _undamaged(container, stream, sound.path):
        time_s, length_s = _times(packet)
        if time_s >= begin + sound.duration_s:
            late += 1
            if late > _MOST_STRAYS:
                break
            continue
        late = 0
        if time_s + length_s > begin:
            found.append(packet)
    return found


def _undamaged(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[SoundPacket]:
    """Yield packets of the sound with time stamps; damage ends it there."""
    try:
        streams = media_streams(container, path)
    except InputVideoError:  # nothing but sound can be read here
        streams = [stream]
    packets = mended_packets(container, streams)
    while True:
        try:
            packet = next(packets, None)
        except DECODE_ERRORS:
            return
        if packet is None:
            return
        is_sound = packet.stream.index == stream.index and packet.size
        if is_sound and packet.pts is not None and packet.time_base:
            yield packet


def _times(packet: SoundPacket) -> tuple[float, float]:
    """Return when a packet starts and how long it sounds, in seconds on the file's clock."""
    base = float(packet.time_base)
    return (packet.pts or 0) * base, max(packet.duration or 0, 1) * base


def _on_clip_clock(packets: list[SoundPacket], sound: SoundSource) -> list[SoundPacket]:
    """Return packets on the clip's clock, but for those that sound while another still does.

    The first may start a little before 0.
    MP4 says with an edit list that the piece before 0 is not heard, so sound and picture agree to
    the sample.
    """
    end = -math.inf
    kept = []
    for packet in packets:
        time_s, length_s = _times(packet)
        if time_s >= end:
            shift = round((sound.origin_s + sound.start_s) / float(packet.time_base))
            packet.pts = packet.dts = (packet.pts or 0) - shift
            kept.append(packet)
            end = time_s + length_s / 2
    return kept


@dataclass(slots=True)
class _Tally:
    """What decoding met."""

    damaged: int = 0
    """Packets that could not be decoded."""


def _decoded(
    stream: AudioStream, packets: list[SoundPacket], tally: _Tally
) -> Iterator[AudioFrame]:
    """Yield the frames of packets; damaged ones are counted and passed over."""
    for packet in [*packets, None]:
        try:
            frames = stream.codec_context.decode(packet)
        except av.error.EOFError:
            return
        except DECODE_ERRORS:
            tally.damaged += packet is not None
            continue
        yield from (frame for frame in frames if frame.samples)


def _encode_aac(
    stream: AudioStream, pieces: Iterable[torch.Tensor], form: SoundFormat
) -> Iterator[SoundPacket]:
    """Yield the packets of samples that come in pieces of any length."""
    start = 0
    for block_CN in _blocks(pieces):
        frame = AudioFrame.from_ndarray(
            block_CN.contiguous().numpy(), format=form.sample, layout=form.layout
        )
        frame.sample_rate, frame.pts = form.rate, start
        frame.time_base = Fraction(1, form.rate)
        start += block_CN.shape[1]
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _blocks(pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Cut pieces anew into blocks of the length that AAC takes; the last may be shorter."""
    held: list[torch.Tensor] = []
    for piece_CN in pieces:
        held.append(piece_CN)
        if sum(one.shape[1] for one in held) >= _AAC_BLOCK:
            all_CN = torch.cat(held, dim=1)
            whole = all_CN.shape[1] // _AAC_BLOCK * _AAC_BLOCK
            yield from all_CN[:, :whole].split(_AAC_BLOCK, dim=1)
            held = [all_CN[:, whole:]]
    if sum(one.shape[1] for one in held):
        yield torch.cat(held, dim=1)
