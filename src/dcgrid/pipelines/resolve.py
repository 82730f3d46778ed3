"""What a job means before any model or video is touched: cells, text and sampler values.

    edit, 2x2         given   rain         compose, 2x2      A          B
                      fog     rain                           fusion     fusion-2

No torch here: a wrong effect name is told at once.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

from annotated_types import Ge, Le, MinLen

from dcgrid.errors import UsageError
from dcgrid.grid.routing import Mode
from dcgrid.io.progress import counted
from dcgrid.io.schema import FileName
from dcgrid.pipelines.job import (
    MAX_EDITS,
    MAX_FUSIONS,
    ComposeJob,
    EditJob,
    GridJob,
    check_numbers,
)
from dcgrid.prompts import Prompt, Segment, render_grid, render_text
from dcgrid.recipes import (
    EFFECT_SLOTS,
    EffectRecipe,
    GivenAs,
    LayoutRecipe,
    Side,
    load_effect,
    load_layout,
    replaced_recipes,
)

_SLUG_LENGTH = 40
_Value = TypeVar("_Value", float, float | None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """What may be left out of a sampling at the price of other pixels; nothing by default.

    An effect recipe turns it on in its [sampler] table; the manifest of a run says so. What it
    costs in quality depends on model, clip and text.
    """

    guidance_until: float = 0.0
    """Flow time, 0..1, below which there is no guidance: one call a step there in place of two; 0:
    there is guidance in every step."""
    cache_threshold: float = 0.0
    """Share, 0..1, by which the change of the first block may differ from the last whole call's for
    all other blocks to be left out; 0: never. It is looked at in generated cells only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One wanted result: an edit of the clip, or a fusion of two."""

    name: FileName
    """Goes into file names: the effect's name, a short form of the free text, or "fusion"."""
    clause: str
    """What the cell's text says; empty: what the layout says by itself."""
    negative: str
    """What guidance steers away from; may be empty."""
    guidance_scale: Annotated[float, Ge(0), Le(30)] | None = None
    """Weight of the text; 1 is none. None: the model's, until the model is known."""
    num_inference_steps: Annotated[int, Ge(1), Le(1000)] | None = None
    """Steps from noise to video; None: the model's, until the model is known."""
    noise_scale: Annotated[float, Ge(1e-3), Le(100)] | None = None
    """Noise scale; None: the model's."""
    guidance_until: Annotated[float, Ge(0), Le(1)] | None = None
    """See `Shortcuts`; None: no shortcut."""
    cache_threshold: Annotated[float, Ge(0), Le(1)] | None = None
    """See `Shortcuts`; None: no shortcut."""
    recipe: str = ""
    """File of the effect recipe; empty: none."""
    recipe_sha256: str = ""
    """Hash of that file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedGrid:
    """What a grid will show, in text and numbers."""

    mode: Mode
    """consistent: one concept in all cells. composition: two and their fusions."""
    edits: Annotated[tuple[Edit, ...], MinLen(1)]
    """The wanted results in the order they were asked for."""
    rows: Side
    """Rows of the grid."""
    cols: Side
    """Columns of the grid."""
    given: tuple[int, ...]
    """Indices of the cells that hold the inputs, in the order of the inputs."""
    edit_of_cell: tuple[int | None, ...]
    """For every cell the index of its edit; None for the given ones."""
    prompt: Prompt
    """The grid's text."""
    given_as: GivenAs = "trained"
    """How given cells enter; see `LayoutRecipe.given_as`."""
    layout_file: str = ""
    """File of the layout recipe."""
    layout_sha256: str = ""
    """Hash of that file."""

    @property
    def negative_prompt(self) -> Prompt:
        """The text that guidance steers away from: for each cell its own edit's, else nothing.

        Segment s belongs to the edit that `negative_owners[s]` names.
        """
        text, segments = "", []
        for index in self.negative_owners:
            start = len(text) + bool(text)
            text = f"{text} {self.edits[index].negative}".strip()
            segments.append(Segment(start=start, end=len(text), cell=None))
        return Prompt(text=text, segments=tuple(segments))

    @property
    def negative_owners(self) -> tuple[int, ...]:
        """Indices of the edits that have a negative text."""
        return tuple(index for index, edit in enumerate(self.edits) if edit.negative)

    @property
    def tries(self) -> tuple[tuple[int, ...], ...]:
        """For each edit the cells that show it, in order."""
        return tuple(
            tuple(cell for cell, index in enumerate(self.edit_of_cell) if index == wanted)
            for wanted in range(len(self.edits))
        )

    @property
    def generated_cells(self) -> tuple[int, ...]:
        """The cells that are not given, in order."""
        edits = enumerate(self.edit_of_cell)
        return tuple(cell for cell, index in edits if index is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the edits."""
        return tuple(edit.name for edit in self.edits)

    @property
    def labels(self) -> tuple[str, ...]:
        """What each cell shows, in a word, for plans and pictures."""
        given = ("A", "B") if self.mode == "composition" else ("given",) * len(self.given)
        shown = dict(zip(self.given, given, strict=True))
        return tuple(
            shown[cell] if index is None else self.edits[index].name
            for cell, index in enumerate(self.edit_of_cell)
        )

    @property
    def noise_scale(self) -> float | None:
        """Scale of the one noise of the whole grid: the first that an edit names, if any."""
        named = (edit.noise_scale for edit in self.edits if edit.noise_scale is not None)
        return next(named, None)

    @property
    def num_inference_steps(self) -> int:
        """Steps of the run; the edits share one sampler, so the most that any of them wants."""
        return max(edit.num_inference_steps or 1 for edit in self.edits)

    @property
    def texts(self) -> int:
        """Texts that guidance reads, sampler values settled: 1, or 2."""
        return 1 + any(edit.guidance_scale != 1 for edit in self.edits)

    @property
    def shortcuts(self) -> Shortcuts:
        """What may be left out of the sampling: only what every edit allows."""
        return Shortcuts(
            guidance_until=min(edit.guidance_until or 0.0 for edit in self.edits),
            cache_threshold=min(edit.cache_threshold or 0.0 for edit in self.edits),
        )

    def settled(self, guidance_scale: float, num_inference_steps: int) -> "ResolvedGrid":
        """Return the grid with a model's values where neither the user nor a recipe names any."""
        edits = (
            replace(
                edit,
                guidance_scale=_first(edit.guidance_scale, guidance_scale),
                num_inference_steps=edit.num_inference_steps or num_inference_steps,
            )
            for edit in self.edits
        )
        return replace(self, edits=tuple(edits))


def resolve(job: GridJob, recipe_dir: Path | None = None) -> ResolvedGrid:
    """Look up the recipes of a job and render its prompt.

    Args:
        job: The job.
        recipe_dir: The user's own recipes; None: shipped ones only.

    Raises:
        UsageError: Nothing to do, too much, one thing twice, or sampler values out of range.
        RecipeError: An effect or the layout is unknown or wrong.
        PromptError: The prompt cannot be rendered.
    """
    if isinstance(job, ComposeJob):
        return resolve_fusions(job, recipe_dir)
    if isinstance(job, EditJob):
        return resolve_edits(job, recipe_dir)
    raise ValueError(f"no grid is known for a {type(job).__name__}")


def resolve_edits(job: EditJob, recipe_dir: Path | None = None) -> ResolvedGrid:
    """Resolve a job of `dcgrid edit`; see `resolve`.

    Spare cells repeat the edits in turn, so with one edit a 2x2 grid tries it three times.
    """
    count = len(job.effects) + bool(job.prompt.strip())
    if count == 0:
        raise UsageError(
            "nothing to do: neither --effect nor --prompt is given",
            hint="add --effect rain, or see `dcgrid recipes list`",
        )
    if count > MAX_EDITS:
        raise UsageError(
            f"{counted(count, 'edit')} asked for, at most {MAX_EDITS} fit in one run",
            hint="run the command again for the others",
        )
    check_numbers(job)
    layout = load_layout(job.layout, recipe_dir)
    if layout.mode != job.shows or len(layout.given) != 1:
        raise UsageError(
            f"layout {layout.name!r} is not for editing one clip", hint="use --layout edit-2x2"
        )
    cells = layout.rows * layout.cols
    slots = layout_slots(job, layout)
    edits = tuple(effect_edit(job, load_effect(name, recipe_dir), slots) for name in job.effects)
    if job.prompt.strip():
        edits = (*edits, free_edit(job, job.prompt))
    if len(edits) >= cells:
        raise UsageError(
            f"{counted(len(edits), 'edit')} for {counted(cells - 1, 'free cell')} of layout "
            f"{layout.name!r}",
            hint="use fewer --effect options or another --layout",
        )
    names = [edit.name for edit in edits]
    if len(set(names)) < len(names):
        raise UsageError(
            f"edit {max(names, key=names.count)!r} is asked for twice",
            hint="with one edit the spare cells try it again anyway; --keep all writes each try",
        )
    return place("consistent", layout, slots, edits)


def resolve_fusions(job: ComposeJob, recipe_dir: Path | None = None) -> ResolvedGrid:
    """Resolve a job of `dcgrid compose`; see `resolve`. Every free cell is a fusion of its own.

    Paper: sec. 3.2 (composition)
    """
    check_numbers(job)
    layout = load_layout(job.layout, recipe_dir)
    if layout.mode != job.shows or len(layout.given) != len(job.inputs):
        raise UsageError(
            f"layout {layout.name!r} is not for composing two clips",
            hint="use --layout composition-2x2, or composition-1x3 for tall clips",
        )
    free = layout.rows * layout.cols - len(layout.given)
    if len(job.prompts) > min(free, MAX_FUSIONS):
        raise UsageError(
            f"{counted(len(job.prompts), 'prompt')} for {counted(free, 'fusion')} of layout "
            f"{layout.name!r}",
            hint="leave out a --prompt; a fusion without one has the layout's words",
        )
    texts = [*job.prompts, *[""] * (free - len(job.prompts))]
    names = ["fusion" if turn == 0 else f"fusion-{turn + 1}" for turn in range(free)]
    edits = tuple(
        replace(free_edit(job, text), name=name) for name, text in zip(names, texts, strict=True)
    )
    return place("composition", layout, layout_slots(job, layout), edits)


def slug(text: str) -> str:
    """Return a short form of free text that every file system takes; "prompt" if none is left.

    >>> slug("Covered in snow, at dusk!")
    'covered-in-snow-at-dusk'
    """
    words = re.findall(r"[a-z0-9]+", text.lower())
    short = ""
    for word in words:
        longer = f"{short}-{word}" if short else word[:_SLUG_LENGTH]
        if len(longer) > _SLUG_LENGTH:
            break
        short = longer
    return short or "prompt"


def place(
    mode: Mode,
    layout: LayoutRecipe,
    slots: Mapping[str, str],
    edits: Sequence[Edit],
    *,
    given: tuple[int, ...] | None = None,
) -> ResolvedGrid:
    """Deal edits to the free cells of a grid in turn and render its prompt.

    Args:
        mode: What the grid shows.
        layout: Its shape and text.
        slots: Words of the text, by slot.
        edits: At least one, at most as many as free cells.
        given: Cells that hold video; None: the layout's.

    Raises:
        PromptError: The prompt cannot be rendered.
    """
    cells = range(layout.rows * layout.cols)
    given = layout.given if given is None else given
    free = [cell for cell in cells if cell not in given]
    edit_of = {cell: turn % len(edits) for turn, cell in enumerate(free)}
    clauses = [edits[edit_of[cell]].clause or None if cell in edit_of else None for cell in cells]
    return ResolvedGrid(
        mode=mode,
        edits=tuple(edits),
        rows=layout.rows,
        cols=layout.cols,
        given=given,
        edit_of_cell=tuple(edit_of.get(cell) for cell in cells),
        prompt=render_grid(layout, slots, clauses),
        given_as=layout.given_as,
        layout_file=str(layout.file),
        layout_sha256=_sha256(layout.file),
    )


def layout_slots(job: GridJob, layout: LayoutRecipe) -> Mapping[str, str]:
    """Return the layout's slots with the user's words over them.

    Raises:
        UsageError: A word is given that the layout has no slot for.
    """
    words = {name: value.strip() for name, value in job.slots.items()}
    for name, value in words.items():
        if value and name not in layout.slots:
            raise UsageError(
                f"layout {layout.name!r} has no {name} in its text",
                hint=f"leave out {value!r}, or use another --layout",
            )
    return {**layout.slots, **{name: value for name, value in words.items() if value}}


def effect_edit(job: GridJob, effect: EffectRecipe, slots: Mapping[str, str]) -> Edit:
    """Return the edit that an effect recipe makes; the job's numbers win over the recipe's.

    Raises:
        PromptError: Its clause cannot be rendered.
    """
    sampler = effect.sampler
    values = {name: slots.get(name) for name in EFFECT_SLOTS}
    return Edit(
        name=effect.name,
        clause=render_text(effect.clause, values, place=effect.clause_place),
        negative=effect.negative,
        guidance_scale=_first(job.guidance_scale, sampler.guidance_scale),
        num_inference_steps=job.num_inference_steps or sampler.num_inference_steps,
        noise_scale=sampler.noise_scale,
        guidance_until=sampler.guidance_until,
        cache_threshold=sampler.cache_threshold,
        recipe=str(effect.file),
        recipe_sha256=_sha256(effect.file),
    )


def free_edit(job: GridJob, text: str) -> Edit:
    """Return the edit that free text asks for, named after it."""
    return Edit(
        name=slug(text),
        clause=" ".join(text.split()),
        negative="",
        guidance_scale=job.guidance_scale,
        num_inference_steps=job.num_inference_steps,
    )


def _first(asked: float | None, default: _Value) -> float | _Value:
    return default if asked is None else asked


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def recipe_notes(grids: Sequence[ResolvedGrid]) -> list[str]:
    """Return a sentence for each recipe of the user that stands in for a shipped one."""
    used = [*(edit.recipe for grid in grids for edit in grid.edits)]
    used += [grid.layout_file for grid in grids]
    return replaced_recipes(Path(file) for file in used if file)
