"""Faces of frames, found, aligned and embedded.

ArcFace is the network of the paper's ID; SFace is another one and stands under its own name.

Letters: T frames, H W height/width, C the 3 colours, N faces, E embedding.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.scrfd import SIDE, ScrfdDetector, blob, open_session
from dcgrid.eval.extra import need
from dcgrid.eval.metrics import FrameFaces

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
