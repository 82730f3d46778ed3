"""Dense optical flow by DIS (Kroeger et al., 2016), as OpenCV has it; no weights.

Letters: T frames, P pairs of consecutive frames, H W height/width, C the 3 colours.
"""

from typing import Any

import torch
from torch import Tensor

from dcgrid.runtime.install import need

LONGEST = 320
"""Pixels of the longer side that flow is measured at, so that it does not depend on the size."""
SMALLEST = 32
"""Pixels that the shorter side must have there."""


class FlowReader:
    """Measures the flow between consecutive frames.

    Raises:
        UsageError: OpenCV is not installed.
    """

    def __init__(self) -> None:
        self._cv2: Any = need("cv2")
        self._dis = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def forward(self, frames_THWC: Tensor) -> Tensor:
        """Return the flow PHW2 of each frame (uint8) to the next one."""
        return self._flows(frames_THWC, back=False)

    def backward(self, frames_THWC: Tensor) -> Tensor:
        """Return the flow PHW2 of each frame (uint8) but the first to the one before."""
        return self._flows(frames_THWC, back=True)

    def _flows(self, frames_THWC: Tensor, *, back: bool) -> Tensor:
        pairs = max(0, len(frames_THWC) - 1)
        found = torch.zeros(pairs, *frames_THWC.shape[1:3], 2)
        grey = [
            self._cv2.cvtColor(frame_HWC.cpu().contiguous().numpy(), self._cv2.COLOR_RGB2GRAY)
            for frame_HWC in frames_THWC
        ]
        for index in range(pairs):
            here, there = (index + 1, index) if back else (index, index + 1)
            found[index] = torch.from_numpy(self._dis.calc(grey[here], grey[there], None))
        return found


def flow_size(height: int, width: int) -> tuple[int, int]:
    """Return height and width that flow of frames of a size is measured at."""
    scale = min(1.0, LONGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
