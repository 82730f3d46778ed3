"""Samples of a clip's sound, each at its own time, whatever the stream does on the way.

decoded   |aaaa|bbbb|        |cccc|dddd|        a gap; d is of another form, e overlaps it
|eeee|
samples   |aaaa|bbbb|00000000|cccc|dddd|eee|
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import av
import torch
from av.audio.frame import AudioFrame

# Stamps that are this far from where the samples before end are rounding or jitter.
_SLACK_S = 0.05


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """Form of decoded sound."""

    sample: str
    """Sample format as FFmpeg names it, e.g. "fltp"."""
    layout: str
    """Channel layout, e.g. "stereo"."""
    rate: int
    """Samples per second."""
    channels: int = 2
    """Channels of the layout."""

    @classmethod
    def of(cls, frame: AudioFrame) -> Self:
        """Return the form of a frame."""
        layout = frame.layout
        return cls(frame.format.name, layout.name, frame.sample_rate, layout.nb_channels)


def placed_samples(
    frames: Iterable[AudioFrame], form: SoundFormat, begin_s: float, duration_s: float
) -> Iterator[torch.Tensor]:
    """Yield the samples of a time span, in pieces; gaps are silent, what overlaps is cut.

    Args:
        frames: Decoded sound in the order of the file. Those without a stamp follow the one before.
        form: Form of the result, planar float samples.
        begin_s: Start of the span, on the clock of the frames.
        duration_s: Length of the span.

    Yields:
        Float32 samples in [-1, 1], channel first. They may end before the span does.

    Raises:
        av.error.FFmpegError: The sound cannot be resampled.
    """
    made, total = 0, round(duration_s * form.rate)
    for start_s, before, piece_CN in _resampled(frames, form):
        place = round((start_s - begin_s) * form.rate) + before
        while made < min(place, total):
            silent = min(place, total, made + form.rate) - made
            yield torch.zeros(piece_CN.shape[0], silent)
            made += silent
        rest_CN = piece_CN[:, max(0, made - place) : max(0, total - place)]
        if rest_CN.shape[1]:
            yield rest_CN
            made += rest_CN.shape[1]
        if made >= total:
            return


_Piece = tuple[float, int, torch.Tensor]
"""Start of a run in seconds, samples of the run before the piece, the piece."""


class _Run:
    """Resamples frames of one form without a gap between them."""

    def __init__(self, start_s: float, source: SoundFormat, form: SoundFormat) -> None:
        self.end_s = start_s
        self.source = source
        self._start_s, self._made = start_s, 0
        self._resampler = av.AudioResampler(format=form.sample, layout=form.layout, rate=form.rate)

    def put(self, frame: AudioFrame | None) -> Iterator[_Piece]:
        """Yield what a frame, or the end of the run, adds."""
        if frame is not None:
            self.end_s += frame.samples / frame.sample_rate
            frame.pts = None  # the resampler would refuse stamps that are not exactly in step
        for piece in self._resampler.resample(frame):
            yield self._start_s, self._made, torch.from_numpy(piece.to_ndarray())
            self._made += piece.samples


def _resampled(frames: Iterable[AudioFrame], form: SoundFormat) -> Iterator[_Piece]:
    """Yield resampled sound; a gap, an overlap or another form of frames begins a run."""
    run: _Run | None = None
    for frame in frames:
        source, stamp_s = SoundFormat.of(frame), frame.time
        is_apart = run is not None and stamp_s is not None and abs(stamp_s - run.end_s) > _SLACK_S
        if run is None or is_apart or source != run.source:
            if run is not None:
                yield from run.put(None)
            start_s = stamp_s or 0.0 if run is None or is_apart else run.end_s
            run = _Run(start_s, source, form)
        yield from run.put(frame)
    if run is not None:
        yield from run.put(None)
