"""The bad-input matrix: one sentence with the place, a hint, the exit code, no file left."""

import json
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import save_file

from dcgrid.cli.main import main

CLIPS = Path(__file__).parents[3] / "shared" / "clips"
EDIT = ("--effect", "rain", "--model", "tiny", "--num-inference-steps", "1")


def silence(path: Path, *, seconds: float = 0.2) -> None:
    """Write a file that has a sound track and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame(format="fltp", layout="mono", samples=int(16_000 * seconds))
        frame.sample_rate, frame.pts = 16_000, 0
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def frames(path: Path, count: int, *, size: tuple[int, int] = (64, 48)) -> None:
    """Write a video of grey frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(count):
            frame = av.VideoFrame(*size, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([40 + 5 * index]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make_text(path: Path) -> None:
    path.write_text("this is no video\n" * 50)


def make_half(path: Path) -> None:
    frames(path, 30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


BAD_VIDEOS: dict[str, Callable[[Path], object]] = {
    "not a video": make_text,
    "empty file": lambda path: path.write_bytes(b""),
    "truncated": make_half,
    "sound only": silence,
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "null bytes": lambda path: path.write_bytes(bytes(5000)),
}


def check_refused(
    capsys: pytest.CaptureFixture[str], folder: Path, code: int, expected: int, place: str
) -> None:
    """Check the four promises of a refused job."""
    out, err = capsys.readouterr()
    assert code == expected, err
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert place in errors[0]
    assert [line for line in err.splitlines() if line.startswith("hint: ")]
    assert "Traceback" not in err
    left = [path for path in folder.rglob("*") if ".part" in path.name or "rain" in path.name]
    assert left == []


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_bad_videos(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.mp4"
    BAD_VIDEOS[name](path)
    code = main(["edit", str(path), *EDIT])
    check_refused(capsys, tmp_path, code, 3, "bad.mp4")


def test_unreadable_video(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root may read everything, so the refusal is played."""
    real_open = Path.open

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if self == clip:
            raise PermissionError(13, "Permission denied", str(self))
        return real_open(self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    code = main(["edit", str(clip), *EDIT])
    check_refused(capsys, clip.parent, code, 3, "input.mp4 cannot be read")


BAD_OPTIONS: list[tuple[list[str], int, str]] = [
    (["--effect", "rian"], 3, "rian"),
    (["-e", "rain", "-e", "fog", "-e", "night", "-e", "smoke"], 2, "4 edits"),
    ([], 2, "neither --effect nor --prompt"),
    (["-e", "rain", "--layout", "none-9x9"], 3, "none-9x9"),
    (["-e", "rain", "--model", "huge"], 2, "huge"),
    (["-e", "rain", "--model", "tiny", "--device", "tpu"], 2, "tpu"),
    (["-e", "rain", "--model", "tiny", "--device", "cuda:77"], 5, "cuda:77"),
    (["-e", "rain", "--model", "tiny", "--dtype", "fp16", "--device", "cpu"], 2, "fp16"),
    (["-e", "rain", "--model", "tiny", "--start", "99"], 3, "99"),
    (["-e", "rain", "--model", "tiny", "--start=-1"], 2, "-1"),
    (["-e", "rain", "--model", "tiny", "--duration", "0"], 2, "0"),
    (
        ["-e", "rain", "--model", "tiny", "--num-inference-steps", "0"],
        2,
        "--num-inference-steps must be 1 to 1000, not 0",
    ),
    (["-e", "rain", "--seed=-5"], 2, "-5"),
    (["-e", "rain", "--out", "result.avi"], 3, "result.avi"),
    (["-e", "rain", "--model", "tiny", "--adapter", "none.safetensors"], 4, "none.safetensors"),
    (["-e", "rain", "--model", "tiny", "--adapter", "hf:broken"], 4, "hf:broken"),
]


@pytest.mark.parametrize(("options", "expected", "place"), BAD_OPTIONS)
def test_bad_options(
    options: list[str],
    expected: int,
    place: str,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(clip.parent)
    if any(option.startswith("cuda") for option in options) and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    code = main(["edit", str(clip), *options])
    check_refused(capsys, clip.parent, code, expected, place)


def test_broken_recipe_shows_its_line(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "wet.toml"
    recipe.write_text('name = "wet"\ntitle = \n')
    code = main(["edit", str(clip), "--effect", str(recipe), "--model", "tiny"])
    check_refused(capsys, clip.parent, code, 3, "wet.toml")


def test_existing_result_is_kept(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = clip.parent / "input.rain.mp4"
    earlier.write_bytes(b"precious")
    assert main(["edit", str(clip), *EDIT]) == 0
    shown = capsys.readouterr()
    assert "There already, not results of an earlier run: input.rain.mp4" in shown.err
    assert f"wrote {clip.parent / 'input.rain-2.mp4'}" in shown.out
    assert earlier.read_bytes() == b"precious"
    assert main(["edit", str(clip), *EDIT, "--force"]) == 0
    assert earlier.read_bytes() != b"precious"


def test_read_only_folder(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = clip.parent / "locked"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere; see tests/pipelines/test_outputs.py")
    code = main(["edit", str(clip), *EDIT, "--out", str(folder)])
    check_refused(capsys, clip.parent, code, 3, "locked")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(clip: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small_disk / "filler").write_bytes(bytes(60_000))
    code = main(["edit", str(clip), *EDIT, "--out", str(small_disk), "--save-grid"])
    err = capsys.readouterr().err
    assert code == 3
    assert "no space left" in err.lower()
    assert "Traceback" not in err
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def wrong_shapes(path: Path) -> None:
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 3)}, path)


def cut_short(path: Path) -> None:
    wrong_shapes(path)
    path.write_bytes(path.read_bytes()[:-5])


def liar(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")


@pytest.mark.parametrize("make", [wrong_shapes, cut_short, liar, make_text, os.mkfifo])
def test_bad_adapters(
    make: Callable[[Path], None], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "mine.safetensors"
    make(adapter)
    code = main(["edit", str(clip), *EDIT, "--adapter", str(adapter)])
    check_refused(capsys, clip.parent, code, 4, "mine.safetensors")


def test_one_frame_is_held_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "still.mp4"
    frames(path, 1)
    assert main(["edit", str(path), *EDIT, "--format", "json"]) == 0
    assert "held" in capsys.readouterr().err


def test_a_huge_picture_is_scaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wall.mp4"
    frames(path, 2, size=(3840, 2160))
    assert main(["edit", str(path), *EDIT]) == 0
    assert "Scaled for the model: 3840x2160" in capsys.readouterr().err


BAD_MANIFESTS: dict[str, object] = {
    "not json": "{",
    "a list": "[]",
    "other format": json.dumps({"format": "dcgrid-run-9"}),
    "incomplete": json.dumps({"format": "dcgrid-run-1"}),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_bad_manifests(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    path.write_text(str(BAD_MANIFESTS[name]))
    check_refused(capsys, tmp_path, main(["rerun", str(path)]), 3, "run.json")


def test_missing_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["rerun", str(tmp_path / "none.json")])
    check_refused(capsys, tmp_path, code, 3, "none.json")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("grid", "edit_of_cell"), [None, 7, 7, 7]),
        (("grid", "edits", 0, "name"), "../../up"),
        (("grid", "prompt", "segments", 0, "end"), 10**9),
        (("grid", "edits", 0, "guidance_scale"), "high"),
        (("job", "seed"), "lucky"),
        (("job", "keep"), "some"),
        (("machine", "threads"), 0),
        (("machine", "dtype"), None),
        (("machine", "device"), 3),
        (("model", "weights"), []),
        (("outputs", 0, "cell"), 1.5),
        (("outputs", 0, "path"), "../../../etc/input.rain.mp4"),
        (("outputs", 0, "path"), ".."),
        (("clips", 0, "fps"), 10**400),
        (("clips", 0, "frames"), 0),
        (("clips", 0, "start_s"), -1),
    ],
)
def test_changed_manifests(
    keys: tuple[str | int, ...], value: object, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edit", str(clip), *EDIT]) == 0
    path = clip.parent / "input.rain.json"
    manifest = json.loads(path.read_text())
    inner = manifest
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    changed = clip.parent / "changed.json"
    changed.write_text(json.dumps(manifest))
    capsys.readouterr()
    assert main(["rerun", str(changed)]) == 3
    err = capsys.readouterr().err
    assert "changed.json is a damaged run manifest" in err
    assert not list(clip.parent.glob("*rerun*"))


@pytest.mark.parametrize(
    "path", sorted(CLIPS.glob("edge_*")) if CLIPS.exists() else [], ids=lambda path: path.name
)
@pytest.mark.slow
def test_odd_files_never_end_in_a_traceback(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["edit", str(path), *EDIT, "--out", str(tmp_path)])
    err = capsys.readouterr().err
    assert code in (0, 3), err
    assert "internal error" not in err
    assert (code == 0) == bool(list(tmp_path.iterdir()))
