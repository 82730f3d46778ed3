"""What a grid is to show, whichever command asks for it: given clips, text, sampler values.

Letters: K cells, S text segments; THWC is a clip as uint8.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dcgrid.grid.layout import GridLayout
from dcgrid.grid.modes import Routing
from dcgrid.grid.visibility import visible_segments
from dcgrid.models.base import ModelSpec
from dcgrid.pipelines.job import ResolvedEdits
from dcgrid.prompts import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRequest:
    """A grid to be filled."""

    layout: GridLayout
    """Its shape."""
    given: Mapping[int, Tensor]
    """Clips THWC by cell, all of one length and size; the other cells are painted."""
    prompt: Prompt
    """Its text."""
    routing: Routing = field(default_factory=Routing)
    """Which cell may read which clause."""
    negative_prompt: Prompt
    """What guidance steers away from."""
    negative_cells: tuple[frozenset[int], ...]
    """For each segment of it the cells that read it."""
    guidance_scale: Mapping[int, float]
    """Weight of the text in each painted cell; 1 is none."""
    num_inference_steps: int
    """Steps from noise to video."""
    noise_scale: float | None
    """s in x_t = (1-t) x0 + t s e; None: the model's."""

    def visible_rows(self, spec: ModelSpec) -> tuple[tuple[bool, ...], ...]:
        """Return visible_KS of the text, narrowed for models that need it narrow.

        Raises:
            LayoutError: The layout does not fit the text.
        """
        rows = visible_segments(self.prompt, self.layout, self.routing)
        if not spec.own_clause_only:
            return rows
        owners = [segment.cell for segment in self.prompt.segments]
        return tuple(
            tuple(seen and owner in (None, cell) for seen, owner in zip(row, owners, strict=True))
            for cell, row in enumerate(rows)
        )

    def negative_rows(self, spec: ModelSpec) -> tuple[tuple[bool, ...], ...]:
        """Return visible_KS of the negative text: each cell reads its own, or nothing."""
        return tuple(
            tuple(spec.negative_text and cell in cells for cells in self.negative_cells)
            for cell in range(self.layout.count)
        )


def edit_request(edits: ResolvedEdits, given_THWC: Tensor) -> GridRequest:
    """Return the grid of `dcgrid edit`: one given clip, an edit in every other cell."""
    asked = [edit.noise_scale for edit in edits.edits if edit.noise_scale is not None]
    painted = {c: i for c, i in enumerate(edits.edit_of_cell) if i is not None}
    return GridRequest(
        layout=GridLayout(rows=edits.rows, cols=edits.cols),
        given={edits.given: given_THWC},
        prompt=edits.prompt,
        negative_prompt=edits.negative_prompt,
        negative_cells=tuple(frozenset(edits.tries[index]) for index in edits.negative_owners),
        guidance_scale={cell: edits.edits[i].guidance_scale for cell, i in painted.items()},
        num_inference_steps=edits.num_inference_steps,
        # One noise for the whole grid, so one scale: the first edit that names one decides.
        noise_scale=asked[0] if asked else None,
    )
