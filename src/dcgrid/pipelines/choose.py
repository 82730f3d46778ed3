"""Which of several tries at one edit is the best: two cheap scores, no model.

Letters: T frames, H W height and width of a small picture, 3 are red, green, blue.

The scores know nothing of the effect. They ask whether a try kept the clip: an edit that lost the
subject or flickers is worse than one that did not. They cannot say which rain is prettier.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dcgrid.video.pixels import unit_of

_SIDE = 64
# Flicker of one grey level in 255 on average costs about 0.04 of the score.
_FLICKER_WEIGHT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TryScore:
    """How well a try kept the clip."""

    structure: float
    """Correlation of the edges with the given clip's, mean over frames; -1..1."""
    flicker: float
    """How much more large areas jump in brightness than in the given clip; >= 0, 1 is white."""

    @property
    def total(self) -> float:
        """Higher is better."""
        return self.structure - _FLICKER_WEIGHT * self.flicker


def score_try(given_THWC: Tensor, filled_THWC: Tensor) -> TryScore:
    """Score a filled cell against the given clip.

    Args:
        given_THWC: Frames of the given clip, uint8.
        filled_THWC: Frames of the try, uint8, as many.

    Returns:
        The score. A clip without any edge (one colour) has structure 0.
    """
    given_THW, filled_THW = _small_luma(given_THWC), _small_luma(filled_THWC)
    return TryScore(
        structure=_edge_correlation(given_THW, filled_THW),
        flicker=max(0.0, _flicker(filled_THW) - _flicker(given_THW)),
    )


def mean_score(scores: Sequence[TryScore]) -> TryScore:
    """Return the mean score of the pieces of one try."""
    return TryScore(
        structure=statistics.fmean(score.structure for score in scores),
        flicker=statistics.fmean(score.flicker for score in scores),
    )


def rank_scores(scores: Sequence[TryScore]) -> list[tuple[int, TryScore]]:
    """Return the indices of tries with their scores, the best first; ties keep their order."""
    return sorted(enumerate(scores), key=lambda pair: -pair[1].total)


def rank_tries(given_THWC: Tensor, tries_NTHWC: Tensor) -> list[tuple[int, TryScore]]:
    """Score tries and rank them; see `rank_scores`."""
    return rank_scores([score_try(given_THWC, one) for one in tries_NTHWC])


def _small_luma(frames_THWC: Tensor) -> Tensor:
    """Return brightness in [0, 1] at 64 x 64: edges of things, not noise."""
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    # Smoothed and not averaged over boxes: a clip and its enlarged edit then match point by point.
    small = F.interpolate(
        unit_of(rearrange(frames_THWC, "t h w c -> t c h w")),
        (_SIDE, _SIDE),
        mode="bilinear",
        antialias=True,
    )
    return (small * rearrange(weights, "c -> 1 c 1 1").to(small.device)).sum(dim=1)


def _edge_correlation(first_THW: Tensor, second_THW: Tensor) -> float:
    first, second = _edges(first_THW), _edges(second_THW)
    first = first - first.mean(dim=1, keepdim=True)
    second = second - second.mean(dim=1, keepdim=True)
    return float(F.cosine_similarity(first, second, dim=1, eps=1e-6).mean())


def _edges(luma_THW: Tensor) -> Tensor:
    """Return how steep the brightness is at each point, one row per frame."""
    down = luma_THW[:, 1:, :-1] - luma_THW[:, :-1, :-1]
    right = luma_THW[:, :-1, 1:] - luma_THW[:, :-1, :-1]
    return rearrange((down.square() + right.square()).sqrt(), "t h w -> t (h w)")


def _flicker(luma_THW: Tensor) -> float:
    """Return the mean second difference in time of 8 x 8 areas; 0 for fewer than 3 frames."""
    if len(luma_THW) < 3:
        return 0.0
    areas = F.adaptive_avg_pool2d(rearrange(luma_THW, "t h w -> t 1 h w"), (8, 8))
    return float((areas[2:] - 2 * areas[1:-1] + areas[:-2]).abs().mean())
