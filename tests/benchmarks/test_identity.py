"""Cosines of faces within and between stories."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from benchmarks.identity import WEIGHTS_DIR, Faces, SceneFace, report
from dcgrid.errors import WeightsError

HAS_FACES = importlib.util.find_spec("cv2") is not None and WEIGHTS_DIR.is_dir()


def face(story, scene, *values):
    embedding = F.normalize(torch.tensor(values), dim=0) if values else None
    return SceneFace(story=story, scene=scene, embedding_E=embedding)


def test_pairs_are_told_apart_and_missing_faces_counted():
    text = report(
        [
            face("a", "rain", 1.0, 0.0),
            face("a", "fog", 1.0, 0.0),
            face("a", "smoke"),
            face("a", "clip", 1.0, 0.0),
            face("b", "rain", 0.0, 1.0),
            face("b", "clip", 1.0, 1.0),
        ]
    )
    assert "faces found in 3 of 4 scenes" in text
    rows = {line[:21].strip(): line.split()[-3:] for line in text.splitlines()[2:]}
    assert rows["within a story"] == ["1.000", "1.000", "1.000"]
    assert rows["between stories"] == ["0.000", "0.000", "0.000"]
    assert rows["scene and its clip"] == ["0.902", "0.707", "1.000"]
    assert rows["scene and other clips"] == ["0.471", "0.000", "0.707"]


@pytest.mark.skipif(not HAS_FACES, reason="no OpenCV or no ../shared/weights")
def test_one_man_is_nearer_to_himself_than_to_another():
    faces = Faces(WEIGHTS_DIR)
    pictures = sorted((WEIGHTS_DIR / "faces").glob("*.jpg"))
    embedded = {}
    import cv2

    for path in pictures:
        frame_HWC = torch.from_numpy(cv2.imread(str(path))[:, :, ::-1].copy())
        embedded[path.stem] = faces.embed(frame_HWC[None])
    same = [e for name, e in embedded.items() if "obama" in name and e is not None]
    other = [e for name, e in embedded.items() if "obama" not in name and e is not None]
    assert float(same[0] @ same[1]) > 0.5
    assert float(same[0] @ other[0]) < 0.3


@pytest.mark.skipif(not HAS_FACES, reason="no OpenCV or no ../shared/weights")
def test_a_picture_without_a_face_has_none_and_missing_weights_are_named(tmp_path):
    assert Faces(WEIGHTS_DIR).embed(torch.zeros(4, 96, 160, 3, dtype=torch.uint8)) is None
    with pytest.raises(WeightsError, match="yunet"):
        Faces(tmp_path)
