"""Writing: tags, colours, length, sound and what may go wrong, read back by ffprobe and ffmpeg."""

import dataclasses
import errno
import importlib.util
import itertools
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from dcgrid.errors import OutputError
from dcgrid.video import write as write_module
from dcgrid.video.clip import ClipRules, Picture, SoundSource
from dcgrid.video.read import probe, read_clip
from dcgrid.video.write import write_pieces, write_video

_SPEC = importlib.util.spec_from_file_location(
    "ffmpeg_oracle", Path(__file__).with_name("ffmpeg_oracle.py")
)
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)

RULES = ClipRules(fps=12, stride=4, max_frames=33, cell_sizes=((96, 160), (160, 96)))
COPIED = {
    "flower.mp4": "aac",
    "edge_vp9_in_avi_187fps.avi": "mp3",
    "edge_mimetype_flv.flv": "mp3",
    "edge_moviepy_no_duration.webm": "opus",
    "edge_mediabunny_rotate-buck-bunny.mp4": "aac",
    "edge_moviepy_video_with_failing_audio.mp4": "mp3",
}
LONG = ("flower.mp4", "edge_mimetype_flv.flv", "edge_moviepy_video_with_failing_audio.mp4")
CONVERTED = ["edge_mimetype_3gp.3gp", "edge_mjpeg_pcm_u8_face.avi", "elf.webm"]


def ramp(frames: int = 9, height: int = 48, width: int = 64) -> torch.Tensor:
    """Smooth colours that change over time, so that H.264 keeps them."""
    t, y, x = torch.meshgrid(
        torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij"
    )
    red, green, blue = 60 + 2 * x + 3 * t, 40 + 3 * y, 200 - 2 * x
    return torch.stack([red, green, blue], dim=-1).clamp(0, 255).to(torch.uint8)


def packet_bytes(path: Path, begin_s: float = -1.0, end_s: float = 1e9) -> list[bytes]:
    """The sound packets of a file that start in a time span."""
    with av.open(str(path)) as container:
        stream = container.streams.best("audio")
        return [
            bytes(packet)
            for packet in container.demux(stream)
            if packet.size and begin_s <= float(packet.pts * packet.time_base) < end_s
        ]


