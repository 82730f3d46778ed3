"""Time stamps that jump, stray or begin in the middle: as long, and in step, as ffmpeg has them."""

import importlib.util
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dcgrid.errors import InputVideoError
from dcgrid.video.clip import ClipRules
from dcgrid.video.decode import decode_frames
from dcgrid.video.frames import clock_tick, source_frames
from dcgrid.video.read import measure_plan, plan_clip, probe, read_clip
from dcgrid.video.stamps import stray_stamps
from dcgrid.video.write import Timing, write_pictures

_SPEC = importlib.util.spec_from_file_location(
    "ffmpeg_oracle", Path(__file__).with_name("ffmpeg_oracle.py")
)
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)
pytestmark = oracle.needs_ffmpeg

KEEP = ClipRules(
    fps=12, stride=4, max_frames=33, longest=1_000_001, cell_sizes=((48, 80),), keeps_all=True
)
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "24", "-pix_fmt", "yuv420p", "-c:a", "aac")
OGG = (
    *("-c:v", "libtheora", "-pix_fmt", "yuv420p", "-c:a", "libvorbis"),
    *("-fflags", "+bitexact", "-serial_offset", "1"),  # the same streams in each part
)
MPEG = ("-c:v", "mpeg2video", "-q:v", "3", "-c:a", "mp2")


def film(path: Path, *options: str, seconds: float = 2, tone: int = 440) -> Path:
    """Moving shapes at 24 fps, with a tone."""
    codecs = {".mpg": MPEG, ".ogv": OGG}.get(path.suffix, H264)
    oracle.run(
        "ffmpeg", "-v", "error", "-y",
        "-f", "lavfi", "-i", f"testsrc2=s=80x48:r=24:d={seconds}",
        "-f", "lavfi", "-i", f"sine={tone}:d={seconds}", *codecs, *options, path,
    )  # fmt: skip
    return path


def silent(path: Path, times: str, frames: int = 48) -> Path:
    """Moving shapes without sound, frame N shown at `times`, an expression of FFmpeg's setpts."""
    oracle.run(
        "ffmpeg", "-v", "error", "-f", "lavfi", "-i", f"testsrc2=s=80x48:r=24:d={frames / 24}",
        "-vf", f"setpts={times}", "-fps_mode", "passthrough", *H264, path,
    )  # fmt: skip
    return path


def joined(folder: Path, *, later_first: bool, seconds: float = 2, ending: str = "ts") -> Path:
    """Two recordings of one tone each, 500 s apart on their clocks, as `cat` joins them."""
    parts = [
        film(folder / f"0.{ending}", seconds=seconds, tone=440),
        film(folder / f"1.{ending}", "-output_ts_offset", "500", seconds=seconds, tone=1760),
    ]
    path = folder / f"joined.{ending}"
    path.write_bytes(b"".join(p.read_bytes() for p in (parts[::-1] if later_first else parts)))
    return path


def decoded_by_ffmpeg(path: Path) -> int:
    lines = oracle.run(
        "ffmpeg", "-v", "quiet", "-i", path, "-map", "0:v", "-fps_mode", "passthrough",
        "-f", "framecrc", "-",
    )  # fmt: skip
    return sum(line.startswith(b"0,") for line in lines.splitlines())


def pitch(path: Path, at_s: float) -> float:
    """The strongest frequency of a file's sound in a quarter of a second."""
    raw = oracle.run(
        "ffmpeg", "-v", "error", "-i", path, "-af", "aresample=async=1:first_pts=0", "-ac", "1",
        "-ar", "8000", "-f", "f32le", "-",
    )  # fmt: skip
    sound = np.frombuffer(raw, np.float32)[int(at_s * 8000) :][:2000]
    return float(np.abs(np.fft.rfft(sound)).argmax() * 4)


def written(path: Path, out: Path) -> Path:
    """All of a file, written again with its sound as a result is."""
    clip, plan = read_clip(path, KEEP)
    write_pictures(
        out,
        lambda: source_frames(path, plan),
        Timing(fps=plan.info.rate or Fraction(24), tick=clock_tick(plan.info)),
        sound=clip.sound(),
    )
    return out


