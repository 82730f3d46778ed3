"""The rule for every effect: the truth itself keeps a person, or nothing that learns it can."""

from pathlib import Path

import pytest
import torch

from dcgrid.eval.metrics.identity import face_kept, identity
from dcgrid.synthetic.effects import EFFECT_NAMES, render_effect
from dcgrid.video.clip import ClipRules
from dcgrid.video.read import read_clip

SHARED = Path(__file__).parents[3] / "shared"
DETECTOR = SHARED / "weights" / "scrfd_500m_bnkps.onnx"
RECOGNIZER = SHARED / "weights" / "w600k_mbf.onnx"
PEOPLE = ("asl_book.mkv", "asl_again.mkv", "asl_eat.mkv", "headpose_female.gif")
RULES = ClipRules(fps=4, stride=1, max_frames=5, cell_sizes=((480, 640),), longest=None)


@pytest.fixture(scope="module")
def reader():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("cv2")
    if not DETECTOR.is_file() or not RECOGNIZER.is_file():
        pytest.skip(f"the face networks are not in {SHARED / 'weights'}")
    from dcgrid.eval.encoders.faces import ArcFaceReader

    return ArcFaceReader(DETECTOR, RECOGNIZER)


@pytest.fixture(scope="module", params=PEOPLE)
def person(request, reader):
    path = SHARED / "clips" / request.param
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    frames_THWC = read_clip(path, RULES, duration_s=1.5)[0].frames_THWC
    return frames_THWC, reader.read(frames_THWC)


@pytest.mark.slow
@pytest.mark.parametrize("name", EFFECT_NAMES)
def test_the_truth_of_an_effect_keeps_the_person(reader, person, name):
    """Without a matte, which is the harder case: everything passes before the face."""
    frames_THWC, faces = person
    clip_CTHW = frames_THWC.permute(3, 0, 1, 2).float() / 255
    truth_CTHW = render_effect(
        name, clip_CTHW, generator=torch.Generator().manual_seed(3), fps=RULES.fps, scale=4.4
    )
    truth_THWC = (truth_CTHW * 255).round().to(torch.uint8).permute(1, 2, 3, 0)
    found = reader.read(truth_THWC)
    assert identity(faces, found).value >= 0.6
    assert face_kept(faces, found).value >= 0.95