@oracle.needs_ffmpeg
def test_tags_length_and_layout(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    report = write_video(path, ramp(), Fraction(30000, 1001), comment="made by a test")
    found = oracle.probe(path, "stream:format=duration:format_tags=comment")
    (stream,) = found["streams"]
    assert stream["codec_name"] == "h264"
    assert stream["pix_fmt"] == "yuv420p"
    assert stream["color_range"] == "tv"
    tags = [stream[f"color_{name}"] for name in ("space", "primaries", "transfer")]
    assert tags == ["bt709"] * 3
    assert stream["avg_frame_rate"] == "30000/1001"
    assert float(found["format"]["duration"]) == pytest.approx(9 * 1001 / 30000, abs=1e-3)
    assert report.duration_s == pytest.approx(9 * 1001 / 30000)
    assert found["format"]["tags"]["comment"] == "made by a test"
    head = path.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # faststart
    assert os.listdir(tmp_path) == ["out.mp4"]


@oracle.needs_ffmpeg
def test_ffmpeg_reads_the_colours_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    frames_THWC = ramp()
    write_video(path, frames_THWC, 12)
    back_THWC = oracle.frames(path, (48, 64), count=9, matrix="bt709")
    gap = back_THWC.astype(int) - frames_THWC.numpy()
    assert np.abs(gap).mean() < 1.5
    # Red and blue run against each other along x: a chroma plane half a pixel off, a wrong matrix
    # or a wrong range would each show up as a bias.
    assert np.abs(gap[:, 4:-4, 4:-4].mean(axis=(0, 1, 2))).max() < 0.4


def test_odd_sizes_are_padded_and_say_so(tmp_path: Path) -> None:
    report = write_video(tmp_path / "o.mp4", ramp(5, 33, 47), 12)
    assert (report.height, report.width) == (34, 48)
    assert "47x33" in report.notes[0]
    assert probe(tmp_path / "o.mp4").width == 48


@pytest.mark.parametrize("size", [(2, 2), (1, 1), (6, 10), (50, 22)])
def test_small_and_uneven_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    frames_THWC = torch.full((3, *size, 3), 120, dtype=torch.uint8)
    write_video(tmp_path / "s.mp4", frames_THWC, 12)
    rules = ClipRules(fps=12, stride=1, max_frames=3, cell_sizes=(size,))
    clip, _ = read_clip(tmp_path / "s.mp4", rules)
    assert (clip.frames_THWC.int() - 120).abs().max() <= 2


@oracle.needs_clips
@pytest.mark.parametrize(
    ("name", "start_s"),
    [*itertools.product(COPIED, (0.0, 0.5)), *itertools.product(LONG, (2.0, 3.75))],
)
def test_sound_is_copied_packet_for_packet(tmp_path: Path, name: str, start_s: float) -> None:
    source = oracle.CLIPS / name
    clip, _ = read_clip(source, RULES, start_s=start_s)
    report = write_video(tmp_path / "o.mp4", clip.frames_THWC, clip.fps, sound=clip.sound())
    assert report.sound == "copied"
    ours = packet_bytes(tmp_path / "o.mp4")
    begin_s = clip.source.origin_s + start_s
    whole = packet_bytes(source)
    inside = packet_bytes(source, begin_s, begin_s + clip.duration_s)
    # All that start inside, and at most one that is still sounding at the start.
    assert len(ours) - len(inside) in (0, 1)
    assert ours[-len(inside) :] == inside
    # One unbroken run of the source's packets (silent ones repeat, so try every place).
    assert any(whole[at : at + len(ours)] == ours for at in range(len(whole)))
    assert probe(tmp_path / "o.mp4").audio_codec == COPIED[name]


@oracle.needs_clips
@oracle.needs_ffmpeg
@pytest.mark.parametrize("name", ["flower.mp4", *CONVERTED])
def test_sound_stays_where_it_was(tmp_path: Path, name: str) -> None:
    """The loudness curve of the written sound is the source's, not shifted by a hundredth."""
    clip, _ = read_clip(oracle.CLIPS / name, RULES, start_s=0.5)
    report = write_video(tmp_path / "o.mp4", clip.frames_THWC, clip.fps, sound=clip.sound())
    assert report.sound == ("copied" if name == "flower.mp4" else "transcoded")
    assert bool(report.notes) == (report.sound == "transcoded")
    asked = ["-ac", "1", "-ar", "8000", "-f", "f32le", "-"]
    limits = ["-ss", "0.5", "-t", str(clip.duration_s)]
    one = oracle.run("ffmpeg", "-v", "error", "-i", oracle.CLIPS / name, *limits, *asked)
    two = oracle.run("ffmpeg", "-v", "error", "-i", tmp_path / "o.mp4", *asked)
    theirs, ours = np.frombuffer(one, np.float32), np.frombuffer(two, np.float32)
    length = min(len(theirs), len(ours))
    assert length >= 0.9 * 8000 * clip.duration_s
    theirs, ours = theirs[:length], ours[:length]
    shifts = range(-400, 401)
    middle = slice(800, length - 800)
    match = [np.dot(theirs[middle], np.roll(ours, shift)[middle]) for shift in shifts]
    if np.abs(theirs).max() > 1e-3:  # a silent track has no shape to compare
        assert abs(shifts[int(np.argmax(match))]) <= 24  # 3 ms; WebM stamps are whole ms


def test_damaged_sound_never_stops_the_picture(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 500)
    sound = SoundSource(path=broken, start_s=0, duration_s=1)
    report = write_video(tmp_path / "o.mp4", ramp(), 12, sound=sound)
    assert report.sound == "none"
    assert "left out" in report.notes[0]
    assert probe(tmp_path / "o.mp4").num_frames == 9


@oracle.needs_clips
def test_undecodable_sound_is_left_out(tmp_path: Path) -> None:
    source = oracle.CLIPS / "edge_vp9_in_avi_187fps.avi"
    raw = bytearray(source.read_bytes())
    for payload in packet_bytes(source):
        at = raw.find(payload)
        raw[at : at + len(payload)] = bytes(len(payload))
    (tmp_path / "mute.avi").write_bytes(raw)
    sound = SoundSource(path=tmp_path / "mute.avi", start_s=0, duration_s=0.75)
    report = write_video(tmp_path / "o.mp4", ramp(), 12, sound=sound)
    assert report.sound == "none"
    assert "mp3" in report.notes[0]


def test_bad_places(tmp_path: Path) -> None:
    frames_THWC = ramp(3)
    with pytest.raises(OutputError, match="does not exist"):
        write_video(tmp_path / "no" / "o.mp4", frames_THWC, 12)
    with pytest.raises(OutputError, match="is a folder"):
        write_video(tmp_path, frames_THWC, 12)
    (tmp_path / "o.mp4").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists") as caught:
        write_video(tmp_path / "o.mp4", frames_THWC, 12)
    assert "--force" in caught.value.hint
    assert (tmp_path / "o.mp4").read_bytes() == b"mine"
    write_video(tmp_path / "o.mp4", frames_THWC, 12, overwrite=True)
    assert probe(tmp_path / "o.mp4").num_frames == 3
    with pytest.raises(OutputError, match="cannot write"):
        write_video(tmp_path / ("x" * 300 + ".mp4"), frames_THWC, 12)
    with pytest.raises(OutputError, match="cannot write"):
        write_video(Path("/proc/o.mp4"), frames_THWC, 12)
    assert os.listdir(tmp_path) == ["o.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit on Windows")
def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: writes fail in the same calls."""
    program = """
import resource, signal, sys, torch
from dcgrid.errors import OutputError
from dcgrid.video.write import write_video
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
noise = torch.randint(0, 255, (9, 64, 64, 3), dtype=torch.uint8)
try:
    write_video(sys.argv[1], noise, 12)
except OutputError as error:
    assert error.exit_code == 3
    sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "o.mp4")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 7, done.stderr.decode()
    assert done.stderr == b""
    assert os.listdir(tmp_path) == []


