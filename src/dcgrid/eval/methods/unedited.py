"""The given clip itself in place of an edit: an upper end for identity, a lower one for the text.

No method and no source. It is enlarged as results are, so that sizes are the same.
"""

import torch

from dcgrid.models.base import Backbone
from dcgrid.pipelines.fill import FilledCell, FillSettings, to_frames, to_model_range
from dcgrid.pipelines.progress import Progress
from dcgrid.pipelines.request import GridRequest


@torch.inference_mode()
def paint(
    backbone: Backbone, request: GridRequest, settings: FillSettings, progress: Progress
) -> list[FilledCell]:
    """Return the given clip, of two the first, for every cell to paint; see `fill_grid`."""
    clip_THWC = request.given[min(request.given)]
    progress.start("enlarging", 1)
    large_BCTHW = backbone.upsample(to_model_range(clip_THWC).to(settings.device))
    progress.update(1)
    large_THWC = to_frames(large_BCTHW)
    return [
        FilledCell(cell=cell, frames_THWC=large_THWC, small_THWC=clip_THWC)
        for cell in range(request.layout.count)
        if cell not in request.given
    ]
