"""Soft dots and streaks, averaged over the pixels that they fall on.

However thin a streak is, a pixel has the mean of what covers it: a picture of another size shows
the same light. Letters: P frames, N points, M stamps (a point on one frame), H W height/width,
R S rows and columns of the part of the picture that a stamp touches.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamps:
    """What is drawn on one run of frames; lengths in pixels."""

    y_PN: torch.Tensor
    """Middle, from the top edge."""
    x_PN: torch.Tensor
    """Middle, from the left edge."""
    weight_PN: torch.Tensor
    """Opacity at the middle."""
    wide_N: torch.Tensor
    """One standard deviation across."""
    half_N: torch.Tensor
    """Half the length of the streak; 0: a round dot."""
    lean_N: torch.Tensor
    """Pixels to the right for each pixel down along the streak."""
    flat: float = 1.0
    """Height of a dot as a share of its width."""
    tail: float = 0.0
    """How much of its opacity a streak loses towards its lower end, 0 to 1."""


def draw_stamps(stamps: Stamps, rows: int, columns: int) -> torch.Tensor:
    """Add up stamps; opacity of shape PHW, not clamped."""
    frames, device = len(stamps.y_PN), stamps.y_PN.device
    if not stamps.y_PN.numel():
        return torch.zeros(frames, rows, columns, device=device)
    reach_y = math.ceil(float((3 * stamps.flat * stamps.wide_N + stamps.half_N).max())) + 1
    shift = float((stamps.lean_N.abs() * stamps.half_N).max())
    reach_x = math.ceil(3 * float(stamps.wide_N.max()) + shift) + 1
    seen_PN = (stamps.weight_PN > 1e-3) & (stamps.y_PN > -reach_y) & (stamps.y_PN < rows + reach_y)
    seen_PN &= (stamps.x_PN > -reach_x) & (stamps.x_PN < columns + reach_x)
    frame_M, point_M = seen_PN.nonzero(as_tuple=True)
    y_M, x_M = stamps.y_PN[frame_M, point_M], stamps.x_PN[frame_M, point_M]
    top_M, left_M = y_M.floor() - reach_y, x_M.floor() - reach_x
    row_MR = top_M[:, None] + torch.arange(2 * reach_y + 1, device=device)
    column_MS = left_M[:, None] + torch.arange(2 * reach_x + 1, device=device)
    wide_M, half_M = stamps.wide_N[point_M], stamps.half_N[point_M]
    down_MR = row_MR - y_M[:, None]
    along_MR = _covered(down_MR, stamps.flat * wide_M[:, None], half_M[:, None])
    if stamps.tail:
        place_MR = (down_MR + 0.5) / (2 * half_M[:, None]).clamp(min=0.5) + 0.5
        along_MR = along_MR * (1 - stamps.tail * place_MR.clamp(0, 1))
    across_MRS = _across(column_MS, x_M, stamps.lean_N[point_M], down_MR, wide_M)
    light_MRS = (stamps.weight_PN[frame_M, point_M][:, None] * along_MR)[..., None] * across_MRS
    # Drawn on a canvas with so much around it that no stamp has to be cut, and cut out of that.
    around_y, around_x = 2 * reach_y + 1, 2 * reach_x + 1
    tall, wide = rows + 2 * around_y, columns + 2 * around_x
    canvas = torch.zeros(frames * tall * wide, device=device)
    line_MR = (frame_M[:, None] * tall + row_MR.long() + around_y) * wide + around_x
    place_MRS = line_MR[..., None] + column_MS.long()[:, None]
    canvas.index_add_(0, place_MRS.flatten(), light_MRS.flatten())
    drawn_PHW = canvas.view(frames, tall, wide)
    return drawn_PHW[:, around_y : around_y + rows, around_x : around_x + columns]


def _across(
    column_MS: torch.Tensor,
    x_M: torch.Tensor,
    lean_M: torch.Tensor,
    down_MR: torch.Tensor,
    wide_M: torch.Tensor,
) -> torch.Tensor:
    """Return how much of a streak each column has, M R S, or M 1 S where nothing leans."""
    middle_MR = x_M[:, None]
    if bool(lean_M.any()):
        middle_MR = middle_MR + lean_M[:, None] * (down_MR + 0.5)
    from_MRS = column_MS[:, None] - middle_MR[..., None]
    return _covered(from_MRS, wide_M[:, None, None], torch.zeros_like(wide_M)[:, None, None])


def _covered(start: torch.Tensor, deviation: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    """Return the mean from `start` to `start + 1` of a soft bar around 0.

    The bar has height 1 within `half` of the middle and soft ends; with no length it is a normal
    curve of peak 1.
    """
    if not bool(half.any()):
        edges = torch.stack((start, start + 1)) / (deviation * math.sqrt(2))
        low, high = torch.special.erf(edges)
        dot: torch.Tensor = (high - low) * deviation * math.sqrt(math.pi / 2)
        return dot
    soft = deviation + 0.25 * half

    def area(edge: torch.Tensor) -> torch.Tensor:
        z = edge / soft
        bell = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
        until: torch.Tensor = soft * (z * torch.special.ndtr(z) + bell)
        return until

    stop = start + 1
    bar: torch.Tensor = (
        area(stop + half) - area(stop - half) - area(start + half) + area(start - half)
    )
    return bar
