"""From the frames of a cell to frames at the size and the times of the source.

    source      |0   |1   |2   |3   |4   |5   |6      its own size and times
    cell        |0       |1       |2       |3         the model's size and rate
    result      |0   |1   |2   |3   |4   |5   |6      size and times of the source

Everything goes through once, forwards; memory is that of one stretch of a cell and a source frame.

Letters: T frames, H W height/width, C the 3 colours.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from itertools import chain
from typing import TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dcgrid.flow.noise import draw_noise
from dcgrid.models.base import ModelSpec
from dcgrid.models.drift import RATE, DriftingNoise
from dcgrid.models.edit_frames import OVERLAY_SCALE, Coefficients
from dcgrid.models.particles import draw_planes, soft_fields
from dcgrid.models.upsampler import GuidedUpsampler, load_upsampler
from dcgrid.pipelines.clips import result_size
from dcgrid.pipelines.footage import Footage
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.windows import Window
from dcgrid.runtime.ahead import run_ahead
from dcgrid.video.clip import ClipPlan, Picture
from dcgrid.video.pixels import pixels_of_signed, signed_of

Enlarge: TypeAlias = Callable[[float, Tensor], Callable[[], Tensor]]
"""Prepares a frame of the result: gets its place in a stretch, counted in cell frames and perhaps
between two, and the source's frame there, HWC, uint8. It is called for one frame after another;
what it returns makes the frame, HWC, uint8, and may run beside that of other frames."""

Upsampler: TypeAlias = Callable[[Tensor, Tensor, int], Enlarge]
"""Prepares a stretch: gets its given and its generated frames, THWC, uint8, of the same size, and
which frame of the cell it begins with."""

_STRETCH_PIXELS = 2_000_000
"""Pixels of a cell that are prepared at once, over all frames of a stretch."""
TEXT_SHORT_SIDE = 192
"""Results without a source have a shorter side of at least so many pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A frame of a result beside the frame of the source that it shows."""

    source: Picture
    """The source's; of a result from text alone the same as the result's."""
    result: Picture
    """The result's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellNoise:
    """The drifting noise that a cell was generated from."""

    values_MFYX: Tensor
    """The noise of the whole clip."""
    cell_size: tuple[int, int]
    """Height and width of the cell."""
    picture: tuple[slice, slice]
    """Rows and columns of the cell that show the clip."""
    text: str
    """Words of the cell's edit."""

    def looks(self, first: int, count: int) -> Tensor:
        """Return what the guided upsampler looks at in so many frames of the cell, TCHW."""
        noise = self._noise(1, torch.arange(first, first + count) / RATE)
        seen_CTHW = torch.cat((soft_fields(noise), draw_planes(noise)))
        return seen_CTHW.transpose(0, 1)[..., self.picture[0], self.picture[1]]

    def moments(self) -> Callable[[float, tuple[int, ...]], Tensor]:
        """Return what draws planes of particles, NHW, at places between frames of the cell.

        It is quickest if the places come in order.
        """
        noise = self._noise(OVERLAY_SCALE, torch.zeros(1))
        rows, cols = (
            slice(OVERLAY_SCALE * one.start, OVERLAY_SCALE * one.stop) for one in self.picture
        )

        def planes(place: float, chosen: tuple[int, ...]) -> Tensor:
            return draw_planes(noise.at(place / RATE), chosen)[:, 0, rows, cols]

        return planes

    def _noise(self, scale: int, seconds_T: Tensor) -> DriftingNoise:
        like = torch.empty(1, 1, *(scale * side for side in self.cell_size))
        return DriftingNoise(
            values_MFYX=self.values_MFYX, seconds_T=seconds_T, like=like, scale=float(scale)
        )


