"""What a recipe is: effects and layouts as frozen values, read strictly from TOML.

Read `EffectRecipe` and `LayoutRecipe`; `read_effect` and `read_layout` make them from a file. Where
recipes are looked for is find.py's business, what a template means is prompts'.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from dcgrid.errors import RecipeError
from dcgrid.recipes.tables import Table, TextPlace, read_toml

EffectKind = Literal["tone", "light", "weather", "element"]
LayoutMode = Literal["edit", "composition"]
Visibility = Literal["all", "composition"]
GivenAs = Literal["trained", "clean", "replace"]

MIN_PHRASES = 8
"""Fewest paraphrases of an effect: a text encoder that saw fewer knows the recipe, not the word."""
MAX_SIDE = 8
"""Most rows or columns of a layout."""

EFFECT_SLOTS = ("subject", "identity", "motion", "motion_tag", "scene")
"""Slots that an effect's clause may use; a layout for edits has them all."""

# Names become parts of file names, so they are kept to what every system takes.
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_SLOT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerValues:
    """What an effect wants of the sampler, whatever the model; None: as the model has it."""

    guidance_scale: float | None = None
    """Weight of the text; 1 is no guidance; 0..30."""
    num_inference_steps: int | None = None
    """Steps from noise to picture; 1..1000."""
    noise_scale: float | None = None
    """s in x_t = (1-t) x0 + t s e; 0.1..10."""
    guidance_until: float | None = None
    """Flow time below which there is no guidance; 0..1; 0 is never. Approximate."""
    cache_threshold: float | None = None
    """Change of the first block below which the others are left out; 0..1; 0 is never.
    Approximate; Wan models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectRecipe:
    """An effect: what a cell shows, how people ask for it, and how to sample it."""

    name: str
    """Name on the command line, e.g. "rain"."""
    title: str
    """A few words for lists."""
    kind: EffectKind
    """tone (colours and brightness of the whole picture), light, weather or element."""
    deterministic: bool
    """True: the effect is a function of the clip, so an edit can be compared pixel by pixel."""
    clause: str
    """Template of the cell's clause, read after "<Subject> performing the exact same <motion>"."""
    clause_place: TextPlace
    """Where the clause stands, for errors."""
    phrases: tuple[str, ...]
    """Other words for it, for training and for matching free text; at least `MIN_PHRASES`."""
    negative: str
    """What guidance steers away from; may be empty."""
    sampler: SamplerValues
    """Values for the sampler."""
    file: Path
    """The file it was read from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutRecipe:
    """A grid: its shape, which cells are given, and what its prompt says."""

    name: str
    """Name on the command line, e.g. "edit-2x2"."""
    title: str
    """A few words for lists."""
    mode: LayoutMode
    """edit: the same concept in every cell; composition: two sources and their fusions."""
    rows: int
    """Rows of cells; 1..`MAX_SIDE`."""
    cols: int
    """Columns of cells; 1..`MAX_SIDE`."""
    cells: tuple[str, ...]
    """Names of the cells, row-major, as the prompt writes them."""
    given: tuple[int, ...]
    """Indices of the given cells, row-major; at least one cell is left to fill."""
    given_as: GivenAs
    """How given cells enter: "clean" at time 0, or noised like the rest ("replace"). "trained": as
    the adapter, or without one the base, was trained with."""
    visibility: Visibility
    """all: every cell reads every clause; composition: a given cell reads only its own."""
    template: str
    """Prompt template, see docs/prompt-language.md."""
    template_place: TextPlace
    """Where the template stands, for errors."""
    slots: Mapping[str, str]
    """Slots of the template with their defaults; "": optional."""
    file: Path
    """The file it was read from."""


def read_effect(path: Path) -> EffectRecipe:
    """Read an effect recipe.

    Raises:
        RecipeError: The file or any key of it is wrong; all problems are named with their lines.
    """
    table = read_toml(path)
    kinds = ("tone", "light", "weather", "element")
    recipe = EffectRecipe(
        name=_name(table, path),
        title=table.text("title", max_length=80),
        kind=cast(EffectKind, table.text("kind", choices=kinds)),
        deterministic=table.flag("deterministic"),
        clause=table.text("clause", max_length=2_000),
        clause_place=table.place("clause"),
        phrases=_phrases(table),
        negative=table.text("negative", default="", max_length=2_000),
        sampler=_sampler(table.table("sampler", optional=True)),
        file=path,
    )
    table.finish()
    return recipe


def read_layout(path: Path) -> LayoutRecipe:
    """Read a layout recipe.

    Raises:
        RecipeError: The file or any key of it is wrong; all problems are named with their lines.
    """
    table = read_toml(path)
    rows = table.integer("rows", minimum=1, maximum=MAX_SIDE)
    cols = table.integer("cols", minimum=1, maximum=MAX_SIDE)
    # With a wrong rows or cols, counting the cells would only add a false complaint.
    count = rows * cols if table.is_clean else None
    mode = cast(LayoutMode, table.text("mode", choices=("edit", "composition")))
    cells = _cells(table, count)
    recipe = LayoutRecipe(
        name=_name(table, path),
        title=table.text("title", max_length=80),
        mode=mode,
        rows=rows,
        cols=cols,
        cells=cells,
        given=_given(table, cells, mode),
        given_as=cast(
            GivenAs,
            table.text("given_as", choices=("trained", "clean", "replace"), default="trained"),
        ),
        visibility=cast(Visibility, table.text("visibility", choices=("all", "composition"))),
        template=table.text("template"),
        template_place=table.place("template"),
        slots=_slots(table),
        file=path,
    )
    table.finish()
    return recipe


def read_recipe(path: Path) -> EffectRecipe | LayoutRecipe:
    """Read an effect or a layout recipe, whichever the file is.

    Raises:
        RecipeError: The file is neither, or it is wrong.
    """
    table = read_toml(path)
    if table.has("clause") or table.has("phrases") or path.parent.name == "effects":
        return read_effect(path)
    if table.has("template") or table.has("cells") or path.parent.name == "layouts":
        return read_layout(path)
    raise RecipeError(
        f"{path}: neither an effect recipe (it has no clause) nor a layout recipe (no template)",
        hint="docs/prompt-language.md shows both kinds",
    )


def _name(table: Table, path: Path) -> str:
    """Return the name, which must be the file's: otherwise a lookup by name would mislead."""
    name = table.text("name", max_length=40)
    if name and not _NAME.fullmatch(name):
        table.problem("name", f"must be small letters, digits and single hyphens, not {name!r}")
    elif name and name != path.stem:
        table.problem("name", f"must be the file's name {path.stem!r}, not {name!r}")
    return name


