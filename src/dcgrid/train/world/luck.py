"""Luck: the moving noise from which rain, snow, sparks and smoke are rendered.

A renderer that draws its own random numbers leaves a model nothing to know them by, and its best
guess is a haze. Here every drop is a function of noise that the model sees, too: of the last
channels of what sampling starts from (flow/noise.py, docs/decisions/0009).

One number stands for a *block* of BLOCK x BLOCK pixels and STRIDE_T frames. Three channels make a
*group* of points, one for each of three places in a block: where the number is high there is a
point, and the higher the stronger (most have none). The noise moves, and the points with it.
The places are fixed so that a point is a threshold and a sum, which a small network learns soon.

Letters: M channels, F Y X latent frames/rows/columns, T H W pixel frames/height/width, N points.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from dcgrid.flow.noise import draw_moving
from dcgrid.models.native.config import MOVING_NOISE

BLOCK = 8
"""Pixels a side of a block in a cell; a picture of `scale` times its size has blocks of `scale`
times as many, so that a drop covers the same share of it."""
CELL_SIDE = 126
"""Side of a square with about as many pixels as a cell of `mini` (96x160, 128x128)."""
STRIDE_T = 4
"""Frames that a number lasts; frame 0 has numbers of its own."""
RATE = 12.0
"""Frames per second that STRIDE_T counts in."""
REACH = 4
"""Blocks around the picture whose points are drawn, too: their numbers are those inside, mirrored,
so that rain does not thin out towards an edge."""

PLACES = ((0.15, 0.20), (0.50, 0.85), (0.85, 0.50))
"""Where in its block the point of each channel of a group stands, across and down."""

FALL_FAST, FALL, FALL_SLOW, RISE = range(0, 12, 3)
"""First channel of each group of points."""
SMOOTH, SMOOTH_FINE = 12, 13
"""Channels that are smooth in space and rise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointLook:
    """How the points of a group look; lengths in blocks."""

    share: float
    """Part of the places that have a point; there are three in a block."""
    radius: float
    """One standard deviation across."""
    length: float = 0.0
    """Length of the streak; 0: a round dot."""
    lean: float = 0.0
    """Blocks to the right for each block down along the streak."""
    opacity: float = 1.0
    """Of the strongest points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Luck:
    """The moving noise of one clip, and where its blocks and frames are."""

    values_MFYX: torch.Tensor
    """The noise."""
    seconds_T: torch.Tensor
    """Time of the clip's frames."""
    like: torch.Tensor
    """A clip of the size to draw in."""
    scale: float = 1.0
    """Pixels of that clip for each pixel of a cell."""

    @property
    def block(self) -> float:
        """Pixels a side of a block."""
        return BLOCK * self.scale

    def points(self, group: int, look: PointLook) -> torch.Tensor:
        """Draw a group of points, opacity of shape THW, not clamped."""
        drawn = [self._points_of(group, look, f, frames_P) for f, frames_P in self._spans()]
        return torch.cat(drawn)

    def smooth(self, channel: int) -> torch.Tensor:
        """Return a smooth channel at every pixel and frame, shape THW, standard normal."""
        rows, columns = self.like.shape[-2:]
        y_H = torch.arange(rows, device=self.like.device) + 0.5
        x_W = torch.arange(columns, device=self.like.device) + 0.5
        across_WX = _cubic_weights(x_W / self.block, self.values_MFYX.shape[-1])
        drawn = []
        for f, frames_P in self._spans():
            field_YX = self.values_MFYX[channel, f]
            y_PH = y_H - self._fallen(channel, f, frames_P)[:, None]
            down_PHY = _cubic_weights(y_PH / self.block, len(field_YX))
            drawn.append(down_PHY @ (field_YX @ across_WX.T))
        return torch.cat(drawn)

    def _spans(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield each latent frame with the times of its pixel frames."""
        last = self.values_MFYX.shape[1] - 1
        frames_T = self.seconds_T * RATE
        index_T = (frames_T / STRIDE_T - 1e-4).ceil().clamp(0, last).long()
        for f in range(last + 1):
            frames_P = frames_T[index_T == f]
            if len(frames_P):
                yield f, frames_P

    def _fallen(self, channel: int, f: int, frames_P: torch.Tensor) -> torch.Tensor:
        """Return how far down, in pixels, points are from their blocks' place at these times."""
        middle = STRIDE_T * f - (STRIDE_T - 1) / 2
        speed = MOVING_NOISE[channel][0] * self.block / STRIDE_T
        return (frames_P - middle) * speed

    def _points_of(
        self, group: int, look: PointLook, f: int, frames_P: torch.Tensor
    ) -> torch.Tensor:
        """Draw the points of one latent frame, opacity of shape PHW."""
        padded = functional.pad(
            self.values_MFYX[None, group : group + 3, f], (REACH,) * 4, "reflect"
        )
        over_3YX = padded[0] - _threshold(look.share)
        place_N, row_N, column_N = (over_3YX > 0).nonzero(as_tuple=True)
        over_N = over_3YX[place_N, row_N, column_N]
        weight_N = look.opacity * (1 - 0.6 * torch.exp(-over_N / 0.3))
        places_32 = torch.tensor(PLACES, device=over_N.device)
        x_N = (column_N - REACH + places_32[place_N, 0]) * self.block
        y_N = (row_N - REACH + places_32[place_N, 1]) * self.block
        y_PN = y_N + self._fallen(group, f, frames_P)[:, None]
        return self._splat(y_PN, x_N, weight_N, look)

    def _splat(
        self, y_PN: torch.Tensor, x_N: torch.Tensor, weight_N: torch.Tensor, look: PointLook
    ) -> torch.Tensor:
        """Draw each point as a row of soft dots along its streak; a frame is a matrix product.

        A pixel has the mean of what falls on it, so a picture of another size shows the same.
        """
        edges_H = torch.arange(self.like.shape[-2] + 1, device=y_PN.device)
        edges_W = torch.arange(self.like.shape[-1] + 1, device=y_PN.device)
        dots = max(1, math.ceil(look.length * 2))
        step = look.length / dots
        wide = self.block * look.radius
        tall = self.block * max(look.radius, 0.6 * step)
        total = torch.zeros((), device=y_PN.device)
        for dot in range(dots):
            along = (dot - (dots - 1) / 2) * step * self.block
            rows_PHN = _dot_shares(edges_H[:, None] - y_PN[:, None] - along, tall, axis=1)
            columns_NW = _dot_shares(edges_W - x_N[:, None] - look.lean * along, wide, axis=1)
            total = total + (rows_PHN * weight_N) @ columns_NW
        return total


def _dot_shares(edges: torch.Tensor, deviation: float, axis: int) -> torch.Tensor:
    """Return the mean of a normal curve of peak 1 between neighbouring edges along an axis."""
    below = torch.special.erf(edges / (deviation * math.sqrt(2)))
    shares: torch.Tensor = below.diff(dim=axis) * (deviation * math.sqrt(math.pi / 2))
    return shares


def _cubic_weights(places: torch.Tensor, count: int) -> torch.Tensor:
    """Return how much each of `count` numbers adds at places in [0, count]; adds up to 1.

    Number i stands at i + 0.5; between them runs a cubic spline through them (Catmull and Rom).
    """
    last = count - 1
    inside = (places - 0.5).clamp(0, last)
    away = (inside[..., None] - torch.arange(-1, count + 1, device=places.device)).abs()
    near = (1.5 * away - 2.5) * away**2 + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = torch.where(away < 1, near, torch.where(away < 2, far, 0.0))
    inner = weights[..., 1:-1].clone()
    inner[..., 0] += weights[..., 0]
    inner[..., last] += weights[..., -1]
    return inner


def draw_luck(
    clip_CTHW: torch.Tensor,
    seconds_T: torch.Tensor,
    generator: torch.Generator,
    scale: float = 1.0,
) -> torch.Tensor:
    """Draw the moving noise for a clip of `scale` pixels a pixel of a cell, MFYX on its device."""
    frames = math.ceil(float(seconds_T[-1]) * RATE / STRIDE_T - 1e-4) + 1
    # Mirroring at the edges needs more blocks than it reaches.
    rows, columns = (
        max(REACH + 1, math.ceil(side / (BLOCK * scale) - 1e-4)) for side in clip_CTHW.shape[-2:]
    )
    drawn = draw_moving((frames, rows, columns), MOVING_NOISE, generator)
    return drawn.to(clip_CTHW.device)


def cell_scale(like: torch.Tensor) -> float:
    """Return how many times a cell's size a picture H, W is; at least 1, a whole number."""
    rows, columns = like.shape[-2:]
    return float(max(1, round(math.sqrt(rows * columns) / CELL_SIDE)))


def _threshold(share: float) -> float:
    """Return the number that this share of standard normal numbers is above."""
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - 2 * share)))
