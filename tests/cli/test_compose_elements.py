"""`dcgrid compose A --concept NAME`: the second clip is one that comes with the program."""

import json
from pathlib import Path

import pytest
import torch

from dcgrid.cli.main import main
from dcgrid.pipelines.elements import ELEMENT_CLIPS
from dcgrid.synthetic.fusion import ELEMENTS
from dcgrid.video.read import probe
from dcgrid.video.write import write_pieces
from tests.pipelines.runs import moving_square


def test_every_element_that_mini_learned_has_a_clip_of_six_seconds() -> None:
    assert set(ELEMENT_CLIPS) == set(ELEMENTS)
    for name, element in ELEMENT_CLIPS.items():
        info = probe(element.path)
        assert (info.width, info.height, info.rate) == (640, 384, 24)
        assert info.duration_s == pytest.approx(6.0, abs=0.1)
        assert element.motion == ELEMENTS[name].motion
        assert element.phrase in ELEMENTS[name].phrases
    assert sum(one.path.stat().st_size for one in ELEMENT_CLIPS.values()) < 7_000_000


def test_a_name_stands_for_the_clip_and_its_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = moving_square(tmp_path / "a.mp4", 12, size=(96, 160))
    words = ["compose", str(clip), "--concept", "sparks", "--dry-run", "--format", "json"]
    assert main(words) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["inputs"][1].endswith("elements/sparks.mp4")
    assert "a shower of golden sparks" in plan["prompt"]
    assert any(name.endswith("a.sparks.fusion.mp4") for name in plan["outputs"])


@pytest.mark.parametrize("concept", ["", "a unicorn"])
def test_without_a_second_clip_the_name_must_be_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], concept: str
) -> None:
    clip = moving_square(tmp_path / "a.mp4", 12, size=(96, 160))
    assert main(["compose", str(clip), "--concept", concept, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "sparks, fire, smoke" in error
    assert concept in error


@pytest.mark.parametrize(("level", "said"), [(120, True), (10, False)])
def test_a_plan_says_that_b_is_a_scene_and_no_element(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], level: int, said: bool
) -> None:
    first = moving_square(tmp_path / "a.mp4", 12, size=(96, 160))
    frames = torch.full((12, 96, 160, 3), level, dtype=torch.uint8)
    write_pieces(tmp_path / "b.mp4", lambda: [frames], 12, num_frames=12)
    assert main(["compose", str(first), str(tmp_path / "b.mp4"), "--dry-run"]) == 0
    shown = "learned elements on dark ground" in capsys.readouterr().out
    assert shown is said
