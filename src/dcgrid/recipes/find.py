"""Where recipes are: an explicit path, the user's folder, the shipped ones, in that order.

The user's folder is an argument (the command line takes it from hub.config_dir), so this module
asks no environment.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable
from importlib import resources
from pathlib import Path
from typing import TypeVar

from dcgrid.errors import RecipeError
from dcgrid.recipes.schema import EffectRecipe, LayoutRecipe, read_effect, read_layout

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
