"""The given clip itself in place of an edit: an upper end for identity, a lower one for the text.

No method and no source.
"""

from dcgrid.io.progress import Progress
from dcgrid.models.base import Backbone
from dcgrid.pipelines.sampling import FilledCell, FillSettings, GridRequest


def generate(
    backbone: Backbone, request: GridRequest, settings: FillSettings, progress: Progress
) -> list[FilledCell]:
    """Return the given clip, of two the first, for every cell to generate; see `fill_grid`."""
    clip_THWC = request.given[min(request.given)]
    del backbone, settings, progress
    return [
        FilledCell(cell=cell, frames_THWC=clip_THWC)
        for cell in range(request.layout.count)
        if cell not in request.given
    ]
