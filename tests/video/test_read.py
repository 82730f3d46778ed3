"""Reading rules on small films made for the purpose: length, rate, size, turn, colour, errors."""

import importlib.util
import itertools
import math
import os
import shlex
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dcgrid.errors import InputVideoError, UsageError
from dcgrid.video import color
from dcgrid.video.clip import ClipRules
from dcgrid.video.decode import DecodeTally, decode_frames
from dcgrid.video.read import decode_all, plan_clip, probe, read_clip
from dcgrid.video.sheet import write_png
from dcgrid.video.write import write_video

_SPEC = importlib.util.spec_from_file_location(
    "ffmpeg_oracle", Path(__file__).with_name("ffmpeg_oracle.py")
)
oracle = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(oracle)

RULES = ClipRules(fps=12, stride=4, max_frames=33, cell_sizes=((96, 160), (160, 96), (128, 128)))


def grey_film(path: Path, frames: int, fps: float = 12, size: tuple[int, int] = (48, 80)) -> Path:
    """Frame number i has the grey value 4 i, so that a frame tells its number."""
    values = torch.arange(frames).view(-1, 1, 1, 1) * 4 % 256
    write_video(path, values.expand(-1, *size, 3).to(torch.uint8), fps, overwrite=True)
    return path


def numbers(frames_THWC: torch.Tensor) -> list[int]:
    return [round(float(frame_HWC.float().mean()) / 4) for frame_HWC in frames_THWC]


def lavfi(
    path: Path, *options: str, source: str = "testsrc2=size=64x48:rate=10:duration=0.5"
) -> None:
    oracle.run("ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *options, path)


@pytest.mark.parametrize(
    ("frames", "expected", "held"), [(33, 33, 0), (31, 29, 0), (7, 5, 0), (4, 5, 1), (1, 5, 4)]
)
def test_length_is_a_multiple_of_the_stride_plus_one(
    tmp_path: Path, frames: int, expected: int, held: int
) -> None:
    path = grey_film(tmp_path / "a.mp4", frames)
    clip, plan = read_clip(path, RULES)
    real = expected - held
    assert numbers(clip.frames_THWC) == [*range(real), *[real - 1] * held]
    assert (plan.num_frames, plan.held_frames) == (expected, held)
    assert clip.duration_s == pytest.approx(real / 12)
    assert any("held" in line for line in plan.lines()) == bool(held)
    assert plan == plan_clip(probe(path), RULES)  # what a dry run says is what happens


def test_default_length_longest_length_and_asked_length(tmp_path: Path) -> None:
    path = grey_film(tmp_path / "a.mp4", 60)
    rules = ClipRules(
        fps=12, stride=4, max_frames=33, default_frames=17, cell_sizes=RULES.cell_sizes
    )
    assert len(read_clip(path, rules)[0].frames_THWC) == 17
    assert len(read_clip(path, rules, duration_s=100)[0].frames_THWC) == 33
    clip, plan = read_clip(path, rules, start_s=1, duration_s=1)
    assert numbers(clip.frames_THWC) == list(range(12, 21))
    assert plan.dropped_s == pytest.approx(0.25)
    assert any("Dropped: 0.25 s" in line for line in plan.lines())


def test_a_still_picture_is_held(tmp_path: Path) -> None:
    write_png(tmp_path / "still.png", torch.full((20, 20, 3), 77, dtype=torch.uint8))
    clip, plan = read_clip(tmp_path / "still.png", RULES)
    assert clip.frames_THWC.shape == (5, 128, 128, 3)
    assert (clip.frames_THWC == 77).all()
    assert plan.held_frames == 4


@pytest.mark.parametrize(("fps", "first"), [(24, [0, 2, 4]), (6, [0, 0, 1]), (12.5, [0, 1, 2])])
def test_frame_rate_changes_by_time(tmp_path: Path, fps: float, first: list[int]) -> None:
    path = grey_film(tmp_path / "a.mp4", 30, fps)
    clip, plan = read_clip(path, RULES)
    picked = numbers(clip.frames_THWC)
    if fps == 6:  # a slow film is never shown early by more than half a step
        assert picked[::2] == list(range(len(picked[::2])))
    else:
        assert picked[:3] == first
        assert picked == [round(i * fps / 12) for i in range(len(picked))]
    assert any(line.startswith("Resampled") for line in plan.lines())


def test_decoding_stops_when_enough_is_read(tmp_path: Path) -> None:
    path = grey_film(tmp_path / "a.mp4", 300, size=(16, 16))
    tally = DecodeTally()
    list(itertools.islice(decode_frames(path, start_s=20, tally=tally), 3))
    assert tally.frames < 300
    assert not tally.reached_end


def test_wide_and_tall_films_get_their_cell(tmp_path: Path) -> None:
    for size, cell in (((90, 160), (96, 160)), ((160, 90), (160, 96)), ((100, 110), (128, 128))):
        path = grey_film(tmp_path / "a.mp4", 5, size=size)
        _, plan = read_clip(path, RULES)
        assert plan.cell_size == cell
        # Covered, not stretched: both sides are scaled alike, to within a pixel.
        tall, wide = plan.scaled_size
        assert abs(tall / size[0] - wide / size[1]) * max(size) <= 1
        assert tall >= cell[0]
        assert wide >= cell[1]
        assert tall == cell[0] or wide == cell[1]


def test_scaling_does_not_alias_and_crops_the_middle() -> None:
    stripes_HWC = torch.zeros(96 * 8, 160 * 8, 3, dtype=torch.uint8)
    stripes_HWC[:, ::2] = 255  # finer than any pixel of the cell: must come out grey
    frame = av.VideoFrame.from_ndarray(stripes_HWC.numpy(), format="rgb24")
    out_HWC = color.render_frame(frame, Fraction(1), color.Turn(), (96, 160))
    assert (out_HWC[:, 4:-4].float() - 127.5).abs().max() < 6
    marked_HWC = torch.zeros(96, 320, 3, dtype=torch.uint8)
    marked_HWC[:, 80:240] = 200
    frame = av.VideoFrame.from_ndarray(marked_HWC.numpy(), format="rgb24")
    out_HWC = color.render_frame(frame, Fraction(1), color.Turn(), (96, 160))
    assert (out_HWC == 200).all()


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (3, 2000)])
def test_extreme_strips_do_not_explode(size: tuple[int, int]) -> None:
    frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 90, np.uint8), format="rgb24")
    out_HWC = color.render_frame(frame, Fraction(1), color.Turn(), (96, 160))
    assert out_HWC.shape == (96, 160, 3)
    assert (out_HWC == 90).all()


