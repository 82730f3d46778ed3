"""Alignment against OpenCV's own."""

import math

import pytest
import torch

from dcgrid.eval.encoders.faces import TEMPLATE, aligned_face, similarity_transform
from tests.eval.places import WEIGHTS, lacks, needs_weights


@pytest.mark.parametrize("seed", range(5))
@lacks("cv2")
def test_it_is_opencvs_for_points_that_fit(seed):
    import cv2

    generator = torch.Generator().manual_seed(seed)
    angle, scale = torch.rand(2, generator=generator).tolist()
    angle, scale = angle * 6, 0.3 + 3 * scale
    turn = (
        torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        * scale
    )
    start = torch.rand(5, 2, generator=generator) * 100
    goal = start @ turn.T + torch.tensor([7.0, -3.0])
    found = similarity_transform(start, goal)
    theirs, _ = cv2.estimateAffinePartial2D(start.numpy(), goal.numpy(), method=cv2.LMEDS)
    assert torch.allclose(found, torch.from_numpy(theirs).double(), atol=1e-2)


def test_it_is_the_least_squares_similarity():
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(5, 2, generator=generator, dtype=torch.double) * 100
    goal = torch.tensor(TEMPLATE).double() + torch.randn(5, 2, generator=generator) * 4
    # Linear in a, b, x, y: (a -b; b a) p + (x, y).
    rows, values = [], []
    for (x, y), (u, v) in zip(start.tolist(), goal.tolist(), strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, x, y = (
        torch.linalg.lstsq(torch.tensor(rows).double(), torch.tensor(values).double()[:, None])
        .solution[:, 0]
        .tolist()
    )
    wanted = torch.tensor([[a, -b, x], [b, a, y]]).double()
    assert torch.allclose(similarity_transform(start, goal), wanted, atol=1e-4)


def test_a_mirrored_face_is_not_mirrored_back():
    points = torch.tensor(TEMPLATE)
    mirrored = points * torch.tensor([-1.0, 1.0])
    found = similarity_transform(mirrored, points)
    assert float(torch.linalg.det(found[:, :2])) > 0


@needs_weights
@lacks("cv2")
def test_a_face_is_aligned_as_sface_aligns_it():
    import cv2

    picture = cv2.imread(str(WEIGHTS / "faces" / "obama.jpg"))
    finder = cv2.FaceDetectorYN.create(
        str(WEIGHTS / "face_detection_yunet_2023mar.onnx"), "", picture.shape[1::-1], 0.6
    )
    reader = cv2.FaceRecognizerSF.create(str(WEIGHTS / "face_recognition_sface_2021dec.onnx"), "")
    row = finder.detect(picture)[1][0]
    theirs = torch.from_numpy(reader.alignCrop(picture, row)).float()
    points = torch.from_numpy(row[4:14].reshape(5, 2).copy())
    ours = torch.from_numpy(aligned_face(cv2, picture, points)).float()
    assert (ours - theirs).abs().mean() < 2
    assert (ours.flip(1) - theirs).abs().mean() > 20
