"""Our decode against ffmpeg's own, on real clips with every odd property we know of."""

import dataclasses
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest

from dcgrid.errors import InputVideoError
from dcgrid.video.clip import ClipRules
from dcgrid.video.decode import decode_frames
from dcgrid.video.read import decode_all, probe, read_clip, sample_frames

# Test folders are no packages; the oracle is loaded from its file.
_SPEC = importlib.util.spec_from_file_location(
    "ffmpeg_oracle", Path(__file__).with_name("ffmpeg_oracle.py")
)
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)

FRAMES = 6
RULES = ClipRules(
    fps=12,
    stride=4,
    max_frames=49,
    default_frames=33,
    cell_sizes=((96, 160), (160, 96), (128, 128)),
)
# name: matrix and range (written down from ffprobe's tags, or by height where there is none),
# stored height and width after the turn.
READS = {
    "asl_again.mkv": ("bt601", "full", 480, 640),
    "bigbuckbunny.mp4": ("bt709", "limited", 720, 1280),
    "carphone.mp4": ("bt601", "limited", 144, 176),
    "cockatoo.mp4": ("bt709", "limited", 720, 1280),
    "flower.mp4": ("bt601", "limited", 540, 960),
    "headpose_male.gif": ("auto", "rgb", 270, 480),
    "phone_white_dog_1080p_vfr.mp4": ("bt709", "limited", 1080, 1920),
    "rabbit320.mp4": ("bt601", "limited", 240, 320),
    "sam2_dog.mp4": ("bt709", "limited", 720, 1280),
    "shepard1906.ogv": ("bt601", "limited", 160, 218),
    "edge_alea_mpeg1_badduration.mpg": ("bt601", "limited", 240, 320),
    "edge_decord_corrupted.mp4": ("bt709", "limited", 720, 1280),
    "edge_mediabunny_annex-b.mp4": ("bt709", "limited", 1080, 1920),
    "edge_mediabunny_cursed-vfr.mp4": ("bt709", "limited", 1386, 3026),
    "edge_mediabunny_edts.mp4": ("bt709", "limited", 480, 854),
    "edge_mediabunny_frames.webm": ("bt709", "limited", 1080, 1080),
    "edge_mediabunny_rotate-buck-bunny.mp4": ("bt709", "limited", 1920, 1080),
    "edge_mediabunny_sar_2x1.mp4": ("bt601", "limited", 360, 640),
    "edge_mimetype_3gp.3gp": ("bt601", "limited", 288, 352),
    "edge_mimetype_flv.flv": ("bt601", "limited", 240, 320),
    "edge_mimetype_mov.mov": ("bt601", "limited", 320, 560),
    "edge_mimetype_ogg.ogv": ("bt601", "limited", 320, 560),
    "edge_mimetype_webm.webm": ("bt601", "limited", 320, 560),
    "edge_mjpeg_pcm_u8_face.avi": ("bt601", "full", 120, 160),
    "edge_moviepy_-video-with-dash-.mp4": ("bt601", "limited", 1, 1),
    "edge_moviepy_bitmap.mp4": ("bt601", "limited", 1, 1),
    "edge_moviepy_fire2.mp4": ("bt709", "limited", 720, 1280),
    "edge_moviepy_no_duration.webm": ("bt709", "limited", 720, 1280),
    "edge_moviepy_pigs_in_a_polka.gif": ("auto", "rgb", 273, 314),
    "edge_moviepy_transparent.webm": ("bt601", "limited", 200, 200),
    "edge_moviepy_video_with_failing_audio.mp4": ("bt601", "limited", 360, 640),
    "edge_mp4parse_no_timescale.mp4": ("bt601", "limited", 240, 320),
    "edge_mpeg4_bicycle.avi": ("bt601", "limited", 300, 400),
    "edge_newtonscradle.gif": ("auto", "rgb", 150, 200),
    "edge_small_8x8.webm": ("bt601", "limited", 8, 8),
    "edge_torchcodec_av1_video.mkv": ("bt709", "limited", 360, 640),
    "edge_torchcodec_bt709_full_range.mp4": ("bt709", "full", 720, 1280),
    "edge_torchcodec_h264_10bits.mp4": ("bt601", "limited", 200, 200),
    "edge_torchcodec_h265_10bits.mp4": ("bt601", "limited", 200, 200),
    "edge_torchcodec_nasa_13013.mp4": ("bt709", "limited", 270, 480),
    "edge_truncated_flower_moov_at_end.mp4": ("bt601", "limited", 540, 960),
    "edge_vp9_in_avi_187fps.avi": ("bt601", "limited", 240, 320),
}
# name: a piece of the sentence that the user gets.
FAILS = {
    "edge_mediabunny_multiple-aac-tracks.mp4": "no video in this file, only audio",
    "edge_mp4parse_invalid_userdata.mp4": "not one frame",
    "edge_mp4parse_zero_empty_stsc.mp4": "not one frame",
    "edge_small_broken.flv": "not a video that can be read",
    "edge_small_novideo.mp4": "no video in this file",
    "edge_zero_bytes.mp4": "empty",
    "README.md": "not a video that can be read",
}
ALPHA_DECODER = {"edge_moviepy_transparent.webm", "edge_moviepy_no_duration.webm"}
TURNS = {"edge_mediabunny_rotate-buck-bunny.mp4": 90, "edge_moviepy_fire2.mp4": 180}
UNSTAMPED = {"edge_alea_mpeg1_badduration.mpg"}
# Files without a constant frame rate.
VARYING = {
    "edge_mediabunny_cursed-vfr.mp4",
    "edge_moviepy_fire2.mp4",
    "edge_newtonscradle.gif",
    "edge_vp9_in_avi_187fps.avi",
    "phone_white_dog_1080p_vfr.mp4",
}


