"""Pictures and pages of docs/: clips that may be shown, files small and whole, every effect."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from benchmarks.clips import is_seen
from dcgrid.recipes import effect_names, list_effects
from scripts.sheets import make
from scripts.sheets.__main__ import PREVIEW_CLIP, main
from scripts.sheets.credits import SHEET_CLIPS, credit_of

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
    assert credit_of(PREVIEW_CLIP) is not None


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


def test_every_effect_gets_a_preview_and_a_row(clip: Path, tmp_path: Path):
    clip.rename(tmp_path / "flower.mp4")
    docs = tmp_path / "docs"
    picked = ["effects", "--clip", "flower.mp4", "--clips-dir", str(tmp_path), "--docs", str(docs)]
    assert main([*picked, *TINY]) == 0
    pictures = {path.stem for path in (docs / "pictures" / "effects").glob("*.webp")}
    assert pictures == set(effect_names())
    page = (docs / "effects.md").read_text(encoding="utf-8")
    linked = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert len(linked) == len(pictures)
    assert all((docs / link).is_file() for link in linked)
    for effect in list_effects():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{effect.name}` |"))
        assert effect.title in row
        assert effect.clause in row
        assert ("| yes |" in row) == effect.deterministic


def test_the_table_needs_no_model_and_links_no_picture_that_is_not_there(tmp_path: Path):
    assert main(["table", "--docs", str(tmp_path / "docs")]) == 0
    page = (tmp_path / "docs" / "effects.md").read_text(encoding="utf-8")
    assert page.count("\n| `") == len(effect_names())
    assert "![" not in page


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
        (["effects", "--clip", "cockatoo.mp4"], 2, "licence"),
        (["clips", "flower.mp4", "--clips-dir", "nowhere"], 3, "flower.mp4"),
        (["table", "--docs", "/proc/nowhere"], 3, "/proc/nowhere"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == code
    assert words in capsys.readouterr().err
