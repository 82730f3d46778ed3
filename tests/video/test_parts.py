"""Lossless parts: the very pixels come back, or nothing."""

import importlib.util
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dcgrid.errors import InputVideoError, OutputError
from dcgrid.video import parts as parts_module
from dcgrid.video.clip import ClipRules
from dcgrid.video.parts import read_part, write_part
from dcgrid.video.read import read_clip
from dcgrid.video.write import write_video

_SPEC = importlib.util.spec_from_file_location(
    "ffmpeg_oracle", Path(__file__).with_name("ffmpeg_oracle.py")
)
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)


def noise(frames: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames * height * width)
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    "shape", [(5, 33, 47), (1, 33, 47), (1, 1, 1), (3, 1, 50), (3, 2, 2), (9, 64, 96), (40, 16, 16)]
)
def test_every_pixel_comes_back(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    frames_THWC = noise(*shape)
    write_part(tmp_path / "p.mkv", frames_THWC)
    assert read_part(tmp_path / "p.mkv").equal(frames_THWC)
    assert os.listdir(tmp_path) == ["p.mkv"]


def test_views_and_extremes_come_back(tmp_path: Path) -> None:
    """Frames that are not contiguous, and the colours at the ends of the range."""
    frames_THWC = noise(4, 40, 30).transpose(1, 2).flip(0)
    frames_THWC[0], frames_THWC[1] = 0, 255
    write_part(tmp_path / "p.mkv", frames_THWC)
    assert read_part(tmp_path / "p.mkv").equal(frames_THWC)


@oracle.needs_ffmpeg
def test_ffmpeg_reads_the_same_pixels(tmp_path: Path) -> None:
    frames_THWC = noise(6, 33, 47)
    write_part(tmp_path / "p.mkv", frames_THWC)
    raw = oracle.run("ffmpeg", "-v", "error", "-i", tmp_path / "p.mkv", "-pix_fmt", "rgb24", "-f",
                     "rawvideo", "-")  # fmt: skip
    assert np.array_equal(np.frombuffer(raw, np.uint8), frames_THWC.numpy().ravel())


@oracle.needs_clips
def test_real_frames_are_compact(tmp_path: Path) -> None:
    rules = ClipRules(fps=24, stride=4, max_frames=17, cell_sizes=((192, 320),))
    clip, _ = read_clip(oracle.CLIPS / "sam2_dog.mp4", rules)
    write_part(tmp_path / "p.mkv", clip.frames_THWC)
    assert read_part(tmp_path / "p.mkv").equal(clip.frames_THWC)
    assert (tmp_path / "p.mkv").stat().st_size < 0.3 * clip.frames_THWC.numel()


def test_a_cut_part_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "p.mkv"
    write_part(path, noise(6, 33, 47))
    whole = path.read_bytes()
    for length in (0, 10, 300, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:length])
        with pytest.raises(InputVideoError) as caught:
            read_part(path)
        assert str(path) in caught.value.message


def test_a_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    """No damage gives other pixels; a byte that carries none (a time, a name) may be wrong."""
    path, dice = tmp_path / "p.mkv", random.Random(1)
    frames_THWC = noise(4, 33, 47)
    write_part(path, frames_THWC)
    whole = path.read_bytes()
    refused = 0
    for _ in range(40):
        raw = bytearray(whole)
        raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        path.write_bytes(raw)
        try:
            assert read_part(path).equal(frames_THWC)
        except InputVideoError:
            refused += 1
    assert refused >= 30


def test_what_is_no_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputVideoError, match="no such file"):
        read_part(tmp_path / "absent.mkv")
    write_video(tmp_path / "film.mp4", noise(3, 32, 32), 12)
    with pytest.raises(InputVideoError, match="not a part"):
        read_part(tmp_path / "film.mp4")


def test_a_part_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.mkv"
    write_part(path, noise(2, 16, 16))
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        write_part(path, noise(3, 16, 16))
    encode = parts_module._encode

    def encode_and_cut(part: Path, frames_THWC: torch.Tensor) -> None:
        encode(part, frames_THWC)
        part.write_bytes(part.read_bytes()[:-400])

    with monkeypatch.context() as patch:
        patch.setattr(parts_module, "_encode", encode_and_cut)
        with pytest.raises(OutputError, match="not all of it arrived"):
            write_part(path, noise(3, 16, 16), overwrite=True)
    assert path.read_bytes() == before
    write_part(path, noise(3, 16, 16), overwrite=True)
    assert len(read_part(path)) == 3
    assert os.listdir(tmp_path) == ["p.mkv"]
    for bad in (noise(2, 16, 16).float(), noise(2, 16, 16)[:0], noise(2, 16, 16)[0]):
        with pytest.raises(ValueError, match="frame"):
            write_part(tmp_path / "q.mkv", bad)


@oracle.needs_ffmpeg
def test_ffprobe_calls_it_lossless_rgb(tmp_path: Path) -> None:
    write_part(tmp_path / "p.mkv", noise(2, 16, 16))
    (stream,) = oracle.probe(tmp_path / "p.mkv", "stream=codec_name,pix_fmt")["streams"]
    assert stream == {"codec_name": "h264", "pix_fmt": "gbrp"}
