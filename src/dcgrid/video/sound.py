"""Sound of a clip: the packets of its source between two moments, or AAC made from them.

Packets are collected before anything is written, so that damage is known in time to leave the
sound out. That is a megabyte or two a minute; only sound that must be turned into AAC is held as
samples, 23 MB a minute in stereo at 48 kHz.
"""

import math
from collections.abc import Callable, Iterator
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
from dcgrid.video.source import (
    DECODE_ERRORS,
    audio_stream,
    media_streams,
    open_container,
    reading,
)
from dcgrid.video.stamps import may_jump, mended_packets

# Codecs that MP4 has a registered place for and that common players play.
COPIED_CODECS = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"})
_AAC_RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_AAC_BLOCK = 1024
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
    samples_CN: torch.Tensor | None = None
    """To transcode: float32 samples in [-1, 1], channel first."""
    rate: int = 0
    """To transcode: samples per second."""

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
        if self.mode == "transcoded" and self.samples_CN is not None:
            return _layer(container, _encode_aac(container, self.samples_CN, self.rate))
        return None


def _layer(container: OutputContainer, packets: list[SoundPacket]) -> Layer:
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
        with reading(sound.path):
            stream = audio_stream(container)
            if stream is None:
                return SoundTrack(mode="none")
            packets = _packets(container, stream, sound)
            if not packets:
                return SoundTrack(mode="none", notes=["The source has no sound in this part."])
            name = stream.codec_context.codec.canonical_name
            frames, damaged, heard = _decode(stream, packets, keep=name not in COPIED_CODECS)
            if not heard:
                note = f"The sound is left out: none of its {name} packets can be decoded."
                return SoundTrack(mode="none", notes=[note])
            notes = [f"Damaged sound: {damaged} of {len(packets)} packets."] if damaged else []
            if name in COPIED_CODECS:
                packets = _on_clip_clock(packets, sound)
                return SoundTrack(mode="copied", notes=notes, stream=stream, packets=packets)
            notes.append(f"The sound is converted to AAC: MP4 cannot hold {name}.")
            samples_CN, rate = _samples(frames, sound)
            return SoundTrack(mode="transcoded", notes=notes, samples_CN=samples_CN, rate=rate)
    except InputVideoError as error:
        return SoundTrack(mode="none", notes=[f"The sound is left out: {error.message}"])


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
    packets = mended_packets(container, media_streams(container, path))
    while True:
        try:
            packet = next(packets, None)
        except DECODE_ERRORS:
            return
        if packet is None:
            return
        is_sound = packet.stream_index == stream.index and packet.size
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


def _decode(
    stream: AudioStream, packets: list[SoundPacket], *, keep: bool
) -> tuple[list[AudioFrame], int, bool]:
    """Decode packets to find the damage.

    Returns:
        The frames (none unless `keep`: a copy needs the packets only), how many packets are
        damaged, and whether any sound came out.
    """
    frames: list[AudioFrame] = []
    damaged, heard = 0, False
    for packet in [*packets, None]:
        try:
            decoded = stream.codec_context.decode(packet)
        except av.error.EOFError:
            break
        except DECODE_ERRORS:
            damaged += packet is not None
            continue
        sounding = [frame for frame in decoded if frame.samples]
        heard |= bool(sounding)
        if keep:
            frames.extend(sounding)
    return frames, damaged, heard


def _samples(frames: list[AudioFrame], sound: SoundSource) -> tuple[torch.Tensor, int]:
    """Return float samples cut to the clip (silence where it has none), and their rate."""
    rate = min(_AAC_RATES, key=lambda known: abs(known - frames[0].sample_rate))
    channels = frames[0].layout.nb_channels
    resampler = av.AudioResampler(
        format="fltp", layout="mono" if channels == 1 else "stereo", rate=rate
    )
    first = frames[0]
    first_s = float((first.pts or 0) * (first.time_base or 0))
    pieces: list[torch.Tensor] = []
    for frame in [*frames, None]:
        if frame is not None:
            frame.pts = None  # stamps with gaps would be refused; sound is taken as continuous
        pieces.extend(torch.from_numpy(p.to_ndarray()) for p in resampler.resample(frame))
    all_CN = torch.cat(pieces, dim=1)
    cut = round((sound.origin_s + sound.start_s - first_s) * rate)
    wanted = round(sound.duration_s * rate)
    silence_CN = torch.zeros(all_CN.shape[0], min(max(0, -cut), wanted))
    all_CN = torch.cat([silence_CN, all_CN[:, max(0, cut) :]], dim=1)
    return all_CN[:, :wanted], rate


def _encode_aac(
    container: OutputContainer, samples_CN: torch.Tensor, rate: int
) -> list[SoundPacket]:
    """Add an AAC stream to a file and return its packets."""
    layout = "mono" if samples_CN.shape[0] == 1 else "stereo"
    stream = container.add_stream("aac", rate=rate, layout=layout)
    packets: list[SoundPacket] = []
    for start in range(0, samples_CN.shape[1], _AAC_BLOCK):
        block_CN = samples_CN[:, start : start + _AAC_BLOCK].contiguous()
        frame = AudioFrame.from_ndarray(block_CN.numpy(), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, start
        frame.time_base = Fraction(1, rate)
        packets.extend(stream.encode(frame))
    packets.extend(stream.encode(None))
    return packets
