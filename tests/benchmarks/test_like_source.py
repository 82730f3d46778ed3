"""The comparison of a result with its source finds what it is there to find."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.like_source import SOUND_RATE, differences, look_at, sound_shift_s
from tests.tools import needs

pytestmark = needs("ffmpeg", "ffprobe")


def made(path: Path, *options: str, rate: int = 24) -> Path:
    source = f"testsrc2=s=64x48:r={rate}:d=2"
    sound = "aevalsrc=sin(900*t*t)*0.5:d=2"
    words = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-f", "lavfi", "-i", sound]
    subprocess.run([*words, *options, "-shortest", str(path)], check=True)
    return path


def test_a_file_is_like_itself_in_another_container(tmp_path: Path) -> None:
    one = look_at(made(tmp_path / "a.mp4"))
    assert (one.size, len(one.times_s), round(one.end_s, 2)) == ((64, 48), 48, 2.0)
    assert differences(one, look_at(made(tmp_path / "b.mkv"))) == []


@pytest.mark.parametrize(
    ("options", "rate", "found"),
    [
        (("-vf", "scale=96:48,setsar=1"), 24, ["96x48 in place of 64x48"]),
        (("-t", "1.5"), 24, ["36 frames in place of 48", "1.500 s in place of 2.000 s"]),
        (("-an",), 24, ["sound on one side only"]),
        (("-af", "adelay=120"), 24, ["sound +120 ms"]),
        ((), 25, ["50 frames in place of 48", "times differ by up to 78.3 ms"]),
    ],
)
def test_each_difference_is_named(
    tmp_path: Path, options: tuple[str, ...], rate: int, found: list[str]
) -> None:
    source = look_at(made(tmp_path / "a.mp4"))
    assert differences(source, look_at(made(tmp_path / "b.mp4", *options, rate=rate))) == found


def test_a_shift_of_sound_is_measured() -> None:
    sound_N = np.random.default_rng(0).normal(size=2 * SOUND_RATE).astype(np.float32)
    for shift in (-160, 0, 400):
        assert sound_shift_s(sound_N, np.roll(sound_N, shift)) == shift / SOUND_RATE
