"""A face turned to where a recognition network expects it."""

from typing import Any

import torch
from torch import Tensor

SIDE = 112
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
    return cv2.warpAffine(frame, turn.numpy(), (SIDE, SIDE), flags=cv2.INTER_LINEAR)
