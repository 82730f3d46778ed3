"""Figures that compare a clip with the truth. Pure; clips are uint8, all colours count alike.

Letters: T frames, H W height/width, C the 3 colours.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

LOW_PASS_PIXELS = 8
"""Side of the areas whose mean colour is compared in the low-pass figure."""
DETAIL_PIXELS = 4
"""Side of the areas inside which differences count as detail."""
MOST_DB = 100.0
"""PSNR of equal clips, so that means stay finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How near a clip comes to the truth."""

    psnr: float
    """Of all pixels, in dB."""
    low_pass_psnr: float
    """Of the mean colours of 8x8 pixels, in dB: light and tone, without streaks and flakes."""
    motion: float
    """Energy of the difference from frame to frame over the truth's; 1 is as lively."""
    detail: float
    """Energy of what is finer than 4x4 pixels over the truth's; 1 is as sharp."""

    def as_json(self) -> dict[str, float | None]:
        """Return the figures for programs; what cannot be told is null."""
        return {
            name: round(value, 4) if math.isfinite(value) else None
            for name, value in asdict(self).items()
        }


def compare(clip_THWC: Tensor, truth_THWC: Tensor) -> Figures:
    """Compare a clip with the truth.

    Args:
        clip_THWC: The clip, uint8, at least 8 pixels a side.
        truth_THWC: What it should be, uint8, same shape.

    Raises:
        ValueError: The shapes differ.
    """
    if clip_THWC.shape != truth_THWC.shape:
        raise ValueError(f"clips {tuple(clip_THWC.shape)}, {tuple(truth_THWC.shape)} differ")
    clip, truth = _in_255(clip_THWC), _in_255(truth_THWC)
    return Figures(
        psnr=_psnr(clip, truth),
        low_pass_psnr=_psnr(_means(clip, LOW_PASS_PIXELS), _means(truth, LOW_PASS_PIXELS)),
        motion=_ratio(_motion_energy(clip), _motion_energy(truth)),
        detail=_ratio(_detail_energy(clip), _detail_energy(truth)),
    )


def mean_figures(several: Sequence[Figures]) -> Figures:
    """Return the mean of each figure over those clips for which it can be told."""
    rows = [asdict(one) for one in several]
    return Figures(**{name: mean([row[name] for row in rows]) for name in rows[0]})


def mean(values: Sequence[float]) -> float:
    """Return the mean of the finite values; not a number if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _in_255(clip_THWC: Tensor) -> Tensor:
    return rearrange(clip_THWC, "t h w c -> t c h w").double()


def _psnr(first: Tensor, second: Tensor) -> float:
    error = float((first - second).square().mean())
    return min(MOST_DB, 10 * math.log10(255**2 / error)) if error else MOST_DB


def _means(clip_TCHW: Tensor, side: int) -> Tensor:
    """Return the mean of each area; a rest at the right and lower edge is left out."""
    return F.avg_pool2d(clip_TCHW, side)


def _motion_energy(clip_TCHW: Tensor) -> float:
    return float(clip_TCHW.diff(dim=0).square().mean()) if len(clip_TCHW) > 1 else 0.0


def _detail_energy(clip_TCHW: Tensor) -> float:
    """Return the mean variance inside areas."""
    means, squares = _means(clip_TCHW, DETAIL_PIXELS), _means(clip_TCHW**2, DETAIL_PIXELS)
    return float(torch.clamp(squares - means**2, min=0).mean())


def _ratio(energy: float, truth: float) -> float:
    return energy / truth if truth > 0 else math.nan
