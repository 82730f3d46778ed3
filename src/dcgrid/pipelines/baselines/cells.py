"""What the baselines share: each edit as a clip of its own, alone in a grid of one cell.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns (B = K = 1 here); THWC is a
clip as uint8.

    request (2x2: given, rain, night, rain) -> clip, and for each of three cells: text, scale, noise
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dcgrid.errors import UsageError
from dcgrid.flow.sampler import SampleSettings, SlopeFn
from dcgrid.grid.layout import GridLayout
from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone, CellText
from dcgrid.pipelines.sampling import (
    GridRequest,
    GridSampler,
    decode_cells,
    encode_clip,
    grid_noise,
    sample_settings,
)
from dcgrid.prompts import Prompt, Segment

SINGLE = GridLayout(rows=1, cols=1)
"""The grid of a clip that stands alone."""
_LABEL = re.compile(r"^\s*\[[^\]]*\]\s*")
_COMPARING = re.compile(r"\b(performing the exact same|as in the original clip)\s*|\s*\.\s*$")
"""What the shipped layouts say of a cell beside others; a clip alone has none to compare with."""

ReadText = Callable[[str], CellText]
"""Encodes the text of one clip."""


def clip_text(prompt: Prompt, cell: int) -> str:
    """Return what a grid's text says of one cell, as the caption of a clip that stands alone.

    "[TOP RIGHT] The subject performing the exact same motion in heavy rain." becomes "The subject
    motion in heavy rain", the form that `mini` has seen of single clips (train/data/captions.py).
    """
    own = " ".join(prompt.segment_text(one) for one in prompt.segments if one.cell == cell)
    return " ".join(_COMPARING.sub("", _LABEL.sub("", own)).split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """The given clip of a request, encoded, and the model that edits it."""

    request: GridRequest
    sampler: GridSampler
    """Of the clip alone, a grid of one cell."""
    latents_BKCFYX: Tensor
    """Its latents, float32."""
    text: str
    """Its caption."""
    read: ReadText
    """Encodes a caption."""

    @property
    def backbone(self) -> Backbone:
        """The model."""
        return self.sampler.backbone

    @property
    def settings(self) -> SampleSettings:
        """Times to visit, and the scale s of the noise: x_t = (1-t) x0 + t s e."""
        grid = self.request.grid
        return sample_settings(self.backbone.spec, grid.num_inference_steps, grid.noise_scale)

    @property
    def cells(self) -> list[int]:
        """The cells that are to be generated."""
        return self.request.cells

    def noise(self, cell: int, turn: int = 0) -> Tensor:
        """Return the noise of a cell at the model's scale, as `fill_grid` draws it for that cell.

        Args:
            cell: The cell; each has noise of its own.
            turn: Another number gives other noise.
        """
        noise_BKCFYX = grid_noise(
            self.backbone.spec,
            self.request.layout.count,
            self.sampler.size_FYX,
            (self.request.seed + 0x9E3779B97F4A7C15 * turn) % 2**63,
        )
        own_BKCFYX = noise_BKCFYX[:, cell : cell + 1].to(self.backbone.device)
        return self.settings.noise_scale * own_BKCFYX

    def slope(self, text: str, scale: float, away: str = "") -> SlopeFn:
        """Return the guided velocity under a caption as a function of state and time.

        Args:
            text: The caption.
            scale: Weight of the text; at 1 there is no second branch.
            away: What guidance steers away from; models that know no negative text (see
                `ModelSpec.negative_text`) steer away from no text at all.
        """
        away = away if self.backbone.spec.negative_text else ""
        velocity = self.sampler.velocity(self.read(text), self.read(away), {0: scale})

        def slope(state_BKCFYX: Tensor, time: float) -> Tensor:
            shape = (1, 1, state_BKCFYX.shape[3])
            return velocity(state_BKCFYX, torch.full(shape, time, device=state_BKCFYX.device))

        return slope

    def edit_slope(self, cell: int, text: str | None = None) -> SlopeFn:
        """Return the guided velocity of a cell's edit, under its own caption if none is named."""
        grid = self.request.grid
        text = clip_text(grid.prompt, cell) if text is None else text
        away = grid.edits[grid.edit_of_cell[cell] or 0].negative
        return self.slope(text, self.request.guidance_scale[cell], away)


def open_clip(backbone: Backbone, request: GridRequest, progress: Progress) -> Clip:
    """Encode the given clip of a request.

    Raises:
        UsageError: The clip is generated in several windows, or is not one clip.
    """
    given = given_clip(request)
    if request.span is not None:
        raise UsageError(
            "this method edits a clip in one go and cannot continue it from window to window",
            hint="use a shorter --duration",
        )
    progress.start("encoding the clip", 1)
    latents_BCFYX = encode_clip(backbone, request.given[given])
    progress.update(1)
    return Clip(
        request=request,
        # What may be left out of a sampling was chosen for grids, so here nothing is.
        sampler=GridSampler(backbone, SINGLE, latents_BCFYX.shape[2:]),
        latents_BKCFYX=latents_BCFYX[:, None],
        text=clip_text(request.grid.prompt, given),
        read=lambda text: read_caption(backbone, text),
    )


def given_clip(request: GridRequest) -> int:
    """Return the cell of the one given clip.

    Raises:
        UsageError: There is none, or there are several.
    """
    if len(request.given) != 1:
        raise UsageError(
            f"baselines edit one clip, this grid has {len(request.given)}",
            hint="use them with `dcgrid edit`",
        )
    return next(iter(request.given))


def read_caption(backbone: Backbone, text: str) -> CellText:
    """Encode the caption of a clip that stands alone."""
    segments = (Segment(start=0, end=len(text), cell=None),) if text else ()
    prompt = Prompt(text=text, segments=segments)
    return backbone.encode_text([prompt], [[[True] * len(segments)]])


def finish(
    clip: Clip, cells: Iterator[tuple[int, Tensor]], progress: Progress
) -> dict[int, Tensor]:
    """Decode the edited latents of cells, one after the other."""
    edited = {cell: latents_BKCFYX[:, 0] for cell, latents_BKCFYX in cells}
    return decode_cells(clip.backbone, edited, progress)


class Steps:
    """Counts the steps of all cells of a stage as one."""

    def __init__(self, progress: Progress, stage: str, total: int) -> None:
        """Begin the stage."""
        progress.start(stage, total)
        self._progress, self._done = progress, 0

    def __call__(self, done: int = 0, total: int = 0) -> None:
        """Tell of one more step."""
        del done, total
        self._done += 1
        self._progress.update(self._done)