ORIENTATIONS = [(a, 0, 0, d) for a in (-1, 1) for d in (-1, 1)]
ORIENTATIONS += [(0, b, c, 0) for b in (-1, 1) for c in (-1, 1)]


@oracle.needs_ffmpeg
@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_all_eight_orientations(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    """A display matrix written into the header by hand; ffmpeg turns and mirrors by it too."""
    path = tmp_path / "turned.mp4"
    y, x = torch.meshgrid(torch.arange(32), torch.arange(48), indexing="ij")
    # Grey: ffmpeg turns before it converts, which moves the chroma samples by half a pixel.
    picture_HWC = (3 * x + 2 * y)[..., None].expand(-1, -1, 3).to(torch.uint8)
    write_video(path, picture_HWC.expand(3, -1, -1, -1), 12)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    raw[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(raw)
    size = (48, 32) if matrix[0] == 0 else (32, 48)
    _, ours_HWC = next(iter(decode_all(path)))
    assert tuple(ours_HWC.shape[:2]) == size
    theirs_HWC = oracle.frames(path, size, count=1, matrix="bt709")[0]
    assert np.abs(ours_HWC.numpy().astype(int) - theirs_HWC).mean() < 0.1
    info = probe(path)
    assert (info.height, info.width) == size


@oracle.needs_ffmpeg
@pytest.mark.parametrize(
    ("options", "matrix", "full"),
    [
        (["-pix_fmt", "yuv420p10le", "-c:v", "ffv1"], "bt2020", 0),
        (["-pix_fmt", "yuv422p", "-c:v", "libx264", "-qp", "0"], "smpte170m", 1),
        (["-pix_fmt", "yuv444p", "-c:v", "ffv1"], "bt709", 0),
    ],
)
def test_tagged_matrix_and_range(
    tmp_path: Path, options: list[str], matrix: str, full: int
) -> None:
    path = tmp_path / "a.mkv"
    tag = {"bt2020": "bt2020nc"}.get(matrix, matrix)
    reach = "pc" if full else "tv"
    lavfi(path, "-vf", f"scale=out_color_matrix={matrix}:out_range={reach}", *options,
          "-colorspace", tag, "-color_range", reach)  # fmt: skip
    ours_THWC = np.stack([frame_HWC.numpy() for _, frame_HWC in decode_all(path)])
    theirs_THWC = oracle.frames(path, (48, 64), count=5, matrix=matrix, full=bool(full))
    gap = np.abs(ours_THWC.astype(int) - theirs_THWC)
    assert gap.mean() < 0.5
    other = "bt709" if matrix != "bt709" else "bt601"
    wrong_THWC = oracle.frames(path, (48, 64), count=5, matrix=other, full=bool(full))
    assert np.abs(wrong_THWC.astype(int) - theirs_THWC).mean() > 1.5  # the matrix does matter here
    assert not any("does not say" in line for line in probe(path).warnings)


@oracle.needs_ffmpeg
def test_hdr_is_announced(tmp_path: Path) -> None:
    path = tmp_path / "hdr.mkv"
    lavfi(path, "-pix_fmt", "yuv420p10le", "-c:v", "ffv1", "-colorspace", "bt2020nc",
          "-color_trc", "smpte2084", "-color_primaries", "bt2020")  # fmt: skip
    info = probe(path)
    assert any("HDR (PQ)" in line for line in info.warnings)
    assert "bt2020" in info.color


@oracle.needs_ffmpeg
def test_hdr_grey_comes_out_as_it_looks(tmp_path: Path) -> None:
    """A file whose every pixel is reference white in HLG: a bright white, not the brightest."""
    path = tmp_path / "hdr.mkv"
    lavfi(path, "-pix_fmt", "yuv420p10le", "-c:v", "ffv1", "-colorspace", "bt2020nc",
          "-color_trc", "arib-std-b67", "-color_primaries", "bt2020", "-color_range", "tv",
          source="color=0xBFBFBF:size=64x48:rate=10:duration=0.5")  # fmt: skip
    clip, _ = read_clip(path, RULES)
    assert clip.frames_THWC.float().mean().item() == pytest.approx(226, abs=3)
    assert clip.frames_THWC.float().std().item() < 1


@oracle.needs_ffmpeg
def test_transparency_is_put_over_black(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    half = "color=white:size=64x48:rate=10:duration=0.5,format=rgba,colorchannelmixer=aa=0.5"
    lavfi(path, "-c:v", "qtrle", source=half)
    clip, plan = read_clip(path, RULES)
    assert (clip.frames_THWC.int() - 127).abs().max() <= 1
    assert any("over black" in line for line in plan.lines())


@oracle.needs_ffmpeg
def test_music_with_a_cover_and_text_are_no_videos(tmp_path: Path) -> None:
    write_png(tmp_path / "cover.png", torch.zeros(16, 16, 3, dtype=torch.uint8))
    song = tmp_path / "song.mp3"
    oracle.run("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=duration=1", "-i",
               tmp_path / "cover.png", "-map", "0", "-map", "1", "-c:v", "copy",
               "-disposition:v", "attached_pic", song)  # fmt: skip
    with pytest.raises(InputVideoError, match="no video in this file"):
        read_clip(song, RULES)
    for name in ("notes.txt", "notes.mp4", "art.ans", "list.m3u8", "clip.nfo"):
        (tmp_path / name).write_text("#EXTM3U\nhello there\n" * 50)
        with pytest.raises(InputVideoError):
            read_clip(tmp_path / name, RULES)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    said = {
        tmp_path: "directory",
        tmp_path / "missing.mp4": "no such file",
        tmp_path / "empty.mp4": "empty",
        tmp_path / "pipe.mp4": "not a regular file",
        tmp_path / "noise.mp4": "not a video",
        Path("http://example.org/a.mp4"): "no such file",
        tmp_path / ("x" * 400): "no such file",
        Path("nul\0byte.mp4"): "not a file name",
    }
    for path, words in said.items():
        with pytest.raises(InputVideoError) as caught:
            read_clip(path, RULES)
        assert words in caught.value.message
        assert caught.value.exit_code == 3


def test_unreadable_file(tmp_path: Path) -> None:
    path = grey_film(tmp_path / "a.mp4", 5)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read every file
        os.seteuid(65534)
    try:
        with pytest.raises(InputVideoError, match="permission denied"):
            read_clip(path, RULES)
    finally:
        os.seteuid(user)


@pytest.mark.slow
@oracle.needs_ffmpeg
def test_memory_is_bounded_for_8k(tmp_path: Path) -> None:
    path, frame = tmp_path / "big.avi", tmp_path / "big.jpg"
    lavfi(frame, "-frames:v", "1", source="color=orange:size=7680x4320")
    oracle.run("ffmpeg", "-v", "error", "-framerate", "12", "-loop", "1", "-i", frame,
               "-t", "2.5", "-c", "copy", path)  # fmt: skip
    program = """
import resource, sys
from dcgrid.video.clip import ClipRules
from dcgrid.video.read import read_clip
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rules = ClipRules(fps=12, stride=4, max_frames=33, cell_sizes=((96, 160),))
clip, plan = read_clip(sys.argv[1], rules)
assert clip.frames_THWC.shape == (29, 96, 160, 3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=True)
    # 30 frames of 50 MB (yuv) or 100 MB (rgb) each would be 1.5 to 3 GB.
    assert int(done.stdout) < 700


def test_truncated_film_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    noise_THWC = torch.randint(0, 255, (48, 48, 80, 3), dtype=torch.uint8)
    write_video(path, noise_THWC, 12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip, plan = read_clip(path, RULES)
    assert 5 <= len(clip.frames_THWC) < 33
    assert any("ends early" in line for line in plan.lines())


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_bad_spans(tmp_path: Path, bad: float) -> None:
    path = grey_film(tmp_path / "a.mp4", 24)
    with pytest.raises(UsageError, match="--start"):
        read_clip(path, RULES, start_s=bad)
    with pytest.raises(UsageError, match="--duration"):
        read_clip(path, RULES, duration_s=bad)
    with pytest.raises(UsageError, match="--duration"):
        read_clip(path, RULES, duration_s=0)
    with pytest.raises(InputVideoError, match="past the end"):
        read_clip(path, RULES, start_s=2.0)


def test_progress_is_reported(tmp_path: Path) -> None:
    path = grey_film(tmp_path / "a.mp4", 20)
    seen: list[tuple[int, int]] = []
    read_clip(path, RULES, on_frame=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 17) for done in range(1, 18)]


COMBED = "interlace=scan=tff:lowpass=off,setfield=tff"
INTERLACED = ("testsrc2=size=64x48:rate=50:duration=0.4", "-vf", COMBED, "-c:v", "libx264",
              "-qp", "0", "-flags", "+ilme+ildct")  # fmt: skip


@oracle.needs_ffmpeg
def test_interlaced_frames_are_made_whole_as_ffmpeg_makes_them(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    source, *options = INTERLACED
    lavfi(path, *options, source=source)
    times, ours = zip(*decode_all(path), strict=True)
    whole = tmp_path / "whole.mkv"
    oracle.run("ffmpeg", "-v", "error", "-i", path, "-vf", "bwdif=mode=send_frame", "-c:v",
               "libx264", "-qp", "0", whole)  # fmt: skip
    theirs_THWC = oracle.frames(whole, (48, 64), count=10, matrix="bt601")
    combed_THWC = oracle.frames(path, (48, 64), count=10, matrix="bt601")
    ours_THWC = np.stack([frame_HWC.numpy() for frame_HWC in ours]).astype(int)
    assert len(ours_THWC) == 10
    # The matrices that turn them to RGB are not the same build; the comb is what counts.
    assert np.abs(ours_THWC - combed_THWC).mean() > 4 * np.abs(ours_THWC - theirs_THWC).mean()
    assert np.abs(ours_THWC - theirs_THWC).mean() < 0.3
    assert times == pytest.approx([0.04 * i for i in range(10)])
    assert any("interlaced" in line for line in probe(path).warnings)


@oracle.needs_ffmpeg
def test_interlaced_video_is_read_from_the_middle(tmp_path: Path) -> None:
    """The filter gives frames one later than it takes them; their times must not notice."""
    path = tmp_path / "a.mkv"
    source, *options = INTERLACED
    lavfi(path, *options, "-g", "3", source=source)
    every = list(decode_all(path))
    tally = DecodeTally()
    later = list(decode_frames(path, start_s=0.21, tally=tally))
    assert later[0].time_s <= 0.21
    assert [f.time_s for f in later] == pytest.approx([t for t, _ in every][-len(later) :])
    assert tally.reached_end
    assert tally.frames == len(later)


@oracle.needs_ffmpeg
def test_a_size_that_changes_in_the_middle_of_interlaced_video(tmp_path: Path) -> None:
    parts = []
    for i, size in enumerate(("64x48", "96x64")):
        part = tmp_path / f"{i}.ts"
        source, *options = INTERLACED
        lavfi(part, *options, source=source.replace("64x48", size))
        parts.append(part.read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    shapes = [tuple(frame_HWC.shape[:2]) for _, frame_HWC in decode_all(path)]
    assert shapes == [(48, 64)] * 10 + [(64, 96)] * 10


@oracle.needs_ffmpeg
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avi"])
def test_orientation_of_exif_is_honoured(tmp_path: Path, suffix: str) -> None:
    """EXIF is side data that PyAV cannot name; Pillow says how the picture is turned."""
    rows, cols = np.mgrid[0:48, 0:80]
    picture = Image.fromarray(np.stack([cols * 3, rows * 5, rows + cols], -1).astype(np.uint8))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = orientation, "phone"
        still = tmp_path / f"{orientation}.{'jpg' if suffix == 'avi' else suffix}"
        picture.save(still, exif=exif, quality=95)
        path = still.with_suffix(f".{suffix}")
        if suffix == "avi":
            oracle.run("ffmpeg", "-v", "error", "-i", still, "-c", "copy", path)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(still)).convert("RGB")).astype(int)
        _, ours_HWC = next(iter(decode_all(path)))
        assert tuple(ours_HWC.shape) == upright.shape
        assert np.abs(ours_HWC.numpy() - upright).mean() < 1
        info = probe(path)
        assert (info.height, info.width) == upright.shape[:2]


def test_a_single_picture_says_what_it_can_do(tmp_path: Path) -> None:
    write_png(tmp_path / "a still.png", torch.full((21, 33, 3), 77, dtype=torch.uint8))
    (line,) = [
        line
        for line in plan_clip(probe(tmp_path / "a still.png"), RULES).lines()
        if "single picture" in line
    ]
    command = shlex.split(line[line.index("`") + 1 : line.rindex("`")])
    oracle.run(*command[:-1], tmp_path / command[-1])
    info = probe(tmp_path / "still.mkv")
    assert (info.duration_s, info.width, info.height) == (pytest.approx(3, abs=0.05), 33, 21)
    clip, plan = read_clip(tmp_path / "still.mkv", RULES)
    assert (clip.frames_THWC.int() - 77).abs().max() <= 1
    assert not any("single picture" in line for line in plan.lines())


def test_animated_webp_is_refused_with_a_way_that_works(tmp_path: Path) -> None:
    greys = [Image.new("RGB", (40, 24), (40 * n + 20,) * 3) for n in range(5)]
    path = tmp_path / "it's moving.webp"
    greys[0].save(path, save_all=True, append_images=greys[1:], duration=200, lossless=True)
    with pytest.raises(InputVideoError, match="animated WebP") as caught:
        read_clip(path, RULES)
    hint = caught.value.hint
    subprocess.run(
        [sys.executable, *shlex.split(hint[hint.index("`") + 1 : hint.rindex("`")])[1:]],
        check=True, timeout=60,
    )  # fmt: skip
    (made,) = tmp_path.glob("*.png")
    found = [int(frame_HWC[0, 0, 0]) for _, frame_HWC in decode_all(made)]
    assert found == [20, 60, 100, 140, 180]
    greys[0].save(tmp_path / "still.webp", lossless=True)
    assert probe(tmp_path / "still.webp").num_frames == 1
