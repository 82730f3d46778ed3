"""What ranks candidates and scenes: faces tell people apart, and what cannot rank is refused."""

import sys

import pytest
import torch

from dcgrid.cli.main import main
from dcgrid.errors import UsageError, WeightsError
from dcgrid.eval.columns import METRICS
from dcgrid.eval.scoring import Case, Encoders, make_ranker, score_case
from dcgrid.video.read import decode_all
from tests.eval.places import CLIPS, WEIGHTS, lacks, needs_clips, needs_weights


def shown(name: str, count: int = 3) -> torch.Tensor:
    """Return some frames of a clip, a fifth of a second apart."""
    frames = []
    for index, (_, frame_HWC) in enumerate(decode_all(CLIPS / name)):
        if index % 6 == 0:
            frames.append(frame_HWC)
        if len(frames) == count:
            break
    return torch.stack(frames)


@needs_weights
@needs_clips
@lacks("onnxruntime", "cv2")
def test_the_try_with_the_right_person_wins():
    ranker = make_ranker(("id", "flicker"), "cpu", weights_dir=WEIGHTS)
    given, same, other = shown("asl_again.mkv"), shown("asl_brother.mkv"), shown("asl_book.mkv")
    right = ranker.measure(given, same, "a person", 12.0)
    wrong = ranker.measure(given, other, "a person", 12.0)
    assert right["id"].value > 0.6 > 0.45 > wrong["id"].value
    assert right["id"].higher_is_better
    assert not right["flicker"].higher_is_better
    assert right["id"].label == "ID"


@needs_weights
@needs_clips
@lacks("onnxruntime", "cv2")
def test_scenes_of_one_person_are_alike_and_a_stranger_is_not():
    encoders = Encoders(WEIGHTS)
    again, brother, book = (shown(f"asl_{name}.mkv") for name in ("again", "brother", "book"))

    def found(own, *scenes):
        case = Case(source_THWC=own, result_THWC=own, prompt="", fps=12.0, scenes=scenes)
        return score_case(case, ["id_scenes"], encoders)["id_scenes"].value

    same, mixed, stranger = found(again, brother), found(again, brother, book), found(again, book)
    assert same > 0.6
    assert stranger < 0.45
    assert mixed == pytest.approx((same + stranger) / 2)


def test_a_scene_alone_has_nobody_to_be_like():
    frames = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    case = Case(source_THWC=frames, result_THWC=frames, prompt="", fps=12.0)
    scores = score_case(case, ["id_scenes"], Encoders(WEIGHTS))
    assert scores["id_scenes"].reason == "no other scene"


def test_only_metrics_with_a_better_side_and_no_truth_rank():
    can = {key for key, metric in METRICS.items() if metric.ranks}
    assert {"id", "ct", "tc", "motion", "flicker", "face_kept"} <= can
    assert not can & {"psnr", "leak", "change", "id_scenes", "change_subject"}
    for key in ("psnr", "change", "nothing"):
        with pytest.raises(UsageError, match=r"is no metric|needs more"):
            make_ranker((key,), "cpu")


def test_a_package_that_is_not_installed_leaves_out_its_metric(monkeypatch):
    """As on the plain install: both need OpenCV."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    ranker = make_ranker(("motion", "flicker"), "cpu")
    assert ranker.keys == ()
    assert "Ranked by edges and brightness, as without --rank: motion cannot" in ranker.notes[0]
    assert "pip install" in ranker.notes[0]


def test_candidates_are_ranked_on_the_plain_install(clip, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    command = ["edit", str(clip), "-e", "rain", "--model", "tiny", "--duration", "0.4"]
    assert main([*command, "--candidates", "2", "--rank", "motion,flicker"]) == 0
    assert "warning: Ranked by edges and brightness" in capsys.readouterr().err


def test_absent_weights_are_told_before_anything_is_generated(tmp_path):
    with pytest.raises(WeightsError, match="--rank id cannot be measured"):
        make_ranker(("motion", "id"), "cpu", weights_dir=tmp_path)