@pytest.mark.parametrize("ending", ["ts", "mpg"])
@pytest.mark.parametrize("later_first", [False, True])
def test_joined_recordings_go_on(tmp_path: Path, later_first: bool, ending: str) -> None:
    path = joined(tmp_path, later_first=later_first, ending=ending)
    plan = plan_clip(probe(path), KEEP)
    assert plan.info.num_frames == decoded_by_ffmpeg(path)
    assert plan.duration_s == pytest.approx(4, abs=0.1)
    assert any("time stamps jump at 1.9" in line or "jump at 2.0" in line for line in plan.lines())
    assert measure_plan(plan.info, KEEP).num_frames == plan.num_frames
    out = written(path, tmp_path / "out.mp4")
    assert float(oracle.probe(out, "format=duration")["format"]["duration"]) < 4.2
    tones = [1760, 440] if later_first else [440, 1760]
    assert [pitch(out, 1.0), pitch(out, 3.0)] == tones
    # Picture and sound change together: to within a packet of sound and the pause at the joint.
    assert pitch(out, 1.65) == tones[0]
    assert pitch(out, 2.1) == tones[1]


def test_joined_ogg_stays_in_step(tmp_path: Path) -> None:
    """Ogg stores a second of each stream in turn: sound of before comes after the jump."""
    parts = [film(tmp_path / f"{tone}.ogv", tone=tone) for tone in (440, 1760)]
    path = tmp_path / "joined.ogv"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    # Theora stores a picture that is the one before as an empty packet.
    assert len(list(decode_frames(parts[0]))) == decoded_by_ffmpeg(parts[0]) > 40
    assert len(list(decode_frames(path))) == 2 * decoded_by_ffmpeg(parts[0])
    plan = plan_clip(probe(path), KEEP)
    assert plan.duration_s == pytest.approx(4, abs=0.2)
    assert len([line for line in plan.lines() if "time stamps jump at 2.0" in line]) == 1
    out = written(path, tmp_path / "out.mp4")
    assert [pitch(out, at_s) for at_s in (1.0, 1.65, 2.4, 3.0)] == [440, 440, 1760, 1760]


def test_after_a_jump_reading_from_the_middle_finds_the_same_frames(tmp_path: Path) -> None:
    path = joined(tmp_path, later_first=True)
    whole, _ = read_clip(path, KEEP)
    for start_s in (1.0, 2.5, 3.5):
        assert next(decode_frames(path, start_s=start_s)).time_s <= start_s
        clip, _ = read_clip(path, KEEP, start_s=start_s, duration_s=0.25)
        at = round(start_s * 12)
        assert clip.frames_THWC[:3].equal(whole.frames_THWC[at : at + 3])


def test_a_jump_after_the_first_half_minute_is_planned(tmp_path: Path) -> None:
    info = probe(joined(tmp_path, later_first=True, seconds=45))
    assert info.duration_s == pytest.approx(90, abs=0.2)
    assert info.num_frames == 2160


HOUR = "'if(gte(N,24),PTS+3600/TB,PTS)'"
LAST = "'if(eq(N,47),PTS+10800/TB,PTS)'"


def test_a_hole_is_closed_where_stamps_may_jump(tmp_path: Path) -> None:
    path = silent(tmp_path / "hole.ts", HOUR)
    plan = plan_clip(probe(path), KEEP)
    assert (plan.info.num_frames, round(plan.duration_s, 1)) == (48, 2.0)
    times = [timed.time_s for timed in decode_frames(path)]
    assert times == pytest.approx([n / 24 for n in range(48)], abs=0.05)


@pytest.mark.parametrize(
    ("ending", "times", "frames"),
    [("mp4", HOUR, 48), ("mkv", HOUR, 1000), ("mkv", LAST, 48), ("mp4", LAST, 1000)],
)
def test_absurd_lengths_are_asked_about(
    tmp_path: Path, ending: str, times: str, frames: int
) -> None:
    path = silent(tmp_path / f"hole.{ending}", times.replace("47", str(frames - 1)), frames=frames)
    before_s = 1.0 if times == HOUR else (frames - 1) / 24
    info = probe(path)
    with pytest.raises(InputVideoError, match=f"from {before_s:.2f} s on no new picture") as caught:
        plan_clip(info, KEEP)
    assert f"--duration {before_s:.2f} takes what comes before" in caught.value.hint
    assert plan_clip(info, KEEP, 0, before_s).duration_s == pytest.approx(before_s, abs=0.01)
    whole_s = info.duration_s
    assert plan_clip(info, KEEP, 0, whole_s).duration_s == whole_s > 3600
    after = plan_clip(info, KEEP, whole_s - 0.04)
    assert after.duration_s < 0.1