def _phrases(table: Table) -> tuple[str, ...]:
    phrases = table.texts("phrases", minimum=MIN_PHRASES)
    if any(len(phrase) > 200 for phrase in phrases):
        table.problem("phrases", "holds a phrase of more than 200 characters")
    return phrases


def _sampler(table: Table) -> SamplerValues:
    def number(key: str, minimum: float, maximum: float) -> float | None:
        return table.number(key, minimum=minimum, maximum=maximum) if table.has(key) else None

    steps = "num_inference_steps"
    return SamplerValues(
        guidance_scale=number("guidance_scale", 0, 30),
        num_inference_steps=(
            table.integer(steps, minimum=1, maximum=1000) if table.has(steps) else None
        ),
        noise_scale=number("noise_scale", 0.1, 10),
        guidance_until=number("guidance_until", 0, 1),
        cache_threshold=number("cache_threshold", 0, 1),
    )


def _cells(table: Table, count: int | None) -> tuple[str, ...]:
    cells = table.texts("cells", minimum=1)
    if cells and count is not None and len(cells) != count:
        table.problem("cells", f"names {len(cells)} cells; rows x cols makes {count}")
    return cells


def _given(table: Table, cells: tuple[str, ...], mode: LayoutMode) -> tuple[int, ...]:
    """Return the indices of the given cells, from their names."""
    names = table.texts("given", minimum=1)
    unknown = [name for name in names if name not in cells]
    if unknown:
        table.problem("given", f"names no cell {unknown[0][:80]!r}; cells: {', '.join(cells)}")
    elif len(names) == len(cells) and names:
        table.problem("given", "names every cell, so nothing is left to fill")
    elif mode == "composition" and len(names) != 2:
        table.problem("given", f"must name the two sources of a composition, not {len(names)}")
    return tuple(sorted(cells.index(name) for name in names if name in cells))


def _slots(table: Table) -> Mapping[str, str]:
    slots = table.texts_by_name("slots")
    for name in slots:
        if not _SLOT.fullmatch(name):
            table.problem("slots", f"has the slot {name[:80]!r}; use letters, digits and _")
    return MappingProxyType(slots)