def test_lost_writes_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_half(container: object, packets: list[object], durations: object) -> None:
        mux(container, packets[::2], durations)  # type: ignore[arg-type]

    mux = write_module._mux
    monkeypatch.setattr(write_module, "_mux", lose_half)
    with pytest.raises(OutputError) as caught:
        write_video(tmp_path / "o.mp4", ramp(), 12)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = write_module._to_yuv

    def stop(picture: Picture, tick: Fraction) -> av.VideoFrame:
        if picture.time > 0.4:
            raise KeyboardInterrupt
        return convert(picture, tick)

    monkeypatch.setattr(write_module, "_to_yuv", stop)
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "o.mp4", ramp(), 12)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("what", ["ramp", "noise"])
def test_same_frames_give_the_same_file(tmp_path: Path, what: str) -> None:
    """Noise is where x264 left to its defaults gave another file every few runs."""
    generator = torch.Generator().manual_seed(0)
    noise_THWC = (torch.rand(5, 192, 320, 3, generator=generator) * 255).byte()
    frames_THWC = ramp() if what == "ramp" else noise_THWC
    files = [tmp_path / f"{i}.mp4" for i in range(12)]
    for path in files:
        write_video(path, frames_THWC, 12)
    assert len({path.read_bytes() for path in files}) == 1


PLACES = {"one": [20], "sevens": [7, 7, 6], "singles": [1] * 20, "uneven": [13, 1, 6]}


