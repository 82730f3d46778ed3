"""What a recipe is, and where it is: effects and layouts as frozen values, read strictly from TOML.

Read `EffectRecipe` and `LayoutRecipe`; what a template means is prompts' business. A recipe is
looked for as an explicit path, in the user's folder, among the shipped ones, in that order. The
user's folder is an argument (the command line takes it from hub.config_dir), so this module asks
no environment.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from annotated_types import Ge, Le, MinLen

from dcgrid.errors import RecipeError
from dcgrid.io.progress import counted
from dcgrid.io.schema import EACH_ONCE, Document, Problem, Rule, Text, TextPlace, read_toml

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


def _check_name(name: str) -> str:
    fits = len(name) <= 40 and _NAME.fullmatch(name)
    shown = f"not {name[:60]!r}"
    return "" if fits else f"must be at most 40 small letters, digits and single hyphens, {shown}"


Name = Annotated[str, Rule(_check_name)]
Side = Annotated[int, Ge(1), Le(MAX_SIDE)]
_SLOT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerValues:
    """What an effect wants of the sampler, whatever the model; None: as the model has it."""

    guidance_scale: Annotated[float, Ge(0), Le(30)] | None = None
    """Weight of the text; 1 is no guidance; 0..30."""
    num_inference_steps: Annotated[int, Ge(1), Le(1000)] | None = None
    """Steps from noise to picture; 1..1000."""
    noise_scale: Annotated[float, Ge(0.1), Le(10)] | None = None
    """s in x_t = (1-t) x0 + t s e; 0.1..10."""
    guidance_until: Annotated[float, Ge(0), Le(1)] | None = None
    """Flow time below which there is no guidance; 0..1; 0 is never. Approximate."""
    cache_threshold: Annotated[float, Ge(0), Le(1)] | None = None
    """Change of the first block below which the others are left out; 0..1; 0 is never.
    Approximate; Wan models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectRecipe:
    """An effect: what a cell shows, how people ask for it, and how to sample it."""

    name: Name
    """Name on the command line, e.g. "rain"."""
    title: Annotated[str, Text(80)]
    """A few words for lists."""
    kind: EffectKind
    """tone (colours and brightness of the whole picture), light, weather or element."""
    deterministic: bool
    """True: the effect is a function of the clip, so an edit can be compared pixel by pixel."""
    clause: Annotated[str, Text(2_000)]
    """Template of the cell's clause, read after "<Subject> performing the exact same <motion>"."""
    clause_place: TextPlace
    """Where the clause stands, for errors."""
    phrases: Annotated[tuple[Annotated[str, Text(200)], ...], MinLen(MIN_PHRASES), EACH_ONCE]
    """Other words for it, for training and for matching free text; at least `MIN_PHRASES`."""
    negative: Annotated[str, Text(2_000, blank=True)] = ""
    """What guidance steers away from; may be empty."""
    sampler: SamplerValues = field(default_factory=SamplerValues)
    """Values for the sampler."""
    file: Path
    """The file it was read from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _LayoutKeys:
    """What a layout's file says as it is."""

    name: Name
    """Name on the command line, e.g. "edit-2x2"."""
    title: Annotated[str, Text(80)]
    """A few words for lists."""
    mode: LayoutMode
    """edit: the same concept in every cell; composition: two sources and their fusions."""
    rows: Side
    """Rows of cells; 1..`MAX_SIDE`."""
    cols: Side
    """Columns of cells; 1..`MAX_SIDE`."""
    cells: Annotated[tuple[Annotated[str, Text(80)], ...], MinLen(1), EACH_ONCE]
    """Names of the cells, row-major, as the prompt writes them."""
    given_as: GivenAs = "trained"
    """How given cells enter: "clean" at time 0, or noised like the rest ("replace"). "trained": as
    the adapter, or without one the base, was trained with."""
    visibility: Visibility
    """all: every cell reads every clause; composition: a given cell reads only its own."""
    template: Annotated[str, Text(20_000)]
    """Prompt template, see docs/prompt-language.md."""
    slots: Mapping[str, str] = field(default_factory=dict)
    """Slots of the template with their defaults; "": optional."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _LayoutFile(_LayoutKeys):
    """A layout's file."""

    given: Annotated[tuple[str, ...], MinLen(1), EACH_ONCE]
    """Names of the given cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutRecipe(_LayoutKeys):
    """A grid: its shape, which cells are given, and what its prompt says."""

    given: tuple[int, ...]
    """Indices of the given cells, row-major; at least one cell is left to fill."""
    template_place: TextPlace
    """Where the template stands, for errors."""
    file: Path
    """The file it was read from."""


def read_effect(path: Path) -> EffectRecipe:
    """Read an effect recipe.

    Raises:
        RecipeError: The file or any key of it is wrong; all problems are named with their lines.
    """
    return _effect(_read(path), path)


def read_layout(path: Path) -> LayoutRecipe:
    """Read a layout recipe.

    Raises:
        RecipeError: The file or any key of it is wrong; all problems are named with their lines.
    """
    return _layout(_read(path), path)


def read_recipe(path: Path) -> EffectRecipe | LayoutRecipe:
    """Read an effect or a layout recipe, whichever the file is.

    Raises:
        RecipeError: The file is neither, or it is wrong.
    """
    document = _read(path)
    if {"clause", "phrases"} & document.values.keys() or path.parent.name == "effects":
        return _effect(document, path)
    if {"template", "cells"} & document.values.keys() or path.parent.name == "layouts":
        return _layout(document, path)
    raise RecipeError(
        f"{path}: neither an effect recipe (it has no clause) nor a layout recipe (no template)",
        hint="docs/prompt-language.md shows both kinds",
    )


def _read(path: Path) -> Document:
    return read_toml(path, hint=f"dcgrid recipes check {shlex.quote(str(path))}")


def _effect(document: Document, path: Path) -> EffectRecipe:
    place = asdict(document.place("clause"))
    recipe = document.build(EffectRecipe, clause_place=place, file=str(path))
    document.refuse(_name_problems(recipe.name, path))
    return recipe


def _layout(document: Document, path: Path) -> LayoutRecipe:
    read = document.build(_LayoutFile)
    document.refuse([*_name_problems(read.name, path), *_cell_problems(read)])
    values = {one.name: getattr(read, one.name) for one in fields(_LayoutKeys)}
    return LayoutRecipe(
        **values,
        given=tuple(sorted(read.cells.index(name) for name in read.given)),
        template_place=document.place("template"),
        file=path,
    )


def _name_problems(name: str, path: Path) -> Iterator[Problem]:
    """The name must be the file's: otherwise a lookup by name would mislead."""
    if name != path.stem:
        yield ("name",), f"must be the file's name {path.stem!r}, not {name!r}"


