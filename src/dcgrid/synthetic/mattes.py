"""Mattes of people in real footage: how opaque the subject is, pixel by pixel.

Used when a store is built and when known truths are compared, never when a model runs. The network
is MediaPipe's selfie segmentation (npm @mediapipe/selfie_segmentation, Apache-2.0, 250 KB), run by
`ai-edge-litert` of the extra `train`.

Letters: C channels, T H W frames/height/width.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from dcgrid.synthetic.sources import SOURCES, source_dir

NETWORK = "selfie_segmentation.tflite"
SIDE = 256
"""Pixels a side of the pictures that the network reads."""
SMALLEST = 0.03
"""Share of a clip that must be surely somebody: under it, nobody is taken to be there."""


def find_network(raw_dir: Path) -> Path | None:
    """Return the network that `fetch_sources` unpacked below a folder; None: there is none."""
    for source in SOURCES:
        if source.kind == "mattes":
            found = sorted(source_dir(raw_dir, source).rglob(NETWORK))
            if found:
                return found[0]
    return None


def can_run() -> bool:
    """Tell whether what runs the network is installed."""
    return find_spec("ai_edge_litert") is not None


class Matting:
    """Finds people in clips.

    Args:
        network: File of the network; see `find_network`.
    """

    def __init__(self, network: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter: Any = Interpreter(str(network), num_threads=1)
        self._interpreter.allocate_tensors()

    def __call__(self, clip_CTHW: torch.Tensor) -> torch.Tensor | None:
        """Return the matte THW in [0, 1] of an RGB clip in [0, 1]; None: nobody is in it."""
        frames_TCHW = clip_CTHW.transpose(0, 1).cpu()
        small_TCHW = F.interpolate(
            frames_TCHW, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
        )
        found = torch.stack([self._run(one) for one in small_TCHW])
        matte_THW = F.interpolate(
            found[:, None], size=clip_CTHW.shape[2:], mode="bicubic", align_corners=False
        )[:, 0].clamp(0, 1)
        sure = float((matte_THW > 0.9).float().mean())
        unsure = float(((matte_THW > 0.1) & (matte_THW <= 0.9)).float().mean())
        if sure < SMALLEST or unsure > sure:  # of things, the network makes vague blots
            return None
        return matte_THW.to(clip_CTHW.device)

    def _run(self, frame_CHW: torch.Tensor) -> torch.Tensor:
        source, result = (
            details[0]["index"]
            for details in (
                self._interpreter.get_input_details(),
                self._interpreter.get_output_details(),
            )
        )
        self._interpreter.set_tensor(source, frame_CHW.permute(1, 2, 0)[None].contiguous().numpy())
        self._interpreter.invoke()
        return torch.from_numpy(self._interpreter.get_tensor(result).copy()).reshape(SIDE, SIDE)
