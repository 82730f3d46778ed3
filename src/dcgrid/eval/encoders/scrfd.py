"""SCRFD (Guo et al., 2021): faces and their five points.

Letters: N faces, A anchors.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcgrid.errors import WeightsError
from dcgrid.eval.extra import need

SIDE = 640
"""Pixels of the square that faces are looked for in; the frame's longer side is scaled to it."""
STRIDES = (8, 16, 32)
ANCHORS = 2
"""Anchors of a place."""
SURE = 0.5
"""Confidence from which a face is one."""
OVERLAP = 0.4
"""Intersection over union from which two boxes are one face."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """Faces of a frame, the largest first."""

    boxes_N4: Tensor
    """Left, top, right, bottom, in pixels of the frame."""
    points_N52: Tensor
    """Eyes, nose and corners of the mouth, x first; the eye at the left of the picture first."""


class ScrfdDetector:
    """SCRFD with key points, in InsightFace's export.

    Args:
        path: The ONNX file.

    Raises:
        UsageError: onnxruntime or OpenCV is not installed.
        WeightsError: The file is damaged, or of another network.
    """

    def __init__(self, path: Path) -> None:
        self._cv2: Any = need("cv2")
        self._session = open_session(path)
        self._input = self._session.get_inputs()[0].name
        if len(self._session.get_outputs()) != 3 * len(STRIDES):
            raise WeightsError(f"{path} is no SCRFD with five points", hint="get the known file")

    def find(self, frame: Any, most: int) -> Detected:  # noqa: ANN401 - a numpy array
        """Return the faces of a frame.

        Args:
            frame: RGB, an array HWC, uint8.
            most: Faces to return at most, the largest ones.
        """
        height, width = frame.shape[:2]
        scale = SIDE / max(height, width)
        given = blob(_padded(self._cv2, frame, scale), 128)
        outputs = [torch.from_numpy(one) for one in self._session.run(None, {self._input: given})]
        scores_A, boxes_A4, points_A52 = decode(outputs)
        sure = scores_A >= SURE
        scores_A, boxes_A4, points_A52 = scores_A[sure], boxes_A4[sure], points_A52[sure]
        kept = suppress(scores_A, boxes_A4)
        boxes_N4, points_N52 = boxes_A4[kept] / scale, points_A52[kept] / scale
        sizes_N = (boxes_N4[:, 2:] - boxes_N4[:, :2]).clamp_min(0).prod(dim=1)
        largest = sizes_N.argsort(descending=True)[:most]
        return Detected(boxes_N4=boxes_N4[largest], points_N52=points_N52[largest])


def open_session(path: Path) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Return an ONNX network that is ready to run on the CPU.

    Raises:
        UsageError: onnxruntime is not installed.
        WeightsError: The file is damaged.
    """
    onnxruntime = need("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no common base but this
        raise WeightsError(
            f"{path} is no ONNX network: {str(error)[:200]}", hint="get the known file"
        ) from error


def blob(picture: Any, spread: float) -> Any:  # noqa: ANN401 - numpy arrays
    """Return a picture HWC, uint8, as the array 1CHW of floats around 0 that networks take."""
    floats_CHW = torch.from_numpy(picture).permute(2, 0, 1).float()
    return ((floats_CHW - 127.5) / spread)[None].numpy()


def decode(outputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores A, boxes A4 and points A52 of all anchors, in pixels of the square.

    Args:
        outputs: Scores at each stride, then distances to the four sides, then to the five points,
            in strides.
    """
    scores, boxes, points = [], [], []
    for index, stride in enumerate(STRIDES):
        score, sides, offsets = (outputs[index + part * len(STRIDES)] for part in range(3))
        places = torch.arange(SIDE // stride) * stride
        rows, columns = torch.meshgrid(places, places, indexing="ij")
        centres_A2 = torch.stack([columns, rows], dim=-1).reshape(-1, 2).float()
        centres_A2 = centres_A2.repeat_interleave(ANCHORS, dim=0)
        sides_A4 = sides.reshape(-1, 4) * stride
        scores.append(score.reshape(-1))
        boxes.append(torch.cat([centres_A2 - sides_A4[:, :2], centres_A2 + sides_A4[:, 2:]], dim=1))
        points.append(centres_A2[:, None] + offsets.reshape(-1, 5, 2) * stride)
    return torch.cat(scores), torch.cat(boxes), torch.cat(points)


def suppress(scores_A: Tensor, boxes_A4: Tensor) -> list[int]:
    """Return which boxes stay when of those that overlap only the surest is kept, surest first."""
    left, kept = scores_A.argsort(descending=True).tolist(), []
    while left:
        first, *rest = left
        kept.append(first)
        overlaps = _overlaps(boxes_A4[first], boxes_A4[rest]).tolist()
        left = [one for one, overlap in zip(rest, overlaps, strict=True) if overlap <= OVERLAP]
    return kept


def _overlaps(box_4: Tensor, boxes_A4: Tensor) -> Tensor:
    """Return the intersection over union of a box with others."""
    low, high = boxes_A4[:, :2].maximum(box_4[:2]), boxes_A4[:, 2:].minimum(box_4[2:])
    shared = (high - low).clamp_min(0).prod(dim=1)
    sizes = (boxes_A4[:, 2:] - boxes_A4[:, :2]).prod(dim=1)
    overlaps: Tensor = shared / (sizes + (box_4[2:] - box_4[:2]).prod() - shared)
    return overlaps


def _padded(cv2: Any, frame: Any, scale: float) -> Any:  # noqa: ANN401 - OpenCV's arrays
    """Return the frame at its scale, with black at the right and below up to the square."""
    height, width = (max(1, round(edge * scale)) for edge in frame.shape[:2])
    mode = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    sized = cv2.resize(frame, (width, height), interpolation=mode)
    return cv2.copyMakeBorder(sized, 0, SIDE - height, 0, SIDE - width, cv2.BORDER_CONSTANT)