def _cell_problems(layout: _LayoutFile) -> Iterator[Problem]:
    count, cells, given = layout.rows * layout.cols, layout.cells, layout.given
    unknown = [name for name in given if name not in cells]
    if len(cells) != count:
        yield ("cells",), f"names {counted(len(cells), 'cell')}; rows x cols makes {count}"
    elif unknown:
        yield ("given",), f"names no cell {unknown[0][:80]!r}; cells: {', '.join(cells)}"
    elif len(given) == len(cells):
        yield ("given",), "names every cell, so nothing is left to fill"
    elif layout.mode == "composition" and len(given) != 2:
        yield ("given",), f"must name the two sources of a composition, not {len(given)}"
    for name in layout.slots:
        if not _SLOT.fullmatch(name):
            yield ("slots",), f"has the slot {name[:80]!r}; use letters, digits and _"


_Recipe = TypeVar("_Recipe", EffectRecipe, LayoutRecipe)
_FOLDERS = ("effects", "layouts")


def shipped_dir() -> Path:
    """Return the folder of the shipped recipes.

    A wheel carries them as dcgrid/_recipes; a checkout has them at its top.

    Raises:
        RecipeError: Neither is there, so the installation is damaged.
    """
    package = Path(str(resources.files("dcgrid")))
    for folder in (package / "_recipes", package.parents[1] / "recipes"):
        if all((folder / kind).is_dir() for kind in _FOLDERS):
            return folder
    hint = "install dcgrid again from its checkout: pip install --force-reinstall ."
    raise RecipeError(f"the shipped recipes are missing beside {package}", hint=hint)


