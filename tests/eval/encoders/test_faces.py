"""Faces found and known with real networks."""

import pytest
import torch

from benchmarks.clips import read_frames
from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.faces import ArcFaceReader, ScrfdDetector, SFaceReader, decode, suppress
from dcgrid.eval.metrics import identity
from tests.eval.places import CLIPS, WEIGHTS, lacks, needs_clips, needs_weights

pytestmark = [needs_weights, lacks("cv2", "onnxruntime")]
SCRFD, ARCFACE = WEIGHTS / "scrfd_500m_bnkps.onnx", WEIGHTS / "w600k_mbf.onnx"
YUNET = WEIGHTS / "face_detection_yunet_2023mar.onnx"
SFACE = WEIGHTS / "face_recognition_sface_2021dec.onnx"


@pytest.fixture(scope="module")
def arcface():
    return ArcFaceReader(SCRFD, ARCFACE)


@pytest.fixture(scope="module")
def sface():
    return SFaceReader(YUNET, SFACE)


def picture(name):
    import cv2

    return torch.from_numpy(cv2.imread(str(WEIGHTS / "faces" / f"{name}.jpg"))[:, :, ::-1].copy())


def takes(*names, every=24):
    """Every nth frame of clips."""
    return [read_frames(CLIPS / f"asl_{name}.mkv")[::every] for name in names]


@pytest.mark.parametrize("reader", ["arcface", "sface"])
def test_pictures_of_one_man_and_of_another(reader, request):
    read = request.getfixturevalue(reader).read
    faces = {name: read(picture(name)[None]) for name in ("obama", "obama2", "obama3", "biden")}
    assert identity(faces["obama"], faces["obama2"]).value > 0.65
    assert identity(faces["obama"], faces["obama3"]).value > 0.65
    assert identity(faces["obama"], faces["biden"]).value < 0.2


@needs_clips
def test_people_of_clips_are_told_apart(arcface):
    clips = takes("again", "brother", "bird", "milk", "book", "eat")
    again, brother, bird, milk, book, eat = (arcface.read(clip) for clip in clips)
    for one, two in ((again, brother), (bird, milk)):
        assert identity(one, two).value >= 0.7
    for one, two in ((again, bird), (again, book), (again, eat), (bird, book), (eat, bird)):
        assert identity(one, two).value <= 0.45


@needs_clips
def test_small_frames_are_enlarged(arcface):
    (clip,) = takes("again", every=30)
    small = clip[:, ::4, ::4]  # 160x120, a face of about 25 pixels
    faces = arcface.read(small)
    assert all(len(one) == 1 for one in faces)
    score = identity(arcface.read(clip), faces)
    assert 0.3 < score.value < 0.99


def test_scrfd_finds_what_yunet_finds():
    import cv2

    for name in ("obama", "obama2", "obama3", "biden"):
        rgb = picture(name)
        found = ScrfdDetector(SCRFD).find(rgb.numpy(), 8)
        bgr = rgb.flip(-1).contiguous().numpy()
        finder = cv2.FaceDetectorYN.create(str(YUNET), "", bgr.shape[1::-1], 0.6)
        rows = finder.detect(bgr)[1]
        row = torch.from_numpy(max(rows, key=lambda one: one[2] * one[3]).copy())
        size = float(row[2:4].mean())
        wanted_box = torch.cat([row[:2], row[:2] + row[2:4]])
        assert (found.boxes_N4[0] - wanted_box).abs().max() < 0.2 * size
        # Both call the eye at the left of the picture the first.
        assert (found.points_N52[0] - row[4:14].reshape(5, 2)).norm(dim=1).max() < 0.1 * size


def test_several_faces_the_largest_first_and_none(arcface, sface):
    one, two = picture("obama"), picture("biden")
    height = min(one.shape[0], two.shape[0])
    both = torch.cat([one[:height], two[:height]], dim=1)
    for reader in (arcface, sface):
        (faces,) = reader.read(both[None])
        sizes = (faces.boxes_N4[:, 2:] - faces.boxes_N4[:, :2]).prod(dim=1)
        assert len(faces) == 2
        assert sizes[0] >= sizes[1]
        assert 0 <= float(faces.boxes_N4.min()) <= float(faces.boxes_N4.max()) <= 1
        (nobody,) = reader.read(torch.zeros(1, 96, 160, 3, dtype=torch.uint8))
        assert len(nobody) == 0
        assert reader.read(both[None][:0]) == ()


def test_wide_and_tall_frames_keep_their_places(arcface):
    one = picture("obama2")
    height, width = one.shape[:2]
    wide = torch.zeros(height, 2 * width, 3, dtype=torch.uint8)
    wide[:, width:] = one
    tall = torch.zeros(2 * height, width, 3, dtype=torch.uint8)
    tall[height:] = one
    (alone,), (right,), (low,) = (arcface.read(frame[None]) for frame in (one, wide, tall))
    box = alone.boxes_N4[0]
    assert torch.allclose(right.boxes_N4[0, [0, 2]], 0.5 + box[[0, 2]] / 2, atol=0.02)
    assert torch.allclose(low.boxes_N4[0, [1, 3]], 0.5 + box[[1, 3]] / 2, atol=0.02)


def test_anchors_are_decoded_at_their_places():
    # One sure anchor a stride: the second of the place in row 2, column 3.
    outputs = [torch.zeros((640 // s) ** 2 * 2, w) for w in (1, 4, 10) for s in (8, 16, 32)]
    for index, stride in enumerate((8, 16, 32)):
        at = 2 * (2 * (640 // stride) + 3) + 1
        outputs[index][at] = 1
        outputs[3 + index][at] = torch.tensor([1.0, 2.0, 3.0, 4.0])
        outputs[6 + index][at] = torch.arange(10.0)
    scores, boxes, points = decode(outputs)
    for index, stride in zip(scores.nonzero()[:, 0].tolist(), (8, 16, 32), strict=True):
        assert boxes[index].tolist() == [2 * stride, 0, 6 * stride, 6 * stride]
        assert points[index, 0].tolist() == [3 * stride, 3 * stride]
        assert points[index, 4].tolist() == [(3 + 8) * stride, (2 + 9) * stride]


def test_of_boxes_that_overlap_the_surest_stays():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [6, 0, 16, 10], [50, 0, 60, 10]])
    assert suppress(torch.tensor([0.6, 0.9, 0.7, 0.5]), boxes.float()) == [1, 2, 3]


def test_other_files_are_refused(tmp_path):
    nonsense = tmp_path / "w600k_mbf.onnx"
    nonsense.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="no ONNX network"):
        ArcFaceReader(SCRFD, nonsense)
    with pytest.raises(WeightsError, match="takes no faces of 112x112"):
        ArcFaceReader(SCRFD, SCRFD)
    with pytest.raises(WeightsError, match="no SCRFD"):
        ScrfdDetector(ARCFACE)
    with pytest.raises(WeightsError, match="damaged"):
        SFaceReader(YUNET, nonsense)
