"""The fine light of a second clip, laid over a composition.

    cell of B      the glow of its sparks     what the model composes with
    B itself       the sparks, sharp          less its cell: what is laid over the result

A cell is too small to hold a spark, so what is generated has the light of B without what it comes
from. B's own frames have the rest, at their own size and rate.

Letters: T frames, H W height/width, C the 3 colours, B batch.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dcgrid.pipelines.clips import DARK_SHARE, dark_share
from dcgrid.pipelines.footage import Footage, turned
from dcgrid.pipelines.upsampling import Enlarge, Upsampler
from dcgrid.pipelines.windows import Window
from dcgrid.video.frames import CellFrames
from dcgrid.video.pixels import unit_of

MOST = 8
"""Most rows of B for each of a cell's: finer than so nothing is looked at."""
NOISE = 0.03
"""Light below this, of 1, may be noise of a camera or a codec, and is not laid over."""
_AT_ONCE = 16
"""Frames of B that are read at once: backwards, a file is decoded anew for each such stretch."""


class SecondLight:
    """The light of B at the moments of A, without what a cell holds of it.

    Args:
        footage: B, cropped to A's cell.
        picture: Rows and columns of the cell that A covers.
    """

    def __init__(self, footage: Footage, picture: tuple[slice, slice]) -> None:
        plan = footage.plan
        self.factor = min(MOST, max(1, round(plan.info.height / plan.scaled_size[0])))
        self._rate = min(float(plan.info.rate or plan.info.fps_avg or plan.fps), 60.0)
        steps, held = (
            round(count / plan.fps * self._rate)
            for count in (plan.num_frames - 1, plan.held_frames)
        )
        self._count = steps + 1
        self._crop = tuple(
            slice(self.factor * one.start, self.factor * one.stop) for one in picture
        )
        scaled, cell = (
            (self.factor * size[0], self.factor * size[1])
            for size in (plan.scaled_size, plan.cell_size)
        )
        self._stream = CellFrames(
            footage.path,
            replace(
                plan,
                fps=self._rate,
                num_frames=self._count,
                held_frames=min(held, steps),
                scaled_size=scaled,
                cell_size=cell,
            ),
        )
        self._first, self._read_THWC = 0, torch.empty(0)

    def at(self, seconds: float) -> Tensor:
        """Return the light at a moment of A, CHW in [0, 1], `factor` times the size of A's cell.

        It is quickest if moments come in order.
        """
        number = turned(round(seconds * self._rate), self._count)
        if not self._first <= number < self._first + len(self._read_THWC):
            self._first = number - number % _AT_ONCE
            count = min(_AT_ONCE, self._count - self._first)
            self._read_THWC = self._stream.stretch(self._first, count)
        frame_HWC = self._read_THWC[number - self._first][self._crop]
        light_1CHW = unit_of(rearrange(frame_HWC, "h w c -> 1 c h w"))
        cell_1CHW = F.avg_pool2d(light_1CHW, self.factor)
        held_1CHW = F.interpolate(
            cell_1CHW, size=light_1CHW.shape[-2:], mode="bilinear", align_corners=False
        )
        return (light_1CHW - held_1CHW - NOISE).clamp_min(0)[0]


def with_light(
    upsampler: Upsampler, footage: Footage, picture: tuple[slice, slice], window: Window
) -> Upsampler:
    """Return an upsampler that also lays the fine light of B over its frames.

    Where B is not an element on dark ground, what is finer than its cell is not light, and the
    upsampler is returned as it is.

    Args:
        upsampler: Makes frames of A's size.
        footage: B.
        picture: Rows and columns of a cell that A covers.
        window: A stretch of B, to see what it is.
    """
    if dark_share(footage.frames(window)) < DARK_SHARE:
        return upsampler
    light = SecondLight(footage, picture)
    if light.factor == 1:
        return upsampler

    def prepare(given_THWC: Tensor, generated_THWC: Tensor, first: int) -> Enlarge:
        enlarge = upsampler(given_THWC, generated_THWC, first)

        def lit(place: float, source_HWC: Tensor) -> Callable[[], Tensor]:
            make = enlarge(place, source_HWC)
            light_CHW = light.at((first + place) / footage.plan.fps)
            return lambda: lay_light(make(), light_CHW)

        return lit

    return prepare


def lay_light(frame_HWC: Tensor, light_CHW: Tensor) -> Tensor:
    """Lay light over a frame, uint8, as a second exposure would: none is brighter than white."""
    large_1CHW = F.interpolate(
        light_CHW[None], size=frame_HWC.shape[:2], mode="bilinear", align_corners=False
    )
    dark_HWC = 255 - frame_HWC.float()
    lit_HWC = 255 - dark_HWC * (1 - rearrange(large_1CHW, "1 c h w -> h w c"))
    return lit_HWC.round_().clamp_(0, 255).to(torch.uint8)
