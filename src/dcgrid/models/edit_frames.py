"""A frame of an edit at the source's size, from what the guided upsampler knows of the edit.

    result = (1 - opacity) transform(source) + colour

Coefficients of the transform, and opacity and colour of the overlay, are pictures about as large as
a cell; everything at full size is a handful of sums, so it keeps up with a video.

Letters: T frames, C channels, H W height/width, R some rows, B batch, N planes of particles.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

TERMS = 7
"""Terms of the colour transform, see `color_terms`."""
OVERLAY_SCALE = 4
"""Rows and columns of the overlay for each of the cell's."""
STRIP = 32
"""Rows of the source that are worked on at once."""
BLOCK = 64
"""Columns of the source that are enlarged at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What the upsampler knows of a stretch of an edit, at the size of the cell."""

    transform_TCHW: Tensor
    """Coefficients of the colour transform: `TERMS` for each of red, green and blue."""
    overlay_TCHW: Tensor
    """Opacity, and three colours that are multiplied by it already; `OVERLAY_SCALE` times the
    size, float16: it is by far the largest."""
    motion_TCHW: Tensor
    """How far what the overlay shows moves to the next frame, in pixels of the cell: right, down;
    one less than there are frames."""
    particles_TCHW: Tensor
    """How much there is of each plane of `planes`, as opacity and three colours that are multiplied
    by it already, at half the size."""
    planes: tuple[int, ...]
    """Which of `PLANES` are to be seen."""

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.transform_TCHW)

    @torch.inference_mode()
    def frame(
        self,
        position: float,
        source_CHW: Tensor,
        planes_NHW: Tensor | None = None,
    ) -> Tensor:
        """Return a frame of the edit at the source's size, in [-1, 1].

        Between two frames of the cell the colour transform is interpolated. The overlay is that of
        the nearer one, moved along: two that are mixed would show every drop twice.

        Args:
            position: Where the frame stands, in frames of the cell; outside of the stretch its
                first or last frame holds.
            source_CHW: The source's frame in [-1, 1], of any size and about the cell's aspect.
            planes_NHW: The particles of `planes` at this very moment, at
                `OVERLAY_SCALE` times the cell's size; None: none are laid over.
        """
        # Rows come first in what follows: pictures are made wide once, and taller row by row.
        transform_HC1W, overlay_HC1W, particles_HC1W = (
            picture_1CHW.transpose(0, 2) for picture_1CHW in self._at(position)
        )
        if planes_NHW is not None and len(planes_NHW):
            planes_HN1W = planes_NHW[None].transpose(0, 2)
            overlay_HC1W = _laid(overlay_HC1W, particles_HC1W, planes_HN1W)
        height, width = source_CHW.shape[-2:]
        result_CHW = torch.empty_like(source_CHW, dtype=torch.float32)
        wide = [wider(picture, width) for picture in (transform_HC1W, overlay_HC1W)]
        for rows in _strips(height):
            transform_RC1W, overlay_RC1W = (taller(one_HC1W, height, rows) for one_HC1W in wide)
            source_RC1W = source_CHW[None, :, rows].float().transpose(0, 2)
            strip_RC1W = compose(transform_RC1W, overlay_RC1W, source_RC1W)
            result_CHW[:, rows] = strip_RC1W.clamp_(-1, 1).transpose(0, 2)[0]
        return result_CHW

    def _at(self, position: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return transform, overlay and particles at a place between two frames, 1CHW each."""
        last = len(self) - 1
        position = min(max(position, 0.0), float(last))
        first = min(int(position), max(last - 1, 0))
        share = position - first
        transform_1CHW, particles_1CHW = (
            torch.lerp(known[first, None], known[min(first + 1, last), None], share)
            for known in (self.transform_TCHW, self.particles_TCHW)
        )
        nearest = first + round(share)
        overlay_1CHW = self.overlay_TCHW[nearest, None].float()
        if nearest != position:
            way_1CHW = self.motion_TCHW[first, None] * (first + share - nearest)
            overlay_1CHW = _moved(overlay_1CHW, way_1CHW)
        return transform_1CHW, overlay_1CHW, particles_1CHW


def color_terms(picture_BCHW: Tensor) -> list[Tensor]:
    """Return what a colour transform is a sum of: r, g, b, l^2, l^3, relu(l - 1/2) and 1 (None).

    Shapes B1HW, but for the last, which is a number; l is brightness from 0 to 1.
    """
    red, green, blue = picture_BCHW.unbind(1)
    light = (red * 0.1495 + green * 0.2935 + blue * 0.057).add_(0.5)
    square = light * light
    terms = [red, green, blue, square, square * light, (light - 0.5).clamp_min(0)]
    return [term[:, None] for term in terms]


def transform_colors(coefficients_BCHW: Tensor, picture_BCHW: Tensor) -> Tensor:
    """Apply a colour transform of B 3*TERMS H W to pictures of the same size."""
    by_term_BNCHW: Tensor = coefficients_BCHW.unflatten(1, (TERMS, 3))
    result_BCHW = by_term_BNCHW[:, TERMS - 1].clone()
    for number, term_B1HW in enumerate(color_terms(picture_BCHW)):
        result_BCHW.addcmul_(by_term_BNCHW[:, number], term_B1HW)
    return result_BCHW


def resized(picture_BCHW: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Return pictures at another size, bilinear."""
    return F.interpolate(picture_BCHW, size=size, mode="bilinear", align_corners=False)


def wider(picture_HC1W: Tensor, width: int) -> Tensor:
    """Return a picture whose rows are resized to a width, as `resized` does.

    They are multiplied by the few weights that are not zero, in pieces:

        [########........................]      of the result: BLOCK at a time,
        [......########..................]      from the 2 + BLOCK / scale columns
        [............########............]      of the picture that they lie between
    """
    known = picture_HC1W.shape[-1]
    lines_RW = picture_HC1W.reshape(-1, known)
    across_WW = resize_weights(width, known, picture_HC1W.device)
    result_RW = lines_RW.new_empty(len(lines_RW), width)
    block = BLOCK if lines_RW.device.type == "cpu" else width
    for left in range(0, width, block):
        right = min(left + block, width)
        used = _between(left, right, width, known)
        torch.mm(lines_RW[:, used], across_WW[left:right, used].T, out=result_RW[:, left:right])
    return result_RW.view(*picture_HC1W.shape[:3], width)


def taller(picture_HC1W: Tensor, height: int, rows: slice | None = None) -> Tensor:
    """Return a picture resized to a height, as `resized` does, or some of its rows."""
    known = len(picture_HC1W)
    first, last = (0, height) if rows is None else (rows.start, rows.stop)
    used = _between(first, last, height, known)
    down_HH = resize_weights(height, known, picture_HC1W.device)[first:last, used]
    return (down_HH @ picture_HC1W[used].flatten(1)).view(-1, *picture_HC1W.shape[1:])


@lru_cache(maxsize=32)
def resize_weights(count: int, known: int, device: torch.device, mode: str = "bilinear") -> Tensor:
    """Return how much each of the known pixels of a line counts in each of `count`, (count, known).

    As products of such matrices a CPU resizes several times as fast.
    """
    with torch.inference_mode(False):  # kept between calls, and used in training, too
        lines_1K1K = torch.eye(known, device=device)[None, :, None]
        resized_1K1W = F.interpolate(lines_1K1K, size=(1, count), mode=mode, align_corners=False)
        return resized_1K1W[0, :, 0].T.contiguous()


def _between(first: int, last: int, count: int, known: int) -> slice:
    """Return the known pixels of a line that pixels `first` to `last` of `count` lie between."""
    start = math.floor((first + 0.5) * known / count - 0.5)
    stop = math.floor((last - 0.5) * known / count - 0.5) + 2
    return slice(min(max(start, 0), known - 1), min(max(stop, 1), known))


def _strips(height: int) -> list[slice]:
    """Return all rows, so many at a time that the processor's cache holds what is made of them."""
    return [slice(top, min(top + STRIP, height)) for top in range(0, height, STRIP)]


def _laid(overlay_HC1W: Tensor, particles_HC1W: Tensor, planes_HN1W: Tensor) -> Tensor:
    """Lay particles, known at another size, over an overlay; see `lay_particles`."""
    height, width = len(overlay_HC1W), overlay_HC1W.shape[-1]
    wide_HC1W = wider(particles_HC1W, width)
    laid = [
        lay_particles(overlay_HC1W[rows], taller(wide_HC1W, height, rows), planes_HN1W[rows])
        for rows in _strips(height)
    ]
    return torch.cat(laid)


def lay_particles(overlay_BCHW: Tensor, particles_BCHW: Tensor, planes_BNHW: Tensor) -> Tensor:
    """Lay particles over an overlay: `particles` say how much of each plane, and its colour.

    All are of one size.
    """
    by_plane_BNCHW = particles_BCHW.unflatten(1, (-1, 4))
    laid_BCHW = torch.zeros_like(overlay_BCHW)
    for number in range(planes_BNHW.shape[1]):
        laid_BCHW.addcmul_(planes_BNHW[:, number, None], by_plane_BNCHW[:, number])
    clear_B1HW = 1 - laid_BCHW[:, :1].clamp(max=0.95)
    opacity_B1HW = 1 - (1 - overlay_BCHW[:, :1]) * clear_B1HW
    colour_BCHW = overlay_BCHW[:, 1:] * clear_B1HW + laid_BCHW[:, 1:]
    return torch.cat((opacity_B1HW, colour_BCHW), dim=1)


def _moved(overlay_1CHW: Tensor, way_1CHW: Tensor) -> Tensor:
    """Move what an overlay shows, by so many pixels of the cell to the right and down."""
    if not way_1CHW.any():
        return overlay_1CHW
    height, width = way_1CHW.shape[-2:]
    rows, columns = overlay_1CHW.shape[-2:]
    x_W = (torch.arange(columns, device=way_1CHW.device) + 0.5) / columns * 2 - 1
    y_H = (torch.arange(rows, device=way_1CHW.device) + 0.5) / rows * 2 - 1
    way_1CHW = resized(way_1CHW, (rows, columns))
    place = torch.stack(
        (x_W - way_1CHW[:, 0] * 2 / width, y_H[:, None] - way_1CHW[:, 1] * 2 / height), dim=-1
    )
    return F.grid_sample(
        overlay_1CHW, place, mode="bilinear", padding_mode="border", align_corners=False
    )


def compose(transform_BCHW: Tensor, overlay_BCHW: Tensor, source_BCHW: Tensor) -> Tensor:
    """Return the source under its transform, and over it the overlay, all of one size."""
    shown_BCHW = transform_colors(transform_BCHW, source_BCHW)
    clear_B1HW = 1 - overlay_BCHW[:, :1]
    return torch.addcmul(overlay_BCHW[:, 1:], clear_B1HW, shown_BCHW)
