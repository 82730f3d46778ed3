"""The given clip after the autoencoder: what no method on this backbone can exceed in fidelity.

No method and no source.
"""

import torch

from dcgrid.eval.methods.cells import given_clip
from dcgrid.models.base import Backbone
from dcgrid.pipelines.fill import FilledCell, FillSettings, to_frames, to_model_range
from dcgrid.pipelines.progress import Progress
from dcgrid.pipelines.request import GridRequest


@torch.inference_mode()
def paint(
    backbone: Backbone, request: GridRequest, settings: FillSettings, progress: Progress
) -> list[FilledCell]:
    """Return the encoded and decoded clip for every other cell; see `fill_grid`.

    Raises:
        UsageError: There is not one given clip.
    """
    given = given_clip(request)
    progress.start("encoding and decoding", 1)
    video_BCTHW = to_model_range(request.given[given]).to(settings.device)
    decoded_BCTHW = backbone.decode(backbone.encode(video_BCTHW).float())
    small_THWC = to_frames(decoded_BCTHW)
    large_THWC = to_frames(backbone.upsample(decoded_BCTHW))
    progress.update(1)
    return [
        FilledCell(cell=cell, frames_THWC=large_THWC, small_THWC=small_THWC)
        for cell in range(request.layout.count)
        if cell != given
    ]
