"""How much the picture was changed.

Letters: T frames, H W height/width, C the 3 colours.
"""

import torch
from torch import Tensor

from dcgrid.eval.metrics.series import mean_score, no_score
from dcgrid.eval.results import Score
from dcgrid.video.pixels import unit_of

# sRGB to XYZ under D65, divided by the white point (IEC 61966-2-1).
_TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)


def change(source_THWC: Tensor, result_THWC: Tensor, mask_THW: Tensor | None = None) -> Score:
    """Return how far colours are from the source's, over the picture or a part of it.

        mean over frames and pixels of |Lab(source) - Lab(result)|    (Delta E, CIE 1976)

    Says how strong an edit is; over the background, what an edit of the subject should have left
    alone. 0: nothing changed; 2.3 can just be seen (Mahy et al., 1994); black to white is 100.
    Neither way is better.

    Args:
        source_THWC: Frames of the source, uint8.
        result_THWC: Frames of the result, as many and as large.
        mask_THW: True where pixels count; None: everywhere. Frames without such pixels have no
            value.

    Raises:
        ValueError: Sizes differ: a caller's bug.
    """
    if source_THWC.shape != result_THWC.shape:
        raise ValueError(f"{tuple(source_THWC.shape)} against {tuple(result_THWC.shape)}")
    if mask_THW is not None and mask_THW.shape != source_THWC.shape[:3]:
        raise ValueError(f"mask {tuple(mask_THW.shape)} for {tuple(source_THWC.shape[:3])}")
    if not len(source_THWC):
        return no_score("no frames")
    values: list[float | None] = []
    for index, (source_HWC, result_HWC) in enumerate(zip(source_THWC, result_THWC, strict=True)):
        apart_HW = (lab(source_HWC) - lab(result_HWC)).norm(dim=-1)
        if mask_THW is not None:
            apart_HW = apart_HW[mask_THW[index].to(apart_HW.device)]
        values.append(float(apart_HW.mean()) if apart_HW.numel() else None)
    return mean_score(values, none="the mask is empty")


def lab(frame_HWC: Tensor) -> Tensor:
    """Return CIE L*a*b* (HWC, float) of sRGB colours under D65; L is 0..100.

    Args:
        frame_HWC: RGB, uint8.
    """
    coded = unit_of(frame_HWC)
    linear = torch.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    xyz = linear @ torch.tensor(_TO_XYZ, device=frame_HWC.device).T
    small = 6 / 29
    root = torch.where(xyz > small**3, xyz ** (1 / 3), xyz / (3 * small**2) + 4 / 29)
    x, y, z = root.unbind(dim=-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)
