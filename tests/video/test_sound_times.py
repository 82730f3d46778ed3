"""Sound that is converted keeps its own times, through gaps, overlaps and changes of its format."""

import importlib.util
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from dcgrid.video.clip import SoundSource
from dcgrid.video.probe import probe
from dcgrid.video.samples import SoundFormat, placed_samples
from dcgrid.video.write import WriteReport, write_video

_SPEC = importlib.util.spec_from_file_location(
    "ffmpeg_oracle", Path(__file__).with_name("ffmpeg_oracle.py")
)
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)

RATE = 8000
PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=48x32:r=12:d=4")
MONO = SoundFormat("fltp", "mono", RATE, 1)


def loudness(path: Path) -> np.ndarray:
    """Loudness in steps of 20 ms, each sound at its own time."""
    raw = oracle.run(
        "ffmpeg", "-v", "error", "-i", path, "-af", "aresample=async=1:first_pts=0", "-ac", "1",
        "-ar", str(RATE), "-f", "f32le", "-",
    )  # fmt: skip
    sound = np.frombuffer(raw, np.float32)
    return np.sqrt(np.square(sound[: len(sound) // 160 * 160]).reshape(-1, 160).mean(1))


def rewritten(path: Path, out: Path, *, start_s: float = 0.0) -> WriteReport:
    frames_THWC = torch.zeros(round((4 - start_s) * 12), 32, 48, 3, dtype=torch.uint8)
    sound = SoundSource(
        path=path, start_s=start_s, duration_s=4 - start_s, origin_s=probe(path).origin_s
    )
    return write_video(out, frames_THWC, 12, sound=sound)


@oracle.needs_ffmpeg
@pytest.mark.parametrize(
    ("ending", "codec"),
    [("mkv", "libvorbis"), ("mkv", "pcm_s16le"), ("mkv", "mp2"), ("asf", "wmav2"), ("mkv", "dca")],
)
@pytest.mark.parametrize("start_s", [0.0, 1.5])
def test_a_gap_stays_a_gap(tmp_path: Path, ending: str, codec: str, start_s: float) -> None:
    path, out = tmp_path / f"gap.{ending}", tmp_path / "out.mp4"
    late = "sine=440:d=3,asetpts='if(gte(T,1),PTS+1/TB,PTS)'"
    oracle.run("ffmpeg", "-v", "error", *PICTURE, "-f", "lavfi", "-i", late, "-c:v", "mpeg4",
               "-strict", "-2", "-c:a", codec, path)  # fmt: skip
    report = rewritten(path, out, start_s=start_s)
    assert report.sound == "transcoded"
    theirs, ours = loudness(path)[round(start_s * 50) :], loudness(out)
    length = min(len(theirs), len(ours))
    assert length > (3.8 - start_s) * 50
    is_heard, should_be = ours[:length] > 0.02, theirs[:length] > 0.02
    assert 0 < (~should_be).sum() < length / 2
    assert (is_heard != should_be).sum() <= 6  # the edges of 2 pauses, 3 steps of 20 ms each


@oracle.needs_ffmpeg
@pytest.mark.parametrize(("rate", "ending"), [(44100, "ts"), (32000, "mkv")])
def test_sound_whose_format_changes(tmp_path: Path, rate: int, ending: str) -> None:
    """Stereo, then mono of another pitch: each has its place, and the picture is not blamed."""
    parts = [
        ("aevalsrc=0.3*sin(880*PI*t)|0.3*sin(880*PI*t):d=2:s=44100", tmp_path / "a.mp2"),
        (f"aevalsrc=0.3*sin(3520*PI*t):d=2:s={rate}", tmp_path / "b.mp2"),
    ]
    for source, part in parts:
        oracle.run("ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-c:a", "mp2", part)
    both = tmp_path / "both.mp2"
    both.write_bytes(b"".join(part.read_bytes() for _, part in parts))
    path, out = tmp_path / f"both.{ending}", tmp_path / "out.mp4"
    oracle.run("ffmpeg", "-v", "error", *PICTURE, "-i", both, "-c:v", "mpeg2video", "-r", "24",
               "-c:a", "copy", path)  # fmt: skip
    report = rewritten(path, out)
    assert report.sound == "transcoded"
    assert report.notes == ("The sound is converted to AAC: its format changes on the way.",)
    raw = oracle.run("ffmpeg", "-v", "error", "-i", out, "-ac", "1", "-ar", "8000", "-f", "f32le",
                     "-")  # fmt: skip
    sound = np.frombuffer(raw, np.float32)
    pitches = [int(np.abs(np.fft.rfft(sound[at : at + 4000])).argmax() * 2) for at in (4000, 22000)]
    assert pitches == [440, 1760]
    assert 3.8 * 8000 < len(sound) < 4.2 * 8000


def tone(start: int, count: int, *, value: float = 0.5, layout: str = "mono") -> av.AudioFrame:
    """A constant, so that a sample tells where it comes from."""
    channels = 1 if layout == "mono" else 2
    samples = np.full((channels, count), value, np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
    return frame


def placed(frames: list[av.AudioFrame], begin_s: float, seconds: float) -> np.ndarray:
    pieces: Iterator[torch.Tensor] = placed_samples(frames, MONO, begin_s, seconds)
    return torch.cat(list(pieces), dim=1)[0].numpy()


def pieces_of_a_stream() -> list[av.AudioFrame]:
    return [
        tone(0, 800, value=0.1),
        tone(800, 800, value=0.2),
        tone(4000, 800, value=0.3),  # 0.3 s after the end of the second
        tone(4320, 800, value=0.4),  # most of it while the third sounds
        tone(5120, 800, value=0.5, layout="stereo"),
    ]


def test_gaps_are_silent_and_overlaps_are_cut() -> None:
    sound = placed(pieces_of_a_stream(), 0.0, 10.0)
    edges = {0: 0.1, 799: 0.1, 800: 0.2, 1599: 0.2, 1600: 0, 3999: 0, 4000: 0.3, 4799: 0.3,
             4800: 0.4, 5119: 0.4}  # fmt: skip
    assert {at: round(float(sound[at]), 1) for at in edges} == pytest.approx(edges)
    assert (sound[5130:] > 0.45).all()
    assert len(sound) == 5920
    assert placed(pieces_of_a_stream(), 0.1, 0.2) == pytest.approx(sound[800:2400])
    late = placed(pieces_of_a_stream(), -0.5, 0.6)
    assert (late[:4000] == 0).all()
    assert late[4000:] == pytest.approx(sound[:800])


def test_jitter_of_stamps_is_no_gap() -> None:
    """Stamps in whole milliseconds, some of them 20 ms late: the samples go on."""
    frames = [tone(round(at / 8) * 8 + 160 * (at % 3 == 0), 100) for at in range(0, 8000, 100)]
    assert (placed(frames, 0.0, 1.0) == 0.5).sum() >= 7800


def test_an_hour_without_sound_is_not_held_in_memory() -> None:
    frames = [tone(0, 800), tone(3600 * RATE, 800)]
    pieces = list(placed_samples(frames, MONO, 0.0, 3601.0))
    assert max(piece.shape[1] for piece in pieces) <= RATE
    assert sum(piece.shape[1] for piece in pieces) == 3600 * RATE + 800
