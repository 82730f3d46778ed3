"""Whether a result moves as its source does, and whether it flickers.

A flow says for each pixel of a frame where it is in another one, x first, in pixels.

Letters: T frames, P pairs of consecutive frames, H W height/width, C the 3 colours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.eval.metrics.series import mean_score, no_score
from dcgrid.eval.results import Score

STILL = 0.05
"""Mean flow in pixels below which a clip stands still."""
ONE_FRAME = "a single frame"


def motion_agreement(source_PHW2: Tensor, result_PHW2: Tensor) -> Score:
    """Return how far a result moves as its source does.

        1 - sum |source - result| / (sum |source| + sum |result|)    over pairs and pixels

    The similarity of Bray and Curtis, 1957, of vectors in place of counts; the measure of optical
    flow is the end-point error of Otte and Nagel, 1994. By the triangle inequality it is in 0..1.
    1: the same motion; 0: opposite motion, or motion in one of the two alone. Higher is better.
    Colours do not matter, as far as the flow sees through their change. The series has a value a
    pair, at its second frame, where something moves.

    Args:
        source_PHW2: Flow of each frame of the source to the next one.
        result_PHW2: That of the result, as many pairs, as large.

    Raises:
        ValueError: Sizes differ: a caller's bug.
    """
    if source_PHW2.shape != result_PHW2.shape:
        raise ValueError(f"{tuple(source_PHW2.shape)} against {tuple(result_PHW2.shape)}")
    if not len(source_PHW2):
        return no_score(ONE_FRAME)
    source_P, result_P = _length(source_PHW2), _length(result_PHW2)
    apart_P, both_P = _length(source_PHW2 - result_PHW2), source_P + result_P
    if float(source_P.mean()) < STILL:
        return no_score("the source stands still")
    pairs = [
        1 - float(apart) / float(both) if not float(both) < STILL else None
        for apart, both in zip(apart_P, both_P, strict=True)
    ]
    each = mean_score(pairs, none="the source stands still", first=1)
    value = None if each.value is None else 1 - float(apart_P.sum()) / float(both_P.sum())
    return Score(value=value, reason=each.reason, series=each.series, frames=each.frames)


def flicker(frames_THWC: Tensor, forward_PHW2: Tensor, backward_PHW2: Tensor) -> Score:
    """Return how much colours change along the result's own motion.

        mean over pairs, seen pixels and colours of |frame_t+1(x) - frame_t(x + back_t(x))|

    The warping error of Lai et al., 2018, with these differences: absolute in place of squared, in
    grey levels of 0..255, and along the flow of the result in place of the input's, since an edit
    need not stand where its source stood. A pixel is seen where the flow there and back ends near
    its start (Sundaram et al., 2010) and inside of the picture. Lower is better.

    Args:
        frames_THWC: Frames, uint8.
        forward_PHW2: Flow of each frame to the next one, as large as the frames.
        backward_PHW2: Flow of each frame but the first to the one before.

    Raises:
        ValueError: Sizes do not fit together: a caller's bug.
    """
    pairs = max(0, len(frames_THWC) - 1)
    size = (pairs, *frames_THWC.shape[1:3], 2)
    if forward_PHW2.shape != size or backward_PHW2.shape != size:
        raise ValueError(f"flows {tuple(forward_PHW2.shape)}, {tuple(backward_PHW2.shape)}: {size}")
    if not pairs:
        return no_score(ONE_FRAME if len(frames_THWC) else "no frames")
    values: list[float | None] = []
    for index in range(pairs):
        back_HW2 = backward_PHW2[index]
        before_HWC = _sample(frames_THWC[index].float(), back_HW2)
        there_HW2 = _sample(forward_PHW2[index], back_HW2)
        seen_HW = _inside(back_HW2) & ~_occluded(back_HW2, there_HW2)
        apart_HWC = (frames_THWC[index + 1].float() - before_HWC).abs()
        values.append(float(apart_HWC[seen_HW].mean()) if bool(seen_HW.any()) else None)
    return mean_score(values, none="no pixel could be followed", first=1)


def _length(flow_PHW2: Tensor) -> Tensor:
    """Return the mean length of a flow's vectors, a value a pair."""
    mean_P: Tensor = flow_PHW2.float().norm(dim=-1).mean(dim=(1, 2))
    return mean_P


def _occluded(back_HW2: Tensor, there_HW2: Tensor) -> Tensor:
    """Return where the way back and there again does not end near its start."""
    apart = (back_HW2 + there_HW2).square().sum(dim=-1)
    lengths = back_HW2.square().sum(dim=-1) + there_HW2.square().sum(dim=-1)
    return apart > 0.01 * lengths + 0.5


def _places(flow_HW2: Tensor) -> Tensor:
    """Return where the pixels of a flow come to lie, x first."""
    height, width = flow_HW2.shape[:2]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows], dim=-1).to(flow_HW2) + flow_HW2


def _inside(flow_HW2: Tensor) -> Tensor:
    places_HW2 = _places(flow_HW2)
    last_2 = places_HW2.new_tensor([flow_HW2.shape[1] - 1, flow_HW2.shape[0] - 1])
    return ((places_HW2 >= 0) & (places_HW2 <= last_2)).all(dim=-1)


def _sample(picture_HWC: Tensor, flow_HW2: Tensor) -> Tensor:
    """Return the picture, or a flow, at the places that a flow leads to."""
    last_2 = flow_HW2.new_tensor([max(1, flow_HW2.shape[1] - 1), max(1, flow_HW2.shape[0] - 1)])
    grid_HW2 = _places(flow_HW2) / last_2 * 2 - 1
    warped = F.grid_sample(
        picture_HWC.permute(2, 0, 1)[None],
        grid_HW2[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return warped[0].permute(1, 2, 0)