def load_effect(name_or_path: str | Path, user_dir: Path | None = None) -> EffectRecipe:
    """Load an effect recipe.

    Args:
        name_or_path: A name such as "rain", or a path: anything with a folder or ending in .toml.
        user_dir: The user's recipe folder, with effects/ in it; None: shipped recipes only.

    Raises:
        RecipeError: No such recipe (with the nearest name), or it is wrong.
    """
    return _load(name_or_path, user_dir, "effects", read_effect)


def load_layout(name_or_path: str | Path, user_dir: Path | None = None) -> LayoutRecipe:
    """Load a layout recipe; arguments and errors as `load_effect`, from layouts/."""
    return _load(name_or_path, user_dir, "layouts", read_layout)


def effect_names(user_dir: Path | None = None) -> tuple[str, ...]:
    """Return the names of all effects, sorted, without reading them."""
    return tuple(sorted(_files("effects", user_dir)))


def layout_names(user_dir: Path | None = None) -> tuple[str, ...]:
    """Return the names of all layouts, sorted, without reading them."""
    return tuple(sorted(_files("layouts", user_dir)))


def list_effects(user_dir: Path | None = None) -> tuple[EffectRecipe, ...]:
    """Return all effects by name; a user's recipe stands in for the shipped one of its name.

    Raises:
        RecipeError: One of them is wrong.
    """
    return tuple(read_effect(path) for _, path in sorted(_files("effects", user_dir).items()))


def list_layouts(user_dir: Path | None = None) -> tuple[LayoutRecipe, ...]:
    """Return all layouts by name; a user's recipe stands in for the shipped one of its name.

    Raises:
        RecipeError: One of them is wrong.
    """
    return tuple(read_layout(path) for _, path in sorted(_files("layouts", user_dir).items()))


def replaced_recipes(files: Iterable[Path]) -> list[str]:
    """Return a sentence for each of a user's recipes that stands in for a shipped one.

    Args:
        files: Recipe files that are about to be used.
    """
    shipped = shipped_dir()
    bases = {
        f"Your recipe {file} stands in for the shipped {file.parent.name[:-1]} {file.stem!r}."
        for file in files
        if file.parent.parent != shipped and (shipped / file.parent.name / file.name).is_file()
    }
    return sorted(bases)


def unknown_recipe(name: str, what: str, known: Collection[str]) -> RecipeError:
    """Return the error for a name that no recipe has, with the nearest name that one has.

    Args:
        name: What the user asked for.
        what: Kind of recipe, as in "no ... recipe is called".
        known: Names of the recipes there are.
    """
    matches = difflib.get_close_matches(name[:80].lower(), sorted(known), n=1, cutoff=0.5)
    near = f"; did you mean '{matches[0]}'?" if matches else ""
    shown = re.sub(r"[^\x20-\x7e]", "?", name[:80])
    return RecipeError(f"no {what} recipe is called '{shown}'{near}", hint="dcgrid recipes list")


def _files(folder: str, user_dir: Path | None) -> dict[str, Path]:
    """Return recipe files by name, the user's over the shipped ones."""
    files: dict[str, Path] = {}
    for root in (shipped_dir(), user_dir):
        if root is not None and (root / folder).is_dir():
            files.update((path.stem, path) for path in (root / folder).glob("*.toml"))
    return files


def _load(
    name_or_path: str | Path, user_dir: Path | None, folder: str, read: Callable[[Path], _Recipe]
) -> _Recipe:
    """Load by path or by name."""
    name = str(name_or_path)
    if isinstance(name_or_path, Path) or name.endswith(".toml") or Path(name).name != name:
        return read(Path(name_or_path))
    files = _files(folder, user_dir)
    if name not in files:
        raise unknown_recipe(name, folder.removesuffix("s"), files)
    return read(files[name])
