"""What a cell cannot hold of the light of a second clip, laid over a composition.

    cell of B      the glow of its flames     what the model composes with
    B itself       the flames, sharp          takes the place of the cell of B in the result

A cell is too small to hold a spark and the autoencoder too slow for a flame, so what is generated
has the light of B without what it comes from. B's own frames have it, at their own size and rate. A
composition shows B as a second exposure does, 1 - (1 - A) (1 - B), so one B can be taken for the
other: the dark of the result, times the dark of B itself, over that of B's cell.

Letters: T frames, H W height/width, C the 3 colours, B batch.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dcgrid.pipelines.footage import Footage, turned
from dcgrid.pipelines.scene_light import is_dark
from dcgrid.pipelines.upsampling import Enlarge, Upsampler
from dcgrid.pipelines.windows import Window
from dcgrid.video.clip import ClipPlan
from dcgrid.video.frames import CellFrames
from dcgrid.video.pixels import unit_of

MOST = 8
"""Most rows of B for each of a cell's: finer than so nothing is looked at."""
NOISE = 0.03
"""A difference below this, of 1, may be noise of a camera or a codec, and is left."""
DARKEST = 0.2
"""Where B's cell leaves less than this of the dark, it is white, and nothing can be taken back."""
_AT_ONCE = 16
"""Frames of B that are read at once: backwards, a file is decoded anew for each such stretch."""


class SecondLight:
    """How the light of B differs from what a cell holds of it, at the moments of A.

    Args:
        footage: B, cropped to A's cell, decoded.
        picture: Rows and columns of the cell that A covers.
    """

    def __init__(self, footage: Footage, picture: tuple[slice, slice]) -> None:
        plan = footage.plan
        self.factor = _factor(plan)
        self._picture, self._fps = picture, plan.fps
        self._rate = min(float(plan.info.rate or plan.info.fps_avg or plan.fps), 60.0)
        steps, held = (
            round(count / plan.fps * self._rate)
            for count in (plan.num_frames - 1, plan.held_frames)
        )
        self._count = steps + 1
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
        assert footage.decoded is not None
        self._decoded, self._light = footage.decoded, footage.light
        self._first, self._read_THWC = 0, torch.empty(0)

    def at(self, place: float) -> Tensor:
        """Return what the dark of a frame is multiplied by, CHW, `factor` times the cell's size.

        It is quickest if places come in order.

        Args:
            place: The moment, counted in frames of A's cell and perhaps between two.
        """
        number = turned(round(place / self._fps * self._rate), self._count)
        if not self._first <= number < self._first + len(self._read_THWC):
            self._first = number - number % _AT_ONCE
            count = min(_AT_ONCE, self._count - self._first)
            self._read_THWC = self._stream.stretch(self._first, count)
        rows, cols = self._picture
        large = (slice(self.factor * one.start, self.factor * one.stop) for one in (rows, cols))
        frame_1HWC = self._read_THWC[number - self._first, None]
        if self._light is not None:
            frame_1HWC = self._light.of(frame_1HWC)
        light_CHW = _unit(frame_1HWC[0][*large])
        first = int(place)
        near_THWC = self._decoded[first : first + 2][:, rows, cols]
        held_CHW = torch.lerp(_unit(near_THWC[0]), _unit(near_THWC[-1]), place - first)
        held_CHW = F.interpolate(
            held_CHW[None], size=light_CHW.shape[-2:], mode="bilinear", align_corners=False
        )[0]
        more_CHW = F.softshrink(light_CHW - held_CHW, NOISE)
        return (1 - more_CHW / (1 - held_CHW).clamp_min(DARKEST)).clamp_min(0)


def gives_light(footage: Footage, window: Window) -> bool:
    """Return True if a clip shows light on dark ground, as it is used, and is larger than its cell.

    What other clips have beside their cell is not light.

    Args:
        footage: The clip.
        window: A stretch of it, to see what it is.
    """
    return is_dark(footage.frames(window)) and _factor(footage.plan) > 1


def with_light(upsampler: Upsampler, footage: Footage, picture: tuple[slice, slice]) -> Upsampler:
    """Return an upsampler that also lays the light of B over its frames.

    Args:
        upsampler: Makes frames of A's size.
        footage: B; it `gives_light` and is decoded.
        picture: Rows and columns of a cell that A covers.
    """
    light = SecondLight(footage, picture)

    def prepare(given_THWC: Tensor, generated_THWC: Tensor, first: int) -> Enlarge:
        enlarge = upsampler(given_THWC, generated_THWC, first)

        def lit(place: float, source_HWC: Tensor) -> Callable[[], Tensor]:
            make = enlarge(place, source_HWC)
            dark_CHW = light.at(first + place)
            return lambda: lay_light(make(), dark_CHW)

        return lit

    return prepare


def lay_light(frame_HWC: Tensor, dark_CHW: Tensor) -> Tensor:
    """Multiply the dark of a frame, uint8: less of it is more light."""
    large_1CHW = F.interpolate(
        dark_CHW[None], size=frame_HWC.shape[:2], mode="bilinear", align_corners=False
    )
    dark_HWC = 255 - frame_HWC.float()
    lit_HWC = 255 - dark_HWC * rearrange(large_1CHW, "1 c h w -> h w c")
    return lit_HWC.round_().clamp_(0, 255).to(torch.uint8)


def _factor(plan: ClipPlan) -> int:
    return min(MOST, max(1, round(plan.info.height / plan.scaled_size[0])))


def _unit(frame_HWC: Tensor) -> Tensor:
    return unit_of(rearrange(frame_HWC, "h w c -> c h w"))
