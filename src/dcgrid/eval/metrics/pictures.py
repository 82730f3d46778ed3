"""How near a result is to the known truth, pixel by pixel.

Letters: T frames, H W height/width, C the 3 colours, L layers.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.eval.metrics.series import NO_FRAMES, mean_score, no_score
from dcgrid.eval.results import Score
from dcgrid.video.pixels import unit_of

PSNR_LIMIT = 100.0
"""What equal frames get, in dB, in place of infinity; one grey level in one of a million values
would be 108."""
WINDOW = 11
"""Pixels of SSIM's window."""


def psnr(result_THWC: Tensor, truth_THWC: Tensor) -> Score:
    """Return the peak signal-to-noise ratio.

        mean over t of 10 log10(255^2 / MSE_t),  MSE over pixels and the 3 colours

    In dB, 0..100 (`PSNR_LIMIT`), higher is better.

    Args:
        result_THWC: Frames of the result, uint8.
        truth_THWC: Frames of the truth, as many and as large.

    Raises:
        ValueError: Sizes differ: a caller's bug.
    """
    _require_alike(result_THWC, truth_THWC)
    values = []
    for result_HWC, truth_HWC in zip(result_THWC, truth_THWC, strict=True):
        error = float((result_HWC.double() - truth_HWC.double()).square().mean())
        values.append(min(PSNR_LIMIT, 10 * math.log10(255**2 / error)) if error else PSNR_LIMIT)
    return mean_score(values, none=NO_FRAMES)


def ssim(result_THWC: Tensor, truth_THWC: Tensor) -> Score:
    """Return the structural similarity.

    Source: Wang et al., 2004: a Gaussian window of 11x11 pixels, sigma 1.5, K1 0.01, K2 0.03, over
    places where the window lies inside; of luma (Rec. 601), since the paper is about grey pictures;
    at full size. Mean over frames. Range -1..1, 1: equal; higher is better.

    Args:
        result_THWC: Frames of the result, uint8.
        truth_THWC: Frames of the truth, as many and as large.

    Raises:
        ValueError: Sizes differ: a caller's bug.
    """
    _require_alike(result_THWC, truth_THWC)
    if min(result_THWC.shape[1:3]) < WINDOW:
        return no_score(f"frames of less than {WINDOW} pixels")
    pairs = zip(result_THWC, truth_THWC, strict=True)
    return mean_score([_frame_ssim(_luma(one), _luma(two)) for one, two in pairs], none=NO_FRAMES)


def lpips_distances(
    result: Sequence[Tensor], truth: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[float]:
    """Return the perceptual distance of frames by features of a network.

        sum over layers of mean over places of sum over channels w |unit(result) - unit(truth)|^2

    Source: Zhang et al., 2018, the calibrated ("lin") variant of version 0.1.

    Args:
        result: Features TCHW of each layer.
        truth: Those of the truth.
        weights: A weight a channel of each layer.
    """
    layers_LT = []
    for one_TCHW, two_TCHW, weight_C in zip(result, truth, weights, strict=True):
        apart_TCHW = (_unit_channels(one_TCHW) - _unit_channels(two_TCHW)).square()
        layers_LT.append(torch.einsum("tchw,c->thw", apart_TCHW, weight_C).mean(dim=(1, 2)))
    total_T: list[float] = torch.stack(layers_LT).sum(dim=0).tolist()
    return total_T


def lpips(distances: Sequence[float]) -> Score:
    """Return the learned perceptual distance: the mean of `lpips_distances` over frames.

    0: equal; seldom above 1; lower is better.
    """
    return mean_score(list(distances), none=NO_FRAMES)


def _require_alike(result_THWC: Tensor, truth_THWC: Tensor) -> None:
    if result_THWC.shape != truth_THWC.shape:
        raise ValueError(f"{tuple(result_THWC.shape)} against {tuple(truth_THWC.shape)}")


def _luma(frame_HWC: Tensor) -> Tensor:
    return frame_HWC.double() @ torch.tensor(
        [0.299, 0.587, 0.114], dtype=torch.double, device=frame_HWC.device
    )


def _frame_ssim(one_HW: Tensor, two_HW: Tensor) -> float:
    at = torch.arange(WINDOW, dtype=torch.double, device=one_HW.device) - WINDOW // 2
    gauss = torch.exp(-at.square() / (2 * 1.5**2))
    gauss = gauss / gauss.sum()

    def blurred(picture_HW: Tensor) -> Tensor:
        rows = F.conv2d(picture_HW[None, None], gauss.view(1, 1, -1, 1))
        return F.conv2d(rows, gauss.view(1, 1, 1, -1))[0, 0]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_1, mean_2 = blurred(one_HW), blurred(two_HW)
    spread_1 = blurred(one_HW.square()) - mean_1.square()
    spread_2 = blurred(two_HW.square()) - mean_2.square()
    shared = blurred(one_HW * two_HW) - mean_1 * mean_2
    light = (2 * mean_1 * mean_2 + c1) / (mean_1.square() + mean_2.square() + c1)
    return float((light * (2 * shared + c2) / (spread_1 + spread_2 + c2)).mean())


def _unit_channels(features_TCHW: Tensor) -> Tensor:
    # Added to the length, as the published weights were trained with.
    unit_TCHW: Tensor = features_TCHW / (features_TCHW.norm(dim=1, keepdim=True) + 1e-10)
    return unit_TCHW


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


def leak(result: Tensor, own: Tensor, other: Tensor, mask: Tensor | None = None) -> Score:
    """Return how far a result has gone from what it should be towards another clip.

        <result - own, other - own> / <other - own, other - own>

    The coordinate of the result on the line from its own clip to the other one: 0: nothing of the
    other that should not be there; 1: the other itself; below 0: away from it. Our own, in place of
    the leakage between panels that the paper has pictures of (section 5.2.1, Fig. 7). What differs
    from both does not count. Lower is better. The series is the same of each frame.

    Args:
        result: Frames or embeddings of the result, frames first.
        own: What the result should be, of the same shape.
        other: What should not be seen in it.
        mask: True where values count; of the shape without the last dimension. None: everywhere.

    Raises:
        ValueError: Shapes differ: a caller's bug.
    """
    if not result.shape == own.shape == other.shape:
        raise ValueError(f"{tuple(result.shape)}, {tuple(own.shape)}, {tuple(other.shape)}")
    if mask is not None and mask.shape != result.shape[:-1]:
        raise ValueError(f"mask {tuple(mask.shape)} for {tuple(result.shape[:-1])}")
    if not len(result):
        return no_score(NO_FRAMES)
    shared, whole = [], []
    for index in range(len(result)):
        line, gone = (one[index].double() - own[index].double() for one in (other, result))
        if mask is not None:
            line, gone = line[mask[index]], gone[mask[index]]
        shared.append(float((line * gone).sum()))
        whole.append(float(line.square().sum()))
    each = [one / all_ if all_ else None for one, all_ in zip(shared, whole, strict=True)]
    frames = mean_score(each, none="both clips are the same")
    value = None if frames.value is None else sum(shared) / sum(whole)
    return Score(value=value, reason=frames.reason, series=frames.series, frames=frames.frames)