def odd_noise(frames: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(frames, 33, 47, 3, generator=generator) * 255).byte()


@pytest.mark.parametrize("lengths", PLACES.values(), ids=PLACES.keys())
def test_pieces_give_the_same_file_as_the_whole(tmp_path: Path, lengths: list[int]) -> None:
    frames_THWC = odd_noise()
    whole = write_video(tmp_path / "whole.mp4", frames_THWC, 12, comment="c")
    report = write_pieces(
        tmp_path / "pieces.mp4",
        lambda: iter(frames_THWC.split(lengths)),
        12,
        num_frames=20,
        comment="c",
    )
    assert (tmp_path / "pieces.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert dataclasses.replace(report, path=whole.path) == whole
    assert "47x33" in report.notes[0]


@oracle.needs_clips
def test_pieces_carry_the_sound_of_the_whole(tmp_path: Path) -> None:
    clip, _ = read_clip(oracle.CLIPS / "flower.mp4", RULES, start_s=0.5)
    whole, parts = tmp_path / "whole.mp4", tmp_path / "pieces.mp4"
    write_video(whole, clip.frames_THWC, clip.fps, sound=clip.sound())
    report = write_pieces(
        parts,
        lambda: clip.frames_THWC.split(7),
        clip.fps,
        num_frames=len(clip.frames_THWC),
        sound=clip.sound(),
    )
    assert report.sound == "copied"
    assert parts.read_bytes() == whole.read_bytes()


def test_pieces_are_asked_for_again_when_the_sound_fails(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sound breaks at the sixth frame: the second file has the picture from the start."""
    frames_THWC = ramp(20)
    asked: list[int] = []

    def pieces() -> Iterator[torch.Tensor]:
        asked.append(len(asked))
        yield from frames_THWC.split(3)

    def fail_late(lay_sound: object, until_s: float) -> None:
        if until_s > 0.45:
            raise write_module._SoundFailedError("made to fail")

    monkeypatch.setattr(write_module, "_lay", fail_late)
    sound = SoundSource(path=clip, start_s=0, duration_s=1)
    report = write_pieces(tmp_path / "o.mp4", pieces, 12, num_frames=20, sound=sound)
    assert asked == [0, 1]
    assert report.sound == "none"
    assert "made to fail" in report.notes[-1]
    write_video(tmp_path / "silent.mp4", frames_THWC, 12)
    assert (tmp_path / "o.mp4").read_bytes() == (tmp_path / "silent.mp4").read_bytes()


@pytest.mark.parametrize(
    ("pieces", "promised", "words"),
    [
        ([ramp(5), ramp(4)], 10, "10 frames were promised"),
        ([ramp(5), ramp(4)], 8, "8 frames were promised"),
        ([], 1, "0 came"),
        ([], 0, "0 came"),
        ([ramp(2), ramp(2, 48, 62)], 4, "frames of"),
        ([ramp(2), ramp(2).float()], 4, "uint8"),
        ([ramp(2), ramp(2)[:0]], 2, "no frame"),
    ],
)
def test_wrong_pieces_leave_no_file(
    tmp_path: Path, pieces: list[torch.Tensor], promised: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        write_pieces(tmp_path / "o.mp4", lambda: pieces, 12, num_frames=promised)
    assert os.listdir(tmp_path) == []


def test_only_one_piece_is_held(tmp_path: Path) -> None:
    """Each piece is let go before the one after the next is made."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def pieces() -> Iterator[torch.Tensor]:
        nonlocal most
        for _ in range(8):
            piece_THWC = ramp(5)
            alive.append(weakref.ref(piece_THWC))
            most = max(most, sum(ref() is not None for ref in alive))
            yield piece_THWC

    write_pieces(tmp_path / "o.mp4", pieces, 12, num_frames=40)
    assert len(alive) == 8
    assert most <= 2
