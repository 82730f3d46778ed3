"""Drifting noise: the moving part of a cell's noise, from which rain, snow and smoke are rendered.

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
from dataclasses import dataclass, field, replace

import torch
from torch.nn import functional

from dcgrid.models.native.config import MOVING_NOISE
from dcgrid.models.stamps import Stamps, draw_stamps

BLOCK = 8
"""Pixels a side of a block in a cell; a picture of `scale` times its size has blocks of `scale`
times as many, so that a drop covers the same share of it."""
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
    copies: int = 1
    """Points for each number over the threshold; all but the first stand anywhere in the block."""
    jitter: float = 0.0
    """How far the first may stand from its place."""
    vary: float = 0.0
    """Largest relative change of its size."""
    fan: float = 0.0
    """Largest change of its lean."""
    sway: float = 0.0
    """How far it swings to either side as it moves."""
    tail: float = 0.0
    """How much of its opacity a streak loses towards its lower end, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftingNoise:
    """The moving noise of one clip, and where its blocks and frames are."""

    values_MFYX: torch.Tensor
    """The noise."""
    seconds_T: torch.Tensor
    """Time of the clip's frames."""
    like: torch.Tensor
    """A clip of the size to draw in."""
    scale: float = 1.0
    """Pixels of that clip for each pixel of a cell."""
    _drawn: dict[tuple[int, PointLook], tuple[int, int, torch.Tensor]] = field(
        init=False, default_factory=dict, repr=False, compare=False
    )
    """Of each look the latent frame last drawn, its margin above and below, and the picture."""

    def at(self, seconds: float) -> "DriftingNoise":
        """Return the same noise at one moment; what was drawn for others near it is used again."""
        moment = replace(self, seconds_T=torch.tensor([seconds]))
        # Only here: a copy of another size must not find pictures of this one.
        object.__setattr__(moment, "_drawn", self._drawn)
        return moment

    @property
    def block(self) -> float:
        """Pixels a side of a block."""
        return BLOCK * self.scale

    def points(self, group: int, look: PointLook) -> torch.Tensor:
        """Draw a group of points, opacity of shape THW, not clamped."""
        drawn = [self._points_of(group, look, f, frames_P) for f, frames_P in self._spans()]
        return torch.cat(drawn)

    def bursts(self, group: int, share: float) -> torch.Tensor:
        """Draw where points end: small flat rings that open and fade in place, opacity THW."""
        drawn = []
        look = PointLook(share=share, radius=0.0, jitter=0.3)
        for f, frames_P in self._spans():
            numbers_N, x_N, y_N, weight_N = self._placed(group, look, f)
            begin_N = STRIDE_T * f - STRIDE_T + 1 + 1.5 * chance_of(numbers_N, 6)
            age_PN = (frames_P[:, None] - begin_N) / 2.0
            alive_PN = ((age_PN > 0) & (age_PN < 1)).float()
            total = torch.zeros((), device=x_N.device)
            for side in (-1, 1):
                stamps = Stamps(
                    y_PN=(y_N * self.block).expand_as(age_PN),
                    x_PN=(x_N + side * (0.03 + 0.10 * age_PN)) * self.block,
                    weight_PN=weight_N * alive_PN * (1 - age_PN),
                    wide_N=torch.full_like(x_N, 0.045 * self.block),
                    half_N=torch.zeros_like(x_N),
                    lean_N=torch.zeros_like(x_N),
                    flat=0.4,
                )
                total = total + draw_stamps(stamps, *self.like.shape[-2:])
            drawn.append(total)
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
        fallen_P = self._fallen(group, f, frames_P)
        if look.sway:
            return self._stamped(group, look, f, fallen_P, frames_P / RATE)
        # What does not sway moves as one picture, which is drawn once for all frames.
        life = 2.5 * abs(MOVING_NOISE[group][0]) * self.block / STRIDE_T
        margin = math.ceil(max(life, float(fallen_P.abs().max()))) + 1
        drawn_f, drawn_margin, picture_HW = self._drawn.get((group, look), (-1, 0, None))
        if picture_HW is None or drawn_f != f or drawn_margin < margin:
            still_1 = torch.zeros(1, device=fallen_P.device)
            picture_HW = self._stamped(group, look, f, still_1, still_1, margin)[0]
            self._drawn[group, look] = f, margin, picture_HW
        else:
            margin = drawn_margin
        rows, frames = self.like.shape[-2], []
        for top in (margin - fallen_P).tolist():
            whole = math.floor(top)
            pair_2HW = picture_HW[whole : whole + rows], picture_HW[whole + 1 : whole + 1 + rows]
            frames.append(torch.lerp(*pair_2HW, top - whole))
        return torch.stack(frames)

    def _stamped(
        self,
        group: int,
        look: PointLook,
        f: int,
        fallen_P: torch.Tensor,
        seconds_P: torch.Tensor,
        margin: int = 0,
    ) -> torch.Tensor:
        """Draw points of one latent frame so far from their blocks' place, with rows around."""
        numbers_N, x_N, y_N, weight_N = self._placed(group, look, f)
        phase_PN = 0.7 * seconds_P[:, None] + chance_of(numbers_N, 5)
        swing_PN = look.sway * torch.sin(2 * math.pi * phase_PN)
        size_N = 1 + look.vary * (2 * chance_of(numbers_N, 3) - 1)
        lean_N = look.lean + look.fan * (2 * chance_of(numbers_N, 4) - 1)
        stamps = Stamps(
            y_PN=y_N * self.block + fallen_P[:, None] + margin,
            x_PN=(x_N + swing_PN) * self.block,
            weight_PN=weight_N.expand(len(fallen_P), -1),
            wide_N=look.radius * self.block * size_N,
            half_N=0.5 * look.length * self.block * size_N,
            lean_N=lean_N,
            tail=look.tail,
        )
        rows, columns = self.like.shape[-2:]
        return draw_stamps(stamps, rows + 2 * margin, columns)

    def _placed(
        self, group: int, look: PointLook, f: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the points of a latent frame: number, column and row in blocks, opacity, N each.

        What tells copies of a point apart is the number itself, which moves with them.
        """
        padded = functional.pad(
            self.values_MFYX[None, group : group + 3, f].float(), (REACH,) * 4, "reflect"
        )
        over_3YX = padded[0] - _threshold(look.share)
        place_N, row_N, column_N = (over_3YX > 0).nonzero(as_tuple=True)
        over_N = over_3YX[place_N, row_N, column_N]
        numbers_N = padded[0, place_N, row_N, column_N]
        weight_N = look.opacity * (1 - 0.6 * torch.exp(-over_N / 0.3))
        places_32 = torch.tensor(PLACES, device=over_N.device)
        kept = []
        for copy in range(look.copies):
            number_N = numbers_N + 8 * copy
            drawn_N2 = torch.stack([chance_of(number_N, 1), chance_of(number_N, 2)], dim=-1)
            fixed_N2 = places_32[place_N] + look.jitter * (2 * drawn_N2 - 1)
            inside_N2 = drawn_N2 if copy else fixed_N2
            x_N = column_N - REACH + inside_N2[:, 0]
            y_N = row_N - REACH + inside_N2[:, 1]
            kept.append((number_N, x_N, y_N, weight_N))
        numbers, columns, rows, weights = zip(*kept, strict=True)
        return torch.cat(numbers), torch.cat(columns), torch.cat(rows), torch.cat(weights)


def chance_of(numbers_N: torch.Tensor, which: int) -> torch.Tensor:
    """Return something in [0, 1) that differs from number to number as if drawn at random."""
    mixed = numbers_N.double() * (1000.0 + 77.7 * which)
    return (mixed - mixed.floor()).float()


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


def _threshold(share: float) -> float:
    """Return the number that this share of standard normal numbers is above."""
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - 2 * share)))
