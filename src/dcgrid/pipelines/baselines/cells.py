"""What the baselines share: each edit as a clip of its own, alone in a grid of one cell.

Letters: B batch, K cells, C channels, F Y X latent frames/rows/columns (B = K = 1 here); THWC is a
clip as uint8.

    request (2x2: given, rain, night, rain) -> clip, and for each of three cells: text, scale, noise
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcgrid.errors import UsageError
from dcgrid.flow.noise import draw_noise
from dcgrid.flow.sampler import SlopeFn, combine_guidance
from dcgrid.flow.schedule import Schedule
from dcgrid.grid.layout import GridLayout
from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone, CellText
from dcgrid.pipelines.resolve import Shortcuts
from dcgrid.pipelines.sampling import (
    FilledCell,
    FillSettings,
    GridRequest,
    TokenGrid,
    VelocityFn,
    decode_cells,
    steered,
    to_model_range,
    token_grids,
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

    backbone: Backbone
    request: GridRequest
    settings: FillSettings
    latents_BKCFYX: Tensor
    """Its latents, float32."""
    text: str
    """Its caption."""
    grids: list[TokenGrid]
    """Where its tokens stand."""
    read: ReadText
    """Encodes a caption."""

    @property
    def noise_scale(self) -> float:
        """Scale s of the noise: x_t = (1-t) x0 + t s e."""
        asked = self.request.noise_scale
        return self.backbone.spec.noise_scale if asked is None else asked

    @property
    def cells(self) -> list[int]:
        """The cells that are to be generated."""
        return [c for c in range(self.request.layout.count) if c not in self.request.given]

    def times(self) -> tuple[float, ...]:
        """Return the falling times of the request's schedule, 1 to 0."""
        steps, shift = self.request.num_inference_steps, self.backbone.spec.time_shift
        return Schedule(num_inference_steps=steps, shift=shift).times()

    def noise(self, cell: int, turn: int = 0) -> Tensor:
        """Return the noise of a cell, standard normal, as `fill_grid` draws it for that cell.

        Args:
            cell: The cell; each has noise of its own.
            turn: Another number gives other noise.
        """
        shape = (1, self.request.layout.count, *self.latents_BKCFYX.shape[2:])
        noise_BKCFYX = draw_noise(
            shape,
            (self.settings.seed + 0x9E3779B97F4A7C15 * turn) % 2**63,
            device=self.settings.device,
            motion=self.backbone.spec.noise_motion,
        )
        return noise_BKCFYX[:, cell : cell + 1]

    def velocity(self, text: str) -> VelocityFn:
        """Return the model's velocity under a caption, without guidance."""
        return steered(self.backbone, self.read(text), self.grids)

    def slope(self, text: str, scale: float, away: str = "") -> SlopeFn:
        """Return the guided velocity under a caption as a function of state and time.

        Args:
            text: The caption.
            scale: Weight of the text; at 1 there is no second branch.
            away: What guidance steers away from; models that know no negative text (see
                `ModelSpec.negative_text`) steer away from no text at all.
        """
        toward = self.velocity(text)
        other = self.velocity(away if self.backbone.spec.negative_text else "")
        everywhere_K = torch.ones(1, dtype=torch.bool)

        def slope(state_BKCFYX: Tensor, time: float) -> Tensor:
            frames = state_BKCFYX.shape[3]
            time_BKF = torch.full((1, 1, frames), time, device=state_BKCFYX.device)
            found = toward(state_BKCFYX, time_BKF)
            if scale == 1:
                return found
            return combine_guidance(found, other(state_BKCFYX, time_BKF), scale, everywhere_K)

        return slope

    def edit_slope(self, cell: int, text: str | None = None) -> SlopeFn:
        """Return the guided velocity of a cell's edit, under its own caption if none is named."""
        wanted = clip_text(self.request.prompt, cell) if text is None else text
        return self.slope(wanted, self.request.guidance_scale[cell], self._negative(cell))

    def _negative(self, cell: int) -> str:
        prompt = self.request.negative_prompt
        pairs = zip(prompt.segments, self.request.negative_cells, strict=True)
        return " ".join(prompt.segment_text(one) for one, cells in pairs if cell in cells)


def open_clip(
    backbone: Backbone, request: GridRequest, settings: FillSettings, progress: Progress
) -> Clip:
    """Encode the given clip of a request.

    Raises:
        UsageError: The clip is generated in several windows, or is not one clip.
    """
    given = given_clip(request)
    if request.continuation is not None:
        raise UsageError(
            "this method edits a clip in one go and cannot continue it from window to window",
            hint="use a shorter --duration",
        )
    progress.start("encoding the clip", 1)
    latents_BCFYX = backbone.encode(to_model_range(request.given[given]).to(settings.device))
    progress.update(1)
    # What may be left out of a sampling was chosen for grids.
    single = replace(request, layout=SINGLE, shortcuts=Shortcuts())
    size_FYX = tuple(latents_BCFYX.shape[2:])
    return Clip(
        backbone=backbone,
        request=request,
        settings=settings,
        latents_BKCFYX=latents_BCFYX[:, None].float(),
        text=clip_text(request.prompt, given),
        grids=token_grids(backbone, single, size_FYX, settings.device),
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


def finish(clip: Clip, cells: Iterator[tuple[int, Tensor]], progress: Progress) -> list[FilledCell]:
    """Decode the edited latents of cells, one after the other."""
    edited = [(cell, latents_BKCFYX[:, 0]) for cell, latents_BKCFYX in cells]
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