def cell_noise(
    spec: ModelSpec,
    windows: tuple[Window, ...],
    clip: ClipPlan,
    *,
    cells: int,
    cell: int,
    seed: int,
    text: str,
) -> CellNoise | None:
    """Draw the drifting noise of a cell of a grid again, as `fill_grid` does.

    Args:
        spec: The model; where its noise does not drift there is none.
        windows: How the clip was generated.
        clip: The clip.
        cells: Cells of the grid.
        cell: Number of the cell.
        seed: Seed of the grid's noise.
        text: Words of the cell's edit.
    """
    motion, last = spec.noise_motion, windows[-1]
    if not motion:
        return None
    frames = (last.first + last.count - 1) // spec.stride_T + 1
    # The drifting channels of later windows go on from those of the first, whatever the others are.
    alone = len(windows) == 1
    channels = spec.latent_channels if alone else len(motion)
    sides = (side // spec.stride_HW for side in clip.cell_size)
    noise_1KCFYX = draw_noise(
        (1, cells, channels, frames, *sides),
        seed,
        motion=motion,
        span=None if alone else (0, frames),
    )
    return CellNoise(
        values_MFYX=noise_1KCFYX[0, cell, -len(motion) :],
        cell_size=clip.cell_size,
        picture=clip.picture,
        text=text,
    )


def plain(size: tuple[int, int] | None = None) -> Upsampler:
    """Return what enlarges generated frames by bicubic interpolation.

    In time the nearest one is taken: a mixture of two would show moving edges twice.

    Args:
        size: Height and width of the result; None: frames stay as the model makes them.
    """

    def prepare(given_THWC: Tensor, generated_THWC: Tensor, first: int) -> Enlarge:
        del given_THWC, first

        @lru_cache(maxsize=1)
        def frame(index: int) -> Tensor:
            piece_THWC = generated_THWC[index : index + 1]
            return (piece_THWC if size is None else resized(piece_THWC, size))[0]

        def enlarge(place: float, source_HWC: Tensor) -> Callable[[], Tensor]:
            del source_HWC
            frame_HWC = frame(min(math.floor(place + 0.5), len(generated_THWC) - 1))
            return lambda: frame_HWC

        return enlarge

    return prepare


def guided(
    network: GuidedUpsampler,
    device: torch.device,
    noise: CellNoise | None = None,
    *,
    trusted: bool = False,
) -> Upsampler:
    """Return what takes the detail of the source where both cells show the same.

    Args:
        network: From `load_upsampler`, on the device.
        device: Where it computes.
        noise: What the cell was generated from; None: not known, or nothing in it drifts.
        trusted: True: a result averaged down is what was generated.
    """
    planes = None if noise is None else noise.moments()

    def prepare(given_THWC: Tensor, generated_THWC: Tensor, first: int) -> Enlarge:
        cells = _to_network(given_THWC), _to_network(generated_THWC)
        if noise is None:
            coefficients = network.analyze(*cells, trusted=trusted)
        else:
            looks_TCHW = noise.looks(first, len(given_THWC))
            coefficients = network.analyze(*cells, looks_TCHW, noise.text, trusted=trusted)

        def enlarge(place: float, source_HWC: Tensor) -> Callable[[], Tensor]:
            shown_NHW = None
            if planes is not None and coefficients.planes:
                shown_NHW = planes(first + place, coefficients.planes)
            return partial(_guided_frame, coefficients, place, source_HWC, shown_NHW)

        return enlarge

    return prepare


def upsampler_for(
    job: GridJob, clip: ClipPlan, spec: ModelSpec, device: str, noise: CellNoise | None = None
) -> Upsampler:
    """Return what makes a result that has a source, as a job wants it; see `Upsample`.

    Args:
        job: The job.
        clip: The source.
        spec: The model: one whose noise drifts makes means, with blocks and false tone, which are
            repaired; what others make is kept.
        device: Where it computes.
        noise: What the result's cell was generated from, where that is known.

    Raises:
        WeightsError: The upsampler's weights are damaged.
    """
    if job.upsample == "guided":
        where = torch.device(device)
        network = load_upsampler(device=where)
        return guided(network, where, noise, trusted=not spec.noise_motion)
    return plain(None if job.upsample == "none" else result_size(job, clip))


def upsampled(
    footage: Footage,
    windows: tuple[Window, ...],
    generated: Iterable[Tensor],
    upsampler: Upsampler,
    rate: Fraction | None = None,
    *,
    threads: int = 1,
) -> Iterator[Shown]:
    """Yield the frames of a result that has a source.

    Args:
        footage: The source.
        windows: How its frames come.
        generated: The frames of a generated cell, THWC, those of a window at a time.
        upsampler: Makes frames of the result.
        rate: Frames per second of the result; None: each frame of the source at its own time.
        threads: How many make frames at once, beside whoever takes them.

    Raises:
        InputVideoError: The source cannot be read.
    """
    plan = footage.plan
    rows, cols = plan.picture

    def prepared() -> Iterator[Callable[[], Shown]]:
        pairs = zip(footage.guide_pieces(windows), generated, strict=True)
        pieces = ((one[:, rows, cols], other[:, rows, cols]) for one, other in pairs)
        stretches = _overlapping(_chunks(pieces))
        first, (given_THWC, generated_THWC) = 0, next(stretches)
        enlarge = upsampler(given_THWC, generated_THWC, first)
        for source, time, duration in _due(footage.pictures(), rate):
            place = min(float(source.time) * plan.fps, plan.num_frames - 1)
            while place - first > len(generated_THWC) - 1:
                first += len(generated_THWC) - 1
                given_THWC, generated_THWC = next(stretches)
                enlarge = upsampler(given_THWC, generated_THWC, first)
            make = enlarge(place - first, source.rgb_HWC)
            yield partial(_shown, source, time, duration, make)

    yield from run_ahead(prepared(), threads)


def _shown(
    source: Picture, time: Fraction, duration: Fraction, make: Callable[[], Tensor]
) -> Shown:
    """Make a frame of a result."""
    return Shown(source=source, result=Picture(rgb_HWC=make(), time=time, duration=duration))


def without_source(
    generated: Iterable[Tensor], fps: Fraction, size: tuple[int, int]
) -> Iterator[Shown]:
    """Yield the frames of a result from text alone, at the model's rate.

    Args:
        generated: The frames of a generated cell, THWC, piece by piece.
        fps: Their rate.
        size: Height and width of the result.
    """
    count = 0
    for piece_THWC in generated:
        frame_of = plain(size)(piece_THWC, piece_THWC, count)
        for index, frame_HWC in enumerate(piece_THWC):
            made_HWC = frame_of(index, frame_HWC)()
            picture = Picture(rgb_HWC=made_HWC, time=count / fps, duration=1 / fps)
            yield Shown(source=picture, result=picture)
            count += 1


def text_size(cell: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a result from text alone: a multiple of the cell's."""
    factor = max(1, -(-TEXT_SHORT_SIDE // min(cell)))
    return cell[0] * factor, cell[1] * factor


class ResultClip:
    """The frames of a result, stretches of it on demand.

    Stretches that go forwards are made once; one that goes back begins from the first frame.
    """

    def __init__(self, results: Callable[[], Iterator[Shown]], count: int) -> None:
        self._results, self._count = results, count
        self._coming: Iterator[Shown] = iter(())
        self._at = count + 1
        self._first_HWC: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of frames."""
        return self._count

    def __getitem__(self, stretch: slice, /) -> Tensor:
        """Return frames THWC, uint8.

        Raises:
            ValueError: The slice has a step, or holds no frame.
        """
        start, stop, step = stretch.indices(self._count)
        if step != 1 or start >= stop:
            raise ValueError(f"no frames from {start} to {stop} in steps of {step}")
        if stop == 1 and self._first_HWC is not None:
            return self._first_HWC[None]
        if start < self._at:  # also where nothing has begun
            self._coming, self._at = self._results(), 0
        frames = []
        for shown in self._coming:
            self._at += 1
            if self._at == 1:
                self._first_HWC = shown.result.rgb_HWC
            if self._at > start:
                frames.append(shown.result.rgb_HWC)
            if self._at == stop:
                break
        if stop in (1, self._count):  # whoever looks at the first frame may never come back
            self._coming, self._at = iter(()), self._count + 1
        return torch.stack(frames)


def resized(frames_THWC: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale frames, uint8, to a height and width, bicubic and free of aliases."""
    if tuple(frames_THWC.shape[1:3]) == size:
        return frames_THWC
    video_TCHW = rearrange(frames_THWC, "t h w c -> t c h w")
    scaled_TCHW = F.interpolate(video_TCHW, size, mode="bicubic", antialias=True)
    return rearrange(scaled_TCHW, "t c h w -> t h w c").contiguous()


def _guided_frame(
    coefficients: Coefficients, place: float, source_HWC: Tensor, planes_NHW: Tensor | None
) -> Tensor:
    """Return a frame of an edit, HWC, uint8; see `Coefficients.frame`."""
    device = coefficients.transform_TCHW.device
    source_CHW = _to_network(source_HWC[None])[0].to(device)
    shown_NHW = None if planes_NHW is None else planes_NHW.to(device)
    made_CHW = coefficients.frame(place, source_CHW, shown_NHW)
    return rearrange(pixels_of_signed(made_CHW), "c h w -> h w c").contiguous().cpu()


def _to_network(frames_THWC: Tensor) -> Tensor:
    """Turn uint8 frames into TCHW in [-1, 1]."""
    return signed_of(rearrange(frames_THWC, "t h w c -> t c h w"))


def _chunks(pieces: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut pairs of pieces so that none has more pixels than can be prepared at once."""
    for given_THWC, generated_THWC in pieces:
        most = max(1, _STRETCH_PIXELS // given_THWC[0, ..., 0].numel())
        yield from zip(given_THWC.split(most), generated_THWC.split(most), strict=True)


def _overlapping(pieces: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs of pieces, each with the first frame of the next, where one comes."""
    pending: tuple[Tensor, Tensor] | None = None
    for piece in chain(pieces, (None,)):
        if pending is not None and piece is not None:
            given_THWC, generated_THWC = (
                torch.cat([own, coming[:1]]) for own, coming in zip(pending, piece, strict=True)
            )
            yield given_THWC, generated_THWC
        elif pending is not None:
            yield pending
        pending = piece


def _due(
    pictures: Iterable[Picture], rate: Fraction | None
) -> Iterator[tuple[Picture, Fraction, Fraction]]:
    """Yield pictures with their time and duration in the result.

    At a rate, each moment has the picture that is on display then.
    """
    made = 0
    for picture in pictures:
        if rate is None:
            yield picture, picture.time, picture.duration
            continue
        while made / rate < picture.time + picture.duration:
            if made / rate >= picture.time:
                yield picture, made / rate, 1 / rate
            made += 1
