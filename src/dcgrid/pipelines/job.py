"""What an edit is asked to do, and what that means before any model or video is touched.

`EditJob` is what the command line fills in; `resolve_edits` turns it into edits with their text
and sampler values. No torch here: a wrong effect name is told at once.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dcgrid.errors import InputVideoError, UsageError
from dcgrid.prompts import Prompt, Segment, render_grid, render_text
from dcgrid.recipes import EFFECT_SLOTS, EffectRecipe, LayoutRecipe, load_effect, load_layout

Keep = Literal["best", "all"]
"""Which of several tries at one edit are written."""

MAX_EDITS = 3
"""Most edits of one run: the cells of a 2x2 grid that are left beside the given one."""
# Values for free text, which has no recipe of its own; the shipped recipes use the same.
FREE_GUIDANCE = 1.0
FREE_STEPS = 1
_SLUG_LENGTH = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class EditJob:
    """One run of `dcgrid edit`, as the user asked for it."""

    input: Path
    """The video to edit."""
    effects: tuple[str, ...] = ()
    """Names of effect recipes, or paths of recipe files."""
    prompt: str = ""
    """Free text; counts as one edit. Empty: none."""
    subject: str = ""
    """Who or what the video shows, e.g. "a cat"; empty: the layout's wording."""
    motion: str = ""
    """What the subject does, e.g. "jump"; empty: the layout's wording."""
    layout: str = "edit-2x2"
    """Layout recipe: name or path."""
    model: str = "mini"
    """Name of the model."""
    adapter: str = "default"
    """Reference of a Grid-Fill adapter; "default": the model's own; "none": the bare base."""
    seed: int = 0
    """Seed of the noise; >= 0."""
    num_inference_steps: int | None = None
    """Sampling steps; None: the recipe's."""
    guidance_scale: float | None = None
    """Weight of the text; None: the recipe's, cell by cell."""
    device: str = "auto"
    """Device to run on: auto, cpu, cuda, cuda:N, mps."""
    dtype: str = "auto"
    """Number format: auto, fp32, bf16, fp16."""
    out: Path | None = None
    """Folder, or file name for a single result; None: beside the input."""
    keep: Keep = "best"
    """Which tries at an edit are written when spare cells repeat it."""
    save_grid: bool = False
    """True: the whole grid is written as a video too."""
    contact_sheet: bool = True
    """True: a picture with frames of all cells is written too."""
    start_s: float | None = None
    """Where in the input to start, in seconds; None: at its first frame."""
    duration_s: float | None = None
    """Seconds to edit; None: the model's usual length."""
    fps: Literal["model", "source"] = "model"
    """Frame rate of the result: the model's, or resampled to the input's."""
    force: bool = False
    """True: existing results are replaced."""
    offline: bool = False
    """True: nothing is downloaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One wanted change of the clip."""

    name: str
    """Goes into file names: the effect's name, or a short form of the free text."""
    clause: str
    """What the cell's text says."""
    negative: str
    """What guidance steers away from; may be empty."""
    guidance_scale: float
    """Weight of the text; 1 is none."""
    num_inference_steps: int
    """Steps from noise to video."""
    noise_scale: float | None
    """Noise scale; None: the model's."""
    recipe: str = ""
    """File of the effect recipe; empty: free text."""
    recipe_sha256: str = ""
    """Hash of that file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedEdits:
    """What a grid will show, in text and numbers."""

    edits: tuple[Edit, ...]
    """The edits in the order they were asked for."""
    rows: int
    """Rows of the grid."""
    cols: int
    """Columns of the grid."""
    given: int
    """Index of the cell that holds the clip."""
    edit_of_cell: tuple[int | None, ...]
    """For every cell the index of its edit; None for the given cell."""
    prompt: Prompt
    """The grid's text."""
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
    def num_inference_steps(self) -> int:
        """Steps of the run; the edits share one sampler, so the most that any of them wants."""
        return max(edit.num_inference_steps for edit in self.edits)


def check_input(path: Path) -> None:
    """Check that the input is a readable file, without decoding it.

    Raises:
        InputVideoError: Missing, a folder, or not readable.
    """
    if path.is_dir():
        raise InputVideoError(f"{path} is a folder, not a video", hint="name a file in it")
    if not path.exists():
        raise InputVideoError(f"{path} does not exist", hint=f"see `ls {path.parent}`")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        hint = f"check its permissions: `ls -l {path}`"
        raise InputVideoError(f"{path} cannot be read ({reason})", hint=hint) from error


