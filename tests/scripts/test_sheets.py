"""Pictures and pages of docs/: clips that may be shown, files small and whole, every effect."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.clips import is_seen
from dcgrid.errors import UsageError
from dcgrid.recipes import effect_names, list_effects
from scripts.sheets import make
from scripts.sheets.__main__ import main
from scripts.sheets.credits import SHEET_CLIPS
from scripts.sheets.gallery import credit as credit_for
from scripts.sheets.gallery import read_exhibits

SHARED = Path(__file__).parents[2] / ".." / "shared" / "clips"
TINY = ["--model", "tiny", "--duration", "0.4"]
FREE = {"CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "Apache-2.0"}


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_only_free_clips_that_training_never_saw_are_shown():
    assert len(SHEET_CLIPS) >= 8
    assert {credit.license for credit in SHEET_CLIPS} <= FREE
    assert not [credit.clip for credit in SHEET_CLIPS if is_seen(Path(credit.clip))]
    assert len({credit.picture for credit in SHEET_CLIPS}) == len(SHEET_CLIPS)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the clips of ../shared/clips are not here")
def test_credits_say_what_the_list_of_clips_says():
    table = (SHARED / "README.md").read_text(encoding="utf-8").splitlines()
    for credit in SHEET_CLIPS:
        row = next(line for line in table if line.startswith(f"| {credit.clip} "))
        assert credit.license in row
        assert credit.source.removeprefix("https://github.com/").split("/")[0] in row


def test_clips_make_a_sheet_each_and_the_credits(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    clip.rename(tmp_path / "flower.mp4")
    docs = tmp_path / "docs"
    arguments = ["clips", "flower.mp4", "--clips-dir", str(tmp_path), "--docs", str(docs)]
    assert main([*arguments, *TINY, "--effects", "rain", "night"]) == 0
    sheet = docs / "pictures" / "clips" / "flower.webp"
    assert capsys.readouterr().out.split() == [str(sheet)]
    # Three frames in a row, three rows of the clip's size, labels above them.
    with av.open(str(tmp_path / "flower.mp4")) as container:
        stream = container.streams.video[0]
        clip_height, clip_width = stream.height, stream.width
    height, width, _ = decoded(sheet).shape
    assert 3 * clip_width <= width < 3 * (clip_width + 20)
    assert 3 * clip_height < height < 3 * (clip_height + 40)
    page = (docs / "pictures" / "CREDITS.md").read_text(encoding="utf-8")
    assert all(credit.clip in page and credit.license in page for credit in SHEET_CLIPS)
    assert "rain, night" in page
    first = sheet.read_bytes()
    assert main([*arguments, *TINY, "--effects", "rain", "night"]) == 0
    assert sheet.read_bytes() == first
    assert not list(docs.rglob("*.part*"))


def test_a_picture_of_an_effect_plays_the_clip_beside_its_edit(tmp_path: Path):
    long = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    frames = [Image.fromarray(np.roll(long, number, 1)) for number in range(5)]
    edit = [frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for frame in frames]
    path = tmp_path / "effects" / "a.webp"
    make.write_moving(path, [frames, edit], ["", ""], 320)
    with Image.open(path) as picture:
        assert (picture.size, picture.n_frames, picture.info["loop"]) == ((640, 240), 5, 0)
        for number in range(5):
            picture.seek(number)
            shown = np.asarray(picture.convert("RGB")).astype(int)
            wanted = frames[number].resize((320, 240), Image.Resampling.LANCZOS)
            assert np.abs(shown[:, :320] - np.asarray(wanted)).mean() < 12
            assert np.abs(shown[:, 320:] - shown[:, 319::-1]).mean() < 12
            assert picture.info["duration"] == 83


def test_effects_are_edited_and_shown(clip: Path, tmp_path: Path):
    exhibit = read_exhibits()["backlight"]
    assert exhibit.start_s == 0  # the clip here is short
    clip.rename(tmp_path / exhibit.credit.clip)
    docs = tmp_path / "docs"
    picked = ["effects", "--effects", "backlight", "--clips-dir", str(tmp_path)]
    assert main([*picked, "--docs", str(docs), *TINY]) == 0
    with Image.open(docs / "pictures" / "effects" / "backlight.webp") as picture:
        assert picture.width == 640
        assert picture.n_frames >= 4
    assert (docs / "effects" / "backlight.md").is_file()


def test_the_pages_need_no_model_and_say_what_recipes_and_credits_say(tmp_path: Path):
    docs = tmp_path / "docs"
    assert main(["pages", "--docs", str(docs)]) == 0
    index = (docs / "effects.md").read_text(encoding="utf-8")
    for effect in list_effects():
        row = next(line for line in index.splitlines() if line.startswith(f"| [`{effect.name}`]"))
        assert effect.title in row
        assert effect.clause in row
        assert ("| yes |" in row) == effect.deterministic
        page = (docs / "effects" / f"{effect.name}.md").read_text(encoding="utf-8")
        exhibit = read_exhibits()[effect.name]
        assert exhibit.sentence.strip()
        assert exhibit.sentence in page
        assert f"{exhibit.credit.author}, {exhibit.credit.license}" in page
        assert effect.negative in page
    assert set(read_exhibits()) == set(effect_names())


def test_frames_of_a_sheet_are_small_at_most(tmp_path: Path):
    clip = torch.full((5, 720, 1280, 3), 90, dtype=torch.uint8)
    make.write_small(tmp_path / "a.webp", [clip], ["original"], 2)
    height, width, _ = decoded(tmp_path / "a.webp").shape
    assert 2 * 640 <= width < 2 * 680
    assert 360 <= height < 420


def test_the_frames_of_a_sheet_are_spread_over_the_clip():
    numbers = torch.arange(33, dtype=torch.uint8)[:, None, None, None].expand(33, 4, 4, 3)
    assert make._spread(numbers, 4)[:, 0, 0, 0].tolist() == [4, 12, 20, 28]
    assert make._spread(numbers[:1], 4)[:, 0, 0, 0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["clips", "carphone.mp4"], 2, "licence"),
        (["clips", "flower.mp4", "--clips-dir", "nowhere"], 3, "flower.mp4"),
        (["pages", "--docs", "/proc/nowhere"], 3, "/proc/nowhere"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == code
    assert words in capsys.readouterr().err


def test_a_clip_without_a_credit_is_not_shown():
    with pytest.raises(UsageError, match="licence"):
        credit_for("cockatoo.mp4")
