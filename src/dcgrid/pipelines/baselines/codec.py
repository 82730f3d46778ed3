"""The given clip after the autoencoder: what no method on this backbone can exceed in fidelity.

No method and no source. Of two given clips it is the first.
"""

import torch
from torch import Tensor

from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone
from dcgrid.pipelines.sampling import GridRequest, codec_pass


@torch.inference_mode()
def generate(backbone: Backbone, request: GridRequest, progress: Progress) -> dict[int, Tensor]:
    """Return the encoded and decoded clip for every cell that is not given; see `fill_grid`."""
    progress.start("encoding and decoding", 1)
    clip_THWC = codec_pass(backbone, request.given[min(request.given)])
    progress.update(1)
    return dict.fromkeys(request.cells, clip_THWC)
