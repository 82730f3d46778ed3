"""Faces of frames, found, aligned and embedded.

SCRFD (Guo et al., 2021) and ArcFace are the networks of the paper's ID; YuNet and SFace are others
and stand under their own name.

Letters: T frames, H W height/width, C the 3 colours, N faces, A anchors, E embedding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcgrid.errors import WeightsError
from dcgrid.eval.metrics import FrameFaces
from dcgrid.runtime.install import need

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


FACE_SIDE = 112
"""Pixels of an aligned face."""
TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Where ArcFace (Deng et al., 2022) has eyes, nose and corners of the mouth in it, x first."""


def similarity_transform(from_N2: Tensor, to_N2: Tensor) -> Tensor:
    """Return the turn, scale and shift, 2x3, that bring points nearest to others.

    In closed form, without reflection (Umeyama, 1991).

    Args:
        from_N2: At least two points that differ.
        to_N2: Where they should go.
    """
    from_N2, to_N2 = from_N2.double(), to_N2.double()
    start_2, goal_2 = from_N2.mean(dim=0), to_N2.mean(dim=0)
    before, after = from_N2 - start_2, to_N2 - goal_2
    u, s, vh = torch.linalg.svd(after.T @ before)
    sign = torch.ones(2, dtype=torch.double)
    sign[1] = torch.sign(torch.linalg.det(u @ vh))
    turn = u @ torch.diag(sign) @ vh
    scale = (s * sign).sum() / before.square().sum()
    shift_2 = goal_2 - scale * turn @ start_2
    return torch.cat([scale * turn, shift_2[:, None]], dim=1)


def aligned_face(cv2: Any, frame: Any, points_52: Tensor) -> Any:  # noqa: ANN401 - OpenCV's arrays
    """Return the aligned face of a frame, 112x112, in its colours.

    Args:
        cv2: OpenCV.
        frame: The frame, an array HWC, uint8.
        points_52: Eyes, nose and corners of the mouth in it, in pixels, x first.
    """
    turn = similarity_transform(points_52, torch.tensor(TEMPLATE))
    return cv2.warpAffine(frame, turn.numpy(), (FACE_SIDE, FACE_SIDE), flags=cv2.INTER_LINEAR)


MOST = 8
"""Faces of a frame that are read, the largest ones."""


class ArcFaceReader:
    """SCRFD and ArcFace (Deng et al., 2022), in InsightFace's exports.

    Frames are looked at with their longer side at 640 pixels, small ones enlarged; faces are taken
    from the frame itself.

    Args:
        detector: ONNX file of SCRFD.
        recognizer: ONNX file of ArcFace.

    Raises:
        UsageError: onnxruntime or OpenCV is not installed.
        WeightsError: A file is damaged, or of another network.
    """

    def __init__(self, detector: Path, recognizer: Path) -> None:
        self._cv2: Any = need("cv2")
        self._detector = ScrfdDetector(detector)
        self._session = open_session(recognizer)
        self._input = self._session.get_inputs()[0].name
        if self._session.get_inputs()[0].shape[1:] != [3, FACE_SIDE, FACE_SIDE]:
            raise WeightsError(f"{recognizer} takes no faces of 112x112", hint="get the known file")

    def read(self, frames_THWC: Tensor) -> tuple[FrameFaces, ...]:
        """Return the faces of each frame (uint8), the largest first."""
        return tuple(self._read(frame_HWC) for frame_HWC in frames_THWC)

    def _read(self, frame_HWC: Tensor) -> FrameFaces:
        frame = frame_HWC.cpu().contiguous().numpy()
        found = self._detector.find(frame, MOST)
        embeddings = [self._embed(frame, points_52) for points_52 in found.points_N52]
        return _frame_faces(embeddings, found.boxes_N4, frame_HWC)

    def _embed(self, frame: Any, points_52: Tensor) -> Tensor:  # noqa: ANN401 - a numpy array
        face = aligned_face(self._cv2, frame, points_52)
        outputs = self._session.run(None, {self._input: blob(face, 127.5)})
        return torch.from_numpy(outputs[0][0])


class SFaceReader:
    """YuNet (Wu et al., 2023) and SFace (Zhong et al., 2021), through OpenCV.

    Args:
        detector: ONNX file of YuNet.
        recognizer: ONNX file of SFace.

    Raises:
        UsageError: OpenCV is not installed.
        WeightsError: A file is damaged.
    """

    def __init__(self, detector: Path, recognizer: Path) -> None:
        cv2: Any = need("cv2")
        # OpenCV 5 warns on the terminal of a setting that is its own default.
        logging = cv2.utils.logging
        loud = logging.setLogLevel(logging.LOG_LEVEL_ERROR)
        try:
            self._finder = cv2.FaceDetectorYN.create(str(detector), "", (SIDE, SIDE), 0.6)
            self._reader = cv2.FaceRecognizerSF.create(str(recognizer), "")
        except cv2.error as error:
            raise WeightsError(
                f"{detector} or {recognizer} is damaged: {str(error)[:200]}",
                hint="dcgrid models pull sface; dcgrid models pull yunet",
            ) from error
        finally:
            logging.setLogLevel(loud)
        self._cv2 = cv2

    def read(self, frames_THWC: Tensor) -> tuple[FrameFaces, ...]:
        """Return the faces of each frame (uint8), the largest first."""
        return tuple(self._read(frame_HWC) for frame_HWC in frames_THWC)

    def _read(self, frame_HWC: Tensor) -> FrameFaces:
        picture, scale = self._enlarged(frame_HWC)
        self._finder.setInputSize((picture.shape[1], picture.shape[0]))
        _, rows = self._finder.detect(picture)
        rows = [] if rows is None else sorted(rows, key=lambda row: -row[2] * row[3])[:MOST]
        embeddings = [
            torch.from_numpy(self._reader.feature(self._reader.alignCrop(picture, row))[0].copy())
            for row in rows
        ]
        # Left, top, width, height.
        boxes = [(row[0], row[1], row[0] + row[2], row[1] + row[3]) for row in rows]
        boxes_N4 = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / scale
        return _frame_faces(embeddings, boxes_N4, frame_HWC)

    def _enlarged(self, frame_HWC: Tensor) -> tuple[Any, float]:
        """Return the frame in OpenCV's colours with its longer side at 640 pixels, and the scale.

        YuNet takes frames of any size and finds faces of up to a few hundred pixels.
        """
        scale = SIDE / max(frame_HWC.shape[:2])
        size = [max(1, round(edge * scale)) for edge in (frame_HWC.shape[1], frame_HWC.shape[0])]
        mode = self._cv2.INTER_CUBIC if scale > 1 else self._cv2.INTER_AREA
        bgr = frame_HWC.cpu().flip(-1).contiguous().numpy()
        return self._cv2.resize(bgr, size, interpolation=mode), scale


def _frame_faces(embeddings: list[Tensor], boxes_N4: Tensor, frame_HWC: Tensor) -> FrameFaces:
    """Return faces with their boxes as parts of the frame."""
    size_4 = boxes_N4.new_tensor([frame_HWC.shape[1], frame_HWC.shape[0]]).repeat(2)
    stacked_NE = torch.stack(embeddings).float() if embeddings else torch.zeros(0, 1)
    return FrameFaces(embeddings_NE=stacked_NE, boxes_N4=boxes_N4.reshape(-1, 4).float() / size_4)