def resolve_edits(job: EditJob, recipe_dir: Path | None = None) -> ResolvedEdits:
    """Look up the recipes of a job and render its prompt.

    Spare cells repeat the edits in turn, so with one edit a 2x2 grid tries it three times.

    Args:
        job: The job.
        recipe_dir: The user's own recipes; None: shipped ones only.

    Raises:
        UsageError: No edit, too many, one twice, or sampler values out of range.
        RecipeError: An effect or the layout is unknown or wrong.
        PromptError: The prompt cannot be rendered.
    """
    _check_counts(job)
    layout = load_layout(job.layout, recipe_dir)
    if layout.mode != "edit" or len(layout.given) != 1:
        raise UsageError(
            f"layout {layout.name!r} is not for editing one clip", hint="use --layout edit-2x2"
        )
    cells = layout.rows * layout.cols
    slots = _slots(job, layout)
    edits = tuple(_effect_edit(job, load_effect(name, recipe_dir), slots) for name in job.effects)
    if job.prompt.strip():
        edits = (*edits, _free_edit(job))
    if len(edits) >= cells:
        raise UsageError(
            f"{len(edits)} edits do not fit layout {layout.name!r} with {cells - 1} free cells",
            hint="use fewer --effect options or another --layout",
        )
    names = [edit.name for edit in edits]
    if len(set(names)) < len(names):
        raise UsageError(
            f"edit {max(names, key=names.count)!r} is asked for twice",
            hint="with one edit the spare cells try it again anyway; --keep all writes each try",
        )
    edit_of_cell = _deal(cells, layout.given[0], len(edits))
    clauses = [None if index is None else edits[index].clause for index in edit_of_cell]
    return ResolvedEdits(
        edits=edits,
        rows=layout.rows,
        cols=layout.cols,
        given=layout.given[0],
        edit_of_cell=edit_of_cell,
        prompt=render_grid(layout, slots, clauses),
        layout_file=str(layout.file),
        layout_sha256=_sha256(layout.file),
    )


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


def _check_counts(job: EditJob) -> None:
    count = len(job.effects) + bool(job.prompt.strip())
    if count == 0:
        raise UsageError(
            "nothing to do: neither --effect nor --prompt is given",
            hint="add --effect rain, or see `dcgrid recipes list`",
        )
    if count > MAX_EDITS:
        raise UsageError(
            f"{count} edits asked for, at most {MAX_EDITS} fit in one run",
            hint="run the command again for the others",
        )
    if job.seed < 0 or job.seed >= 2**63:
        raise UsageError(f"seed {job.seed} is out of range", hint="use 0 or a positive number")
    if job.num_inference_steps is not None and not 1 <= job.num_inference_steps <= 1000:
        raise UsageError(
            f"{job.num_inference_steps} sampling steps are out of range",
            hint="use --num-inference-steps 1 to 1000; 12 to 40 are usual",
        )
    if job.guidance_scale is not None and not 0 <= job.guidance_scale <= 30:
        raise UsageError(
            f"guidance scale {job.guidance_scale} is out of range",
            hint="use --guidance-scale 0 to 30; 1 is no guidance",
        )


def _slots(job: EditJob, layout: LayoutRecipe) -> Mapping[str, str]:
    """Return the layout's slots with the user's words over them."""
    words = {"subject": job.subject.strip(), "motion": job.motion.strip()}
    for name, value in words.items():
        if value and name not in layout.slots:
            raise UsageError(
                f"layout {layout.name!r} has no {name} in its text", hint=f"leave out --{name}"
            )
    return {**layout.slots, **{name: value for name, value in words.items() if value}}


def _effect_edit(job: EditJob, effect: EffectRecipe, slots: Mapping[str, str]) -> Edit:
    sampler = effect.sampler
    values = {name: slots.get(name) for name in EFFECT_SLOTS}
    return Edit(
        name=effect.name,
        clause=render_text(effect.clause, values, place=effect.clause_place),
        negative=effect.negative,
        guidance_scale=_first(job.guidance_scale, sampler.guidance_scale),
        num_inference_steps=int(_first(job.num_inference_steps, sampler.num_inference_steps)),
        noise_scale=sampler.noise_scale,
        recipe=str(effect.file),
        recipe_sha256=_sha256(effect.file),
    )


def _free_edit(job: EditJob) -> Edit:
    return Edit(
        name=slug(job.prompt),
        clause=" ".join(job.prompt.split()),
        negative="",
        guidance_scale=_first(job.guidance_scale, FREE_GUIDANCE),
        num_inference_steps=int(_first(job.num_inference_steps, FREE_STEPS)),
        noise_scale=None,
    )


def _first(asked: float | None, default: float) -> float:
    return default if asked is None else asked


def _deal(cells: int, given: int, edits: int) -> tuple[int | None, ...]:
    """Deal edits to the free cells in turn."""
    free = [cell for cell in range(cells) if cell != given]
    edit_of = {cell: turn % edits for turn, cell in enumerate(free)}
    return tuple(edit_of.get(cell) for cell in range(cells))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
