"""The given clip after the autoencoder: what no method on this backbone can exceed in fidelity.

No method and no source. Of two given clips it is the first.
"""

import torch
from torch import Tensor

from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone
from dcgrid.pipelines.sampling import (
    FilledCell,
    FillSettings,
    GridRequest,
    to_frames,
    to_model_range,
)


@torch.inference_mode()
def generate(
    backbone: Backbone, request: GridRequest, settings: FillSettings, progress: Progress
) -> list[FilledCell]:
    """Return the encoded and decoded clip for every cell that is not given; see `fill_grid`."""
    progress.start("encoding and decoding", 1)
    clip_THWC = request.given[min(request.given)]
    frames_THWC = codec_pass(backbone, clip_THWC, settings.device)
    progress.update(1)
    return [
        FilledCell(cell=cell, frames_THWC=frames_THWC)
        for cell in range(request.layout.count)
        if cell not in request.given
    ]


@torch.inference_mode()
def codec_pass(backbone: Backbone, clip_THWC: Tensor, device: torch.device) -> Tensor:
    """Return a clip after the autoencoder, THWC, uint8."""
    video_BCTHW = to_model_range(clip_THWC).to(device)
    return to_frames(backbone.decode(backbone.encode(video_BCTHW).float()))
