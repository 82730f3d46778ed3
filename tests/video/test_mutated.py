"""Damaged video files raise nothing but DcgridError, in reading and in taking their sound."""

import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from dcgrid.errors import DcgridError
from dcgrid.video.clip import ClipRules, SoundSource
from dcgrid.video.read import read_clip
from dcgrid.video.write import write_video

RULES = ClipRules(fps=12, stride=4, max_frames=9, cell_sizes=((32, 48), (48, 32), (32, 32)))
KINDS = {
    "mp4": ("mpeg4", "yuv420p", "aac"),
    "mkv": ("libx264", "yuv420p", "aac"),
    "avi": ("mjpeg", "yuvj420p", "pcm_s16le"),
    "webm": ("libvpx", "yuv420p", None),
    "gif": ("gif", "rgb8", None),
}
FEW, MANY = 15, 400  # five kinds: 75 and 2,000


def make(folder: Path, kind: str) -> bytes:
    """A small film of this kind, half a second long."""
    codec, pixels, sound = KINDS[kind]
    path = folder / f"tiny.{kind}"
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=24)
        video.width, video.height, video.pix_fmt = 48, 32, pixels
        audio = out.add_stream(sound, rate=8000, layout="mono") if sound else None
        for index in range(12):
            picture = np.full((32, 48, 3), 20 * index, np.uint8)
            picture[:, 4 * index : 4 * index + 6] = (250, 40, 10)
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
        if audio is not None:
            wave = (np.sin(np.arange(4000) / 5) * 8000).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
            out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    return path.read_bytes()


def flip_bytes(raw: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 3, 10, 60))):
        raw[dice.randrange(len(raw))] = dice.randrange(256)


def flip_header(raw: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 2, 6))):
        raw[dice.randrange(min(len(raw), 600))] = dice.randrange(256)


def cut_end(raw: bytearray, dice: random.Random) -> None:
    del raw[dice.randrange(len(raw)) :]


def drop_piece(raw: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(raw))
    del raw[start : start + dice.randrange(1, 400)]


def repeat_piece(raw: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(raw))
    raw[start:start] = raw[start : start + dice.randrange(1, 400)]


def blank_piece(raw: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(raw))
    piece = raw[start : start + dice.randrange(1, 200)]
    raw[start : start + len(piece)] = bytes([dice.choice((0, 255))]) * len(piece)


def big_number(raw: bytearray, dice: random.Random) -> None:
    start = dice.randrange(max(1, len(raw) - 4))
    raw[start : start + 4] = dice.choice(
        (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\0\0\0\1")
    )


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bytes,
    flip_header,
    cut_end,
    drop_piece,
    repeat_piece,
    blank_piece,
    big_number,
)


def check_mutants(folder: Path, kind: str, seeds: range) -> tuple[int, int]:
    whole = make(folder, kind)
    clip, _ = read_clip(folder / f"tiny.{kind}", RULES)
    assert clip.frames_THWC.shape == (5, 32, 48, 3)
    frames_THWC = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    read, refused = 0, []
    for seed in seeds:
        dice = random.Random(f"{kind} {seed}")
        raw = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2))):
            if raw:
                dice.choice(MUTATIONS)(raw, dice)
        path = folder / f"mutant.{kind}"
        path.write_bytes(raw)
        start_s = dice.choice((None, None, 0.2))
        try:
            clip, plan = read_clip(path, RULES, start_s=start_s)
            assert len(clip.frames_THWC) == plan.num_frames in (5, 9), seed
            assert plan.lines()
            read += 1
        except DcgridError as error:
            refused.append(error.message)
        sound = SoundSource(path=path, start_s=start_s or 0.0, duration_s=0.4)
        report = write_video(folder / "out.mp4", frames_THWC, 12, sound=sound, overwrite=True)
        assert report.sound in ("copied", "transcoded", "none"), seed
    assert all(str(folder) in message for message in refused)
    return read, len(refused)


@pytest.mark.parametrize("kind", KINDS)
def test_mutants(tmp_path: Path, kind: str) -> None:
    read, refused = check_mutants(tmp_path, kind, range(FEW))
    assert read
    assert read + refused == FEW


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutants(tmp_path: Path, kind: str) -> None:
    read, refused = check_mutants(tmp_path, kind, range(FEW, FEW + MANY))
    assert read
    assert refused