def test_a_still_picture_with_sound_is_no_hole(tmp_path: Path) -> None:
    still = silent(tmp_path / "still.mkv", "'if(gte(N,24),PTS+100/TB,PTS)'")
    path = tmp_path / "talk.mkv"
    oracle.run(
        "ffmpeg", "-v", "error", "-i", still, "-f", "lavfi", "-i", "sine=440:d=102",
        "-c:v", "copy", "-c:a", "aac", path,
    )  # fmt: skip
    assert plan_clip(probe(path), KEEP).duration_s == pytest.approx(102, abs=0.1)
    with pytest.raises(InputVideoError, match="no new picture"):
        plan_clip(probe(still), KEEP)


@pytest.mark.parametrize(("place", "ending"), [(20, "mp4"), (30, "mkv"), (0, "ts"), (30, "ts")])
def test_one_frame_hours_ahead_is_shown_in_its_turn(
    tmp_path: Path, place: int, ending: str
) -> None:
    path = tmp_path / f"stray.{ending}"
    stray = f"setts=pts='if(eq(N,{place}),PTS+5000/TB,PTS)'"
    oracle.run("ffmpeg", "-v", "error", "-i", film(tmp_path / "a.mp4"), "-c", "copy",
               "-bsf:v", stray, path)  # fmt: skip
    info = probe(path)
    assert (info.num_frames, round(info.duration_s, 1)) == (48, 2.0)
    assert any("1 time stamp is far ahead" in line for line in info.warnings)
    assert info.origin_s < 100
    times = [timed.time_s for timed in decode_frames(path)]
    assert times == pytest.approx([n / 24 for n in range(48)], abs=0.05)


def test_frames_that_are_stored_early_are_no_strays() -> None:
    ordinary = [0.0, 0.12, 0.04, 0.08, 0.24, 0.16, 0.2]
    slides = [90, 30, 60, 180, 120, 150, 270, 210, 240]
    assert stray_stamps([*ordinary, *slides], 10) == set()
    assert stray_stamps([0, 1, 2, 900, 3, 4, 5, 6], 10) == {3}
    assert stray_stamps([0, 1, 2, 3, 4, 900], 10) == set()  # nothing says which is wrong
    assert stray_stamps([900, 1, 2, 3], 10) == {0}


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_a_file_that_begins_between_key_frames(tmp_path: Path, ending: str) -> None:
    whole, path = film(tmp_path / "whole.mp4", "-g", "48", seconds=6), tmp_path / f"cut.{ending}"
    oracle.run("ffmpeg", "-v", "error", "-i", whole, "-ss", "0.5", "-c", "copy", "-copyinkf", path)
    clip, plan = read_clip(path, KEEP)
    assert plan.info.num_frames == decoded_by_ffmpeg(path) == 96
    assert plan.duration_s == pytest.approx(4, abs=0.01)
    assert plan_clip(plan.info, KEEP).num_frames == plan.num_frames == len(clip.frames_THWC)
    assert any("begins between key frames" in line for line in plan.lines())
    end, _ = read_clip(whole, KEEP, start_s=2.0)
    gap = (clip.frames_THWC.int() - end.frames_THWC.int()).abs().float().mean()
    assert gap < 0.5


def test_a_file_that_ends_early_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    """The packets are there, but those of the last second hold nothing."""
    path = film(tmp_path / "a.mkv", "-g", "24", seconds=3)
    raw = bytearray(path.read_bytes())
    positions = oracle.probe(path, "packet=pos,pts_time,size", "-select_streams", "v")["packets"]
    for packet in positions:
        if float(packet["pts_time"]) >= 2:
            at = int(packet["pos"]) + 12
            raw[at : at + int(packet["size"]) - 8] = bytes(int(packet["size"]) - 8)
    path.write_bytes(raw)
    clip, plan = read_clip(path, KEEP)
    assert plan.duration_s == pytest.approx(2, abs=0.1)
    assert len(clip.frames_THWC) == plan.num_frames == 25
    assert any("Damaged" in line for line in plan.lines())


def test_an_ordinary_file_has_nothing_to_mend(tmp_path: Path) -> None:
    for ending in ("mp4", "mkv", "ts", "mpg", "avi"):
        info = probe(film(tmp_path / f"a.{ending}"))
        assert (info.num_frames, info.pause) == (48, None)
        assert not any("stamp" in line or "decoded" in line for line in info.warnings), ending


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_frames_that_a_decoder_holds_back_come_where_sound_is_stored_first(
    tmp_path: Path, ending: str
) -> None:
    path = film(tmp_path / f"a.{ending}", "-map", "1", "-map", "0", "-bf", "3", "-threads", "1")
    assert probe(path).num_frames == 48
    frames = list(decode_frames(path))
    assert len(frames) == decoded_by_ffmpeg(path) == 48
    assert frames[-1].end_s == pytest.approx(2.0, abs=0.002)
