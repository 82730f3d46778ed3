"""What a grid is to show, whichever command asks for it: given clips, text, sampler values.

Letters: K cells, S text segments; THWC is a clip as uint8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from dcgrid.grid.layout import GridLayout
from dcgrid.grid.modes import Routing
from dcgrid.grid.visibility import visible_segments
from dcgrid.models.base import ModelSpec
from dcgrid.pipelines.approximate import Shortcuts
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.prompts import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """Where a window stands in a long clip, and what it goes on from."""

    first: int
    """Its first latent frame in the clip."""
    total: int
    """Latent frames of the whole clip."""
    heads: Mapping[int, Tensor]
    """For each generated cell the frames that it begins with, THWC; empty in the first window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRequest:
    """A grid to be filled."""

    layout: GridLayout
    """Its shape."""
    given: Mapping[int, Tensor]
    """Clips THWC by cell, all of one length and size; the other cells are generated."""
    prompt: Prompt
    """Its text."""
    routing: Routing = field(default_factory=Routing)
    """Which cell may read which clause."""
    negative_prompt: Prompt
    """What guidance steers away from."""
    negative_cells: tuple[frozenset[int], ...]
    """For each segment of it the cells that read it."""
    guidance_scale: Mapping[int, float]
    """Weight of the text in each generated cell; 1 is none."""
    num_inference_steps: int
    """Steps from noise to video."""
    noise_scale: float | None
    """s in x_t = (1-t) x0 + t s e; None: the model's."""
    continuation: Continuation | None = None
    """None: the clip is generated in one go."""
    size_THW: tuple[int, int, int] | None = None
    """Frames, height and width of a cell; needed only where no clip is given."""
    shortcuts: Shortcuts = field(default_factory=Shortcuts)
    """What is left out at the price of other pixels."""

    def visible_rows(self, spec: ModelSpec) -> tuple[tuple[bool, ...], ...]:
        """Return visible_KS of the text, narrowed for models that need it narrow.

        Raises:
            LayoutError: The layout does not fit the text.
        """
        return visible_segments(
            self.prompt, self.layout, self.routing, own_clause_only=spec.own_clause_only
        )

    def negative_rows(self, spec: ModelSpec) -> tuple[tuple[bool, ...], ...]:
        """Return visible_KS of the negative text: each cell reads its own, or nothing."""
        return tuple(
            tuple(spec.negative_text and cell in cells for cells in self.negative_cells)
            for cell in range(self.layout.count)
        )


def visible_rows(grid: ResolvedGrid, spec: ModelSpec) -> tuple[tuple[bool, ...], ...]:
    """Return visible_KS of a resolved grid's text; see `GridRequest.visible_rows`."""
    layout = GridLayout(rows=grid.rows, cols=grid.cols)
    return visible_segments(
        grid.prompt, layout, _routing(grid), own_clause_only=spec.own_clause_only
    )


def _routing(grid: ResolvedGrid) -> Routing:
    """Return which cells of a resolved grid are sources."""
    if grid.mode != "composition":
        return Routing()
    return Routing(mode="composition", sources=(grid.given[0], grid.given[1]))


def settle_grid(grid: ResolvedGrid, spec: ModelSpec) -> ResolvedGrid:
    """Return the grid with the model's sampler values where nobody named any."""
    usual = spec.filling if grid.given else spec.from_text
    return grid.settled(usual.guidance_scale, usual.num_inference_steps)


def grid_request(
    grid: ResolvedGrid,
    spec: ModelSpec,
    given: Sequence[Tensor],
    continuation: Continuation | None = None,
) -> GridRequest:
    """Return what a resolved grid asks of the model.

    Args:
        grid: Cells, text and sampler values.
        spec: The model, whose sampler values are taken where the grid names none.
        given: The clips THWC, in the order of `grid.given`.
        continuation: See `GridRequest`.
    """
    grid = settle_grid(grid, spec)
    generated = {c: i for c, i in enumerate(grid.edit_of_cell) if i is not None}
    return GridRequest(
        layout=GridLayout(rows=grid.rows, cols=grid.cols),
        given=dict(zip(grid.given, given, strict=True)),
        prompt=grid.prompt,
        routing=_routing(grid),
        negative_prompt=grid.negative_prompt,
        negative_cells=tuple(frozenset(grid.tries[index]) for index in grid.negative_owners),
        guidance_scale={c: grid.edits[i].guidance_scale or 0.0 for c, i in generated.items()},
        num_inference_steps=grid.num_inference_steps,
        noise_scale=grid.noise_scale,
        continuation=continuation,
        shortcuts=grid.shortcuts,
    )