@oracle.needs_clips
def test_every_edge_clip_is_listed() -> None:
    there = {path.name for path in oracle.CLIPS.glob("edge_*")}
    assert there <= set(READS) | set(FAILS)


@oracle.needs_clips
@oracle.needs_ffmpeg
@pytest.mark.parametrize("name", READS)
def test_pixels_and_times_equal_ffmpeg(name: str) -> None:
    path = oracle.CLIPS / name
    matrix, reach, *size = READS[name]
    count = FRAMES if size[0] * size[1] < 500_000 else 3
    got = list(itertools.islice(decode_all(path), count))
    ours_THWC = np.stack([frame_HWC.numpy() for _, frame_HWC in got])
    assert ours_THWC.shape[1:3] == tuple(size)
    theirs_THWC = oracle.frames(
        path,
        tuple(size),
        count=count,
        matrix=matrix,
        full=reach == "full",
        alpha=reach == "rgb" or name in ALPHA_DECODER,
        decoder="libvpx-vp9" if name in ALPHA_DECODER else "",
    )
    assert len(ours_THWC) == len(theirs_THWC)
    gap = np.abs(ours_THWC.astype(int) - theirs_THWC)
    # Two versions of swscale and two H.264 decoders: the same but for rounding here and there.
    assert gap.mean() < 0.02
    assert (gap > 6).mean() < 0.001
    if name not in UNSTAMPED:
        times = oracle.frame_times(path, count)
        assert np.allclose([time_s for time_s, _ in got], times, atol=2e-6)


@oracle.needs_clips
@pytest.mark.parametrize("name", READS)
def test_every_readable_clip_becomes_a_clip(name: str) -> None:
    clip, plan = read_clip(oracle.CLIPS / name, RULES)
    frames_T = len(clip.frames_THWC)
    assert (frames_T - 1) % RULES.stride == 0
    assert 5 <= frames_T <= 33
    assert tuple(clip.frames_THWC.shape[1:3]) in RULES.cell_sizes
    assert plan.num_frames == frames_T
    lines = plan.lines()
    assert all(line and line.isascii() and line[-1] in ".)" for line in lines), lines


@oracle.needs_clips
@pytest.mark.parametrize("name", FAILS)
def test_every_unreadable_clip_gets_one_sentence(name: str) -> None:
    path = oracle.CLIPS / name
    with pytest.raises(InputVideoError) as caught:
        read_clip(path, RULES)
    assert FAILS[name] in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message


@oracle.needs_clips
@oracle.needs_ffmpeg
@pytest.mark.parametrize("name", sorted(VARYING))
def test_every_moment_shows_the_nearest_frame(name: str) -> None:
    """Which frames are picked, worked out anew from ffprobe's times."""
    path = oracle.CLIPS / name
    assert probe(path).is_vfr
    times = oracle.frame_times(path, 10_000)
    numbered = (
        dataclasses.replace(timed, frame=index) for index, timed in enumerate(decode_frames(path))
    )
    picked = [timed.frame for timed in sample_frames(numbered, start_s=0, fps=12, count=10_000)]
    assert (len(picked) + 0.5) / 12 >= times[-1]
    for index, choice in enumerate(picked):
        # Nearest in time, but at most half a step (1/24 s) early.
        allowed = np.flatnonzero(times < index / 12 + 1 / 24)
        assert choice == allowed[np.argmin(np.abs(times[allowed] - index / 12))]


@oracle.needs_clips
def test_turn_pixel_shape_and_alpha_are_seen() -> None:
    for name, degrees in TURNS.items():
        assert probe(oracle.CLIPS / name).rotation == degrees
    wide = probe(oracle.CLIPS / "edge_mediabunny_sar_2x1.mp4")
    assert (wide.width, wide.height, wide.sar) == (1280, 360, 2)
    assert probe(oracle.CLIPS / "edge_moviepy_transparent.webm").has_alpha
    assert not probe(oracle.CLIPS / "edge_mediabunny_frames.webm").has_alpha


@oracle.needs_clips
@pytest.mark.parametrize("name", ["flower.mp4", "elf.webm", "headpose_male.gif", "bikes.mp4"])
@pytest.mark.parametrize("start_s", [0.25, 1.5, 3.0])
def test_seeking_gives_what_reading_from_the_top_gives(name: str, start_s: float) -> None:
    path = oracle.CLIPS / name
    short = ClipRules(fps=12, stride=4, max_frames=9, cell_sizes=((96, 160),))
    long = ClipRules(fps=12, stride=1, max_frames=60, cell_sizes=((96, 160),))
    from_start, plan = read_clip(path, short, start_s=start_s)
    whole, _ = read_clip(path, long)
    first = round(start_s * 12)
    same = whole.frames_THWC[first : first + 9]
    assert plan.start_s == start_s
    assert len(same) == 9
    assert (from_start.frames_THWC == same).all()
