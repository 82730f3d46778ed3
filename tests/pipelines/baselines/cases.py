"""A short clip and what is asked of it, for the tests of this folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dcgrid.io.progress import NullProgress
from dcgrid.models.base import Backbone
from dcgrid.pipelines.baselines.cells import Clip, open_clip
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.resolve import resolve
from dcgrid.pipelines.sampling import GridRequest, grid_request


def square(frames: int = 5, height: int = 32, width: int = 48) -> Tensor:
    """Return a clip THWC, uint8, of a bright square that walks over a gradient."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    picture = torch.stack([rows * 4 + 0 * columns, 0 * rows + columns * 3, rows + columns], dim=-1)
    clip_THWC = picture.to(torch.uint8).repeat(frames, 1, 1, 1)
    for index in range(frames):
        clip_THWC[index, 8:18, 4 + 3 * index : 14 + 3 * index] = 240
    return clip_THWC


def request(
    backbone: Backbone,
    effects: Sequence[str] = ("rain", "night"),
    clip_THWC: Tensor | None = None,
    seed: int = 0,
    **job: object,
) -> GridRequest:
    values = {"num_inference_steps": 4, "guidance_scale": 2.0, **job}
    asked = EditJob(input=Path("clip.mp4"), effects=tuple(effects), **values)  # type: ignore[arg-type]
    shown = square() if clip_THWC is None else clip_THWC
    return grid_request(resolve(asked), backbone.spec, [shown], seed=seed)


def opened(backbone: Backbone, **job: object) -> Clip:
    return open_clip(backbone, request(backbone, **job), NullProgress())  # type: ignore[arg-type]
