"""Windows of a planned clip: the pixels of the whole read, however the windows lie."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from dcgrid.errors import InputVideoError, UsageError
from dcgrid.video import frames as frames_module
from dcgrid.video.clip import ClipPlan, ClipRules
from dcgrid.video.decode import DecodeTally
from dcgrid.video.frames import CellFrames
from dcgrid.video.read import measure_plan, plan_clip, probe, read_clip
from dcgrid.video.write import write_video

_SPEC = importlib.util.spec_from_file_location(
    "ffmpeg_oracle", Path(__file__).with_name("ffmpeg_oracle.py")
)
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)

SHORT = ClipRules(fps=12, stride=4, max_frames=33, cell_sizes=((24, 40), (40, 24)))
KEEP = ClipRules(
    fps=12, stride=4, max_frames=33, longest=401, cell_sizes=((40, 40),), keeps_all=True
)
LONG = ClipRules(fps=12, stride=4, max_frames=33, longest=401, cell_sizes=((24, 40), (40, 24)))
CLIPS = (
    "phone_white_dog_1080p_vfr.mp4",
    "flower.webm",
    "sam2_dog.mp4",
    "headpose_female.gif",
    "edge_mediabunny_cursed-vfr.mp4",
    "edge_mimetype_ogg.ogv",
    "edge_vp9_in_avi_187fps.avi",
    "edge_torchcodec_h265_10bits.mp4",
    "edge_mediabunny_rotate-buck-bunny.mp4",
)


def read_window(path: Path, plan: ClipPlan, first: int, count: int) -> torch.Tensor:
    return CellFrames(path, plan).stretch(first, count)


def noise_film(path: Path, frames: int, fps: float = 12) -> Path:
    """Every frame differs from every other, and H.264 needs many bits to say how."""
    generator = torch.Generator().manual_seed(frames)
    coarse_THWC = torch.rand(frames, 3, 5, 3, generator=generator) * 255
    fine_THWC = coarse_THWC.byte().repeat_interleave(16, 1).repeat_interleave(16, 2)
    write_video(path, fine_THWC, fps)
    return path


def windows(total: int) -> list[tuple[int, int]]:
    """Windows at the start, in the middle and at the end."""
    found = {(0, 4), (1, 1), (total // 3, 7), (2 * total // 3, 5), (total - 3, 3), (total - 1, 1)}
    return [(first, min(count, total - first)) for first, count in sorted(found) if first < total]


def check_windows(path: Path, whole_THWC: torch.Tensor, plan: ClipPlan) -> None:
    for first, count in windows(plan.num_frames):
        window_THWC = read_window(path, plan, first, count)
        assert window_THWC.equal(whole_THWC[first : first + count]), (path.name, first, count)


@pytest.mark.parametrize(("fps", "start_s"), [(12, 0.0), (12, 1.3), (30, 0.4), (7.5, 0.0)])
def test_windows_are_slices_of_the_whole(tmp_path: Path, fps: float, start_s: float) -> None:
    path = noise_film(tmp_path / "a.mp4", 90, fps)
    clip, plan = read_clip(path, LONG, start_s=start_s, duration_s=math.inf)
    check_windows(path, clip.frames_THWC, plan)
    joined = [read_window(path, plan, i, min(9, plan.num_frames - i))
              for i in range(0, plan.num_frames, 9)]  # fmt: skip
    assert torch.cat(joined).equal(clip.frames_THWC)


@oracle.needs_clips
@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("start_s", [0.0, 0.7])
def test_windows_of_real_clips(name: str, start_s: float) -> None:
    path = oracle.CLIPS / name
    clip, plan = read_clip(path, LONG, start_s=start_s, duration_s=5)
    check_windows(path, clip.frames_THWC, plan)
    measured = measure_plan(plan.info, LONG, start_s, 5)
    assert (measured.num_frames, measured.duration_s) == (plan.num_frames, plan.duration_s)


def test_held_frames_are_held_in_windows(tmp_path: Path) -> None:
    path = noise_film(tmp_path / "a.mp4", 2)
    clip, plan = read_clip(path, LONG)
    assert (plan.num_frames, plan.held_frames) == (5, 3)
    assert not clip.frames_THWC[0].equal(clip.frames_THWC[1])
    assert clip.frames_THWC[1].equal(clip.frames_THWC[4])
    for first in range(5):
        for count in range(1, 6 - first):
            window_THWC = read_window(path, plan, first, count)
            assert window_THWC.equal(clip.frames_THWC[first : first + count])


def test_stretches_that_go_forwards_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noise_film(tmp_path / "a.mp4", 90, 30)
    clip, plan = read_clip(path, KEEP)
    starts = []
    decode = frames_module.decode_frames
    monkeypatch.setattr(
        frames_module,
        "decode_frames",
        lambda *args, **kwargs: starts.append(kwargs["start_s"]) or decode(*args, **kwargs),
    )
    frames = CellFrames(path, plan)
    for first in range(0, plan.num_frames - 9, 5):
        assert frames.stretch(first, 9).equal(clip.frames_THWC[first : first + 9])
    assert starts == [0.0]
    assert frames.stretch(20, 4).equal(clip.frames_THWC[20:24])
    assert starts == [0.0, pytest.approx(20 / 12 - 1)]


def test_of_a_clip_that_is_kept_nothing_is_lost(tmp_path: Path) -> None:
    path = noise_film(tmp_path / "a.mp4", 50, 25)  # 2 s of 80x48
    clip, plan = read_clip(path, KEEP)
    assert (plan.num_frames, plan.held_frames) == (25, 1)
    assert (plan.duration_s, plan.to_end, plan.scaled_size) == (2.0, True, (24, 40))
    rows, cols = plan.picture
    assert (rows, cols) == (slice(8, 32), slice(0, 40))
    # Above and below the picture is its mirror image.
    assert clip.frames_THWC[:, 7].equal(clip.frames_THWC[:, 9])
    assert clip.frames_THWC[:, 32].equal(clip.frames_THWC[:, 30])
    last, _ = read_clip(path, KEEP, start_s=1.96)
    assert clip.frames_THWC[24].equal(last.frames_THWC[0])
    part = plan_clip(probe(path), KEEP, 0.5, 1.0)
    assert (part.num_frames, part.held_frames, part.to_end) == (13, 0, False)
    assert plan_clip(probe(path), KEEP, 0.53).start_s == 0.52  # where a frame begins


def test_a_late_window_is_not_decoded_from_the_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noise_film(tmp_path / "a.mp4", 700)  # x264 sets a key frame every 250 at least
    plan = plan_clip(probe(path), ClipRules(
        fps=12, stride=4, max_frames=33, longest=701, cell_sizes=((24, 40),)
    ), duration_s=math.inf)  # fmt: skip
    tallies: list[DecodeTally] = []

    def keep_tally() -> DecodeTally:
        tallies.append(DecodeTally())
        return tallies[-1]

    monkeypatch.setattr(frames_module, "DecodeTally", keep_tally)
    assert len(read_window(path, plan, 560, 8)) == 8
    (tally,) = tallies
    assert tally.frames < 300
    assert not tally.reached_end


def test_windows_outside_the_clip_are_refused(tmp_path: Path) -> None:
    path = noise_film(tmp_path / "a.mp4", 20)
    plan = plan_clip(probe(path), SHORT)
    assert plan.num_frames == 17
    for first, count in ((-1, 3), (0, 0), (15, 3), (17, 1)):
        with pytest.raises(ValueError, match="of a clip of 17"):
            read_window(path, plan, first, count)


def test_a_file_that_ends_before_its_plan_says_where(tmp_path: Path) -> None:
    path = noise_film(tmp_path / "a.mp4", 60)
    plan = plan_clip(probe(path), LONG, duration_s=math.inf)
    noise_film(tmp_path / "short.mp4", 30)
    assert len(read_window(tmp_path / "short.mp4", plan, 20, 10)) == 10
    for first, count in ((28, 5), (50, 7)):
        with pytest.raises(InputVideoError, match=r"ends early, at 2\.50 s") as caught:
            read_window(tmp_path / "short.mp4", plan, first, count)
        assert "--duration 2.50" in caught.value.hint
    with pytest.raises(InputVideoError, match="no such file"):
        read_window(tmp_path / "absent.mp4", plan, 0, 1)


def test_longer_than_a_window_only_where_it_is_allowed_and_asked_for(tmp_path: Path) -> None:
    info = probe(noise_film(tmp_path / "a.mp4", 100))
    longer = ClipRules(
        fps=12, stride=4, max_frames=33, default_frames=17, longest=81, cell_sizes=((24, 40),)
    )
    assert plan_clip(info, longer).num_frames == 17  # no duration asked: as ever
    assert plan_clip(info, LONG).num_frames == 33
    assert plan_clip(info, SHORT, duration_s=5).num_frames == 33
    assert plan_clip(info, LONG, duration_s=5).num_frames == 57  # 60, down to 4 n + 1
    assert plan_clip(info, LONG, duration_s=99).num_frames == 97
    capped = plan_clip(info, longer, duration_s=99)
    assert capped.num_frames == 81
    assert capped.dropped_s == pytest.approx((100 - 81) / 12)
    assert any(line.startswith("Dropped: 1.58 s") for line in capped.lines())
    clip, plan = read_clip(info.path, longer, duration_s=99)
    assert plan == capped
    assert len(clip.frames_THWC) == 81
    with pytest.raises(ValueError, match="longest is less"):
        ClipRules(fps=12, stride=4, max_frames=33, longest=32, cell_sizes=((24, 40),))


def test_the_whole_source(tmp_path: Path) -> None:
    path = noise_film(tmp_path / "a.mp4", 100)
    info = probe(path)
    for start_s, expected in ((None, 97), (1.0, 85), (8.0, 5)):
        plan = plan_clip(info, LONG, start_s, math.inf)
        assert plan.num_frames == expected
        assert plan == read_clip(path, LONG, start_s=start_s, duration_s=math.inf)[1]
        assert plan == measure_plan(info, LONG, start_s, math.inf)
        assert not plan.is_guess
    for bad in (math.nan, -math.inf, 0.0):
        with pytest.raises(UsageError, match="--duration"):
            plan_clip(info, LONG, duration_s=bad)
    with pytest.raises(UsageError, match="--duration"):
        plan_clip(info, SHORT, duration_s=math.inf)


@oracle.needs_ffmpeg
def test_a_source_of_unknown_length(tmp_path: Path) -> None:
    """A raw stream says nothing of its length, and is too long for the probe to count."""
    path = tmp_path / "a.m4v"
    oracle.run("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=48x32:rate=50:"
               "duration=20", "-c:v", "mpeg4", "-f", "m4v", path)  # fmt: skip
    info = probe(path)
    assert (info.num_frames, info.duration_s) == (None, None)
    rules = ClipRules(fps=50, stride=4, max_frames=33, longest=2001, cell_sizes=((24, 40),))
    guess = plan_clip(info, rules, duration_s=math.inf)
    assert (guess.num_frames, guess.is_guess, guess.dropped_s) == (2001, True, None)
    assert any("does not say how long" in line for line in guess.lines())
    true = measure_plan(info, rules, None, math.inf)
    assert (true.num_frames, true.is_guess) == (997, False)
    assert true.dropped_s == pytest.approx(3 / 50)
    assert not any("does not say how long" in line for line in true.lines())
    # A finite duration is planned as ever.
    assert plan_clip(info, rules, duration_s=2).num_frames == 97
