"""Folders of clips: what `edit` reads is found, by what is in a file and not by its name."""

from pathlib import Path

import av
import numpy as np
import pytest

from dcgrid.errors import InputVideoError
from dcgrid.video.folder import is_video, name_some, split_folder
from dcgrid.video.probe import probe

# Ending: muxer, codec. None of the first row's is in FFmpeg's own list of endings of demuxers.
CONTAINERS = {
    "ts": ("mpegts", "mpeg2video"), "m2ts": ("mpegts", "mpeg2video"), "MTS": ("mpegts", "mpeg4"),
    "wmv": ("asf", "wmv2"), "asf": ("asf", "msmpeg4"), "vob": ("vob", "mpeg2video"),
    "mpg": ("mpeg", "mpeg1video"), "mxf": ("mxf", "mpeg2video"), "ogv": ("ogg", "libvpx"),
    "flv": ("flv", "flv"), "f4v": ("flv", "flv"), "3gp": ("3gp", "mpeg4"),
    "3g2": ("3g2", "mpeg4"), "mp4": ("mp4", "mpeg4"), "m4v": ("mp4", "mpeg4"),
    "mov": ("mov", "mjpeg"), "qt": ("mov", "mpeg4"), "mkv": ("matroska", "mpeg4"),
    "webm": ("webm", "libvpx"), "avi": ("avi", "mpeg4"), "nut": ("nut", "mpeg4"),
    "gif": ("gif", "gif"), "divx": ("avi", "mpeg4"), "": ("mp4", "mpeg4"), "bin": ("avi", "mpeg4"),
}  # fmt: skip


def film(path: Path, muxer: str, codec: str, frames: int = 8) -> None:
    with av.open(str(path), "w", format=muxer) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height = 176, 144
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8", "png": "rgb24"}.get(codec, "yuv420p")
        for index in range(frames):
            picture = np.full((144, 176, 3), 20 * index, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


@pytest.mark.parametrize("ending", CONTAINERS)
def test_what_edit_reads_is_found(tmp_path: Path, ending: str) -> None:
    path = tmp_path / (f"clip.{ending}" if ending else "clip")
    muxer, codec = CONTAINERS[ending]
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    film(path, muxer, codec)
    assert probe(path).width == 176
    assert split_folder(tmp_path) == ([path], [])


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    film(tmp_path / "b.mkv", "matroska", "mpeg4")
    film(tmp_path / "a.m2ts", "mpegts", "mpeg2video")
    film(tmp_path / "thumb.png", "image2", "png", 1)
    film(tmp_path / "photo", "image2", "mjpeg", 1)
    with av.open(str(tmp_path / "song.mka"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound))
    (tmp_path / "b.txt").write_text("subject: a cat")
    (tmp_path / "notes.txt").write_text("a cat\nwalks\n" * 50)
    (tmp_path / "b.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nmiaow\n")
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "empty").touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / ".hidden.mp4").touch()
    videos, others = split_folder(tmp_path, ("masks",))
    assert [path.name for path in videos] == ["a.m2ts", "b.mkv"]
    assert others == [
        "b.json", "b.srt", "empty", "more/", "notes.txt", "photo", "song.mka", "thumb.png"
    ]  # fmt: skip


def test_a_damaged_video_is_one_so_that_its_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"not a film")
    assert is_video(path)
    with pytest.raises(InputVideoError, match=r"broken\.mp4"):
        probe(path)
    path = tmp_path / "folder.mp4"
    path.mkdir()
    assert not is_video(path)


def test_many_names_are_cut() -> None:
    assert name_some(["a", "b"]) == "a, b"
    assert name_some(list("abcde"), 3) == "a, b, c and 2 more"
