"""`dcgrid recipes`: list, show, check and render recipes. Loads no torch.

Results go to stdout (tables through rich, JSON through the common sink); problems are raised and
`cli.main` prints them to stderr. Recipe text is printed as rich Text, never as markup: prompts are
full of square brackets.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcgrid import prompts, recipes
from dcgrid.cli import complete
from dcgrid.cli.errors import ShownAsJsonError, error_json
from dcgrid.cli.help import App
from dcgrid.cli.output import Format, printable, write_json
from dcgrid.errors import DcgridError, RecipeError, UsageError
from dcgrid.eval.suites.suite import read_suite
from dcgrid.hub import config_dir
from dcgrid.io.progress import counted
from dcgrid.io.schema import read_toml

if TYPE_CHECKING:
    from rich.text import Text

app = App(
    help="List, show, check and render the recipes of effects and grid layouts.",
    no_args_is_help=True,
)

_Recipe = recipes.EffectRecipe | recipes.LayoutRecipe
# One colour for the global text and one for each cell in turn; none is used off a terminal.
_CELL_STYLES = ("cyan", "magenta", "green", "yellow", "blue", "red")


FormatOption = Annotated[
    Format, typer.Option("--format", help="text for people, json for programs.")
]
RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="Name of an effect or a layout, or path of a recipe file.",
        autocompletion=complete.recipes,
    ),
]


@app.command("list")
def list_recipes(output: FormatOption = Format.TEXT) -> None:
    """List every effect and layout, shipped and your own; one that is broken is named."""
    found, broken = _read_all(_user_dir())
    if output is Format.JSON:
        listed = [{"name": name, "error": error.message} for name, error in broken]
        write_json({"recipes": [_summary(recipe) for recipe in found], "broken": listed})
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from dcgrid.cli.console import CleanConsole

    table = Table("name", "kind", "title", "from", box=box.SIMPLE_HEAD, pad_edge=False)
    for recipe in found:
        summary = _summary(recipe)
        table.add_row(*(Text(str(summary[key])) for key in ("name", "kind", "title", "from")))
    CleanConsole().print(table)
    for name, error in broken:
        CleanConsole().print(Text(f"{name} is broken: {error.message}\n{error.hint}"))


def _read_all(
    user_dir: Path | None,
) -> tuple[list[_Recipe], list[tuple[str, RecipeError]]]:
    """Return every recipe that can be read, and the names of the others with what is wrong."""
    found: list[_Recipe] = []
    broken: list[tuple[str, RecipeError]] = []
    loaders: list[tuple[tuple[str, ...], Callable[[str, Path | None], _Recipe]]] = [
        (recipes.effect_names(user_dir), recipes.load_effect),
        (recipes.layout_names(user_dir), recipes.load_layout),
    ]
    for names, load in loaders:
        for name in names:
            try:
                found.append(load(name, user_dir))
            except RecipeError as error:
                broken.append((name, error))
    return found, broken


@app.command("show")
def show_recipe(recipe: RecipeArgument, output: FormatOption = Format.TEXT) -> None:
    """Show all of one recipe."""
    values = _values(_load_any(recipe))
    if output is Format.JSON:
        write_json(values)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from dcgrid.cli.console import CleanConsole

    table = Table(show_header=False, box=box.SIMPLE, pad_edge=False)
    for key, value in values.items():
        table.add_row(Text(key, style="bold"), Text(_shown(value)))
    CleanConsole().print(table)


@app.command("check")
def check_recipes(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Recipe files or folders; none: all shipped ones and your own."),
    ] = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Check recipes and show every problem with its place; exit code 3 if there is one."""
    files = _files_in(paths) if paths else _all_files()
    results = [(file, _problems(file)) for file in files]
    wrong = sum(1 for _, found in results if found)
    noun = "recipe" if len(results) == 1 else "recipes"
    kind = ShownAsJsonError if output is Format.JSON else RecipeError
    error = kind(
        f"{wrong} of {len(results)} {noun} {'has' if wrong == 1 else 'have'} problems",
        hint="docs/prompt-language.md explains the template language and the recipe keys",
    )
    if output is Format.JSON:
        value: dict[str, Any] = {
            "files": [{"file": file, "problems": found} for file, found in results]
        }
        write_json({**value, **(error_json(error) if wrong else {})})
    for file, found in results if output is Format.TEXT else ():
        for line in found or [f"{file}: ok"]:
            typer.echo(printable(line))
    if wrong:
        raise error


@app.command("render")
def render_recipe(
    layout: Annotated[
        str,
        typer.Argument(help="Name or path of a layout recipe.", autocompletion=complete.layouts),
    ] = "edit-2x2",
    effect: Annotated[
        list[str] | None,
        typer.Option(
            "--effect",
            metavar="EFFECT",
            autocompletion=complete.effects,
            help="Effect of the next cell to fill; may be repeated.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", metavar="TEXT", help="Your own words for the next cell, after the effects."
        ),
    ] = None,
    slot: Annotated[
        list[str] | None,
        typer.Option("--slot", metavar="NAME=VALUE", help="Value of a slot; may be repeated."),
    ] = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Render a layout's prompt, as the model would read it."""
    recipe = recipes.load_layout(layout, _user_dir())
    slots = _slot_values(slot or [])
    effects = [recipes.load_effect(name, _user_dir()) for name in effect or []]
    clauses = [_clause(one, recipe, slots) for one in effects] + list(prompt or [])
    negative = ", ".join(dict.fromkeys(one.negative for one in effects if one.negative))
    rendered = prompts.render_grid(recipe, slots, _dealt(clauses, recipe), negative=negative)
    if output is Format.JSON:
        write_json(asdict(rendered))
    else:
        from dcgrid.cli.console import CleanConsole

        CleanConsole().print(_coloured(rendered), soft_wrap=True)


def _user_dir() -> Path:
    """Return the folder of the user's own recipes."""
    return config_dir() / "recipes"


def _load_any(name: str) -> _Recipe:
    """Load an effect or a layout by name, or either by path."""
    user_dir = _user_dir()
    if name.endswith(".toml") or Path(name).name != name:
        return recipes.read_recipe(Path(name))
    if name in recipes.layout_names(user_dir):
        return recipes.load_layout(name, user_dir)
    if name in recipes.effect_names(user_dir):
        return recipes.load_effect(name, user_dir)
    known = (*recipes.effect_names(user_dir), *recipes.layout_names(user_dir))
    raise recipes.unknown_recipe(name, "effect or layout", known)


def _summary(recipe: _Recipe) -> dict[str, Any]:
    """Return what a list says of a recipe."""
    kind = recipe.kind if isinstance(recipe, recipes.EffectRecipe) else f"{recipe.mode} layout"
    is_shipped = recipe.file.is_relative_to(recipes.shipped_dir())
    source = "shipped" if is_shipped else str(recipe.file)
    return {"name": recipe.name, "kind": kind, "title": recipe.title, "from": source}


def _values(recipe: _Recipe) -> dict[str, Any]:
    """Return all of a recipe as plain values, cells by name and without places in the file."""
    fields = {key: getattr(recipe, key) for key in type(recipe).__dataclass_fields__}
    values = {key: value for key, value in fields.items() if not key.endswith("_place")}
    values["file"] = str(recipe.file)
    if isinstance(recipe, recipes.EffectRecipe):
        values["sampler"] = asdict(recipe.sampler)
    else:
        values["given"] = [recipe.cells[index] for index in recipe.given]
        values["slots"] = dict(recipe.slots)
    return values


def _shown(value: object) -> str:
    """Return a value as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        entries = {key: one for key, one in value.items() if one is not None}
        lines = [f"{key} = {json.dumps(one)}" for key, one in entries.items()]
        return "\n".join(lines) or "-"
    if isinstance(value, list | tuple):
        return "\n".join(str(one) for one in value)
    return str(value).strip()


def _all_files() -> list[Path]:
    """Return all shipped recipes and the user's own, overridden ones too."""
    user_dir = _user_dir()
    roots = [recipes.shipped_dir(), *([user_dir] if user_dir.is_dir() else [])]
    return _files_in(roots)


def _files_in(paths: Sequence[Path]) -> list[Path]:
    """Return the recipe files that paths name: themselves, or the ones in a folder."""
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        folders = [path / kind for kind in ("effects", "layouts", "eval") if (path / kind).is_dir()]
        found = [file for folder in folders or [path] for file in sorted(folder.glob("*.toml"))]
        if not found:
            raise RecipeError(f"no recipe in the folder '{path}'", hint="Recipes end in .toml.")
        files += found
    return files


def _problems(file: Path) -> list[str]:
    """Return the messages of everything that is wrong in a recipe file."""
    try:
        # A suite of `dcgrid eval` is known by its place or its keys.
        if file.parent.name == "eval" or "methods" in read_toml(file).values:
            read_suite(file)
            return []
        recipe = recipes.read_recipe(file)
        if isinstance(recipe, recipes.EffectRecipe):
            found = prompts.text_problems(
                recipe.clause, recipes.EFFECT_SLOTS, place=recipe.clause_place
            )
        else:
            found = prompts.grid_problems(recipe)
        if not found and isinstance(recipe, recipes.LayoutRecipe):
            # A slot without a value shows only in rendering.
            prompts.render_grid(recipe, {})
    except DcgridError as error:
        return [error.message]
    return [problem.message for problem in found]


def _slot_values(pairs: Sequence[str]) -> dict[str, str]:
    """Split NAME=VALUE pairs."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--slot takes NAME=VALUE, not '{pair}'", hint="--slot subject=cat")
        values[name.strip()] = value
    return values


def _clause(
    effect: recipes.EffectRecipe, layout: recipes.LayoutRecipe, slots: dict[str, str]
) -> str:
    """Render an effect's clause with the slots of the layout."""
    values = {name: slots.get(name, layout.slots.get(name)) for name in recipes.EFFECT_SLOTS}
    return prompts.render_text(effect.clause, values, place=effect.clause_place)


def _dealt(clauses: Sequence[str], layout: recipes.LayoutRecipe) -> list[str | None]:
    """Deal clauses to the cells that are filled; with too few clauses they are repeated."""
    to_fill = len(layout.cells) - len(layout.given)
    if len(clauses) > to_fill:
        raise UsageError(
            f"{len(clauses)} effects and prompts for {counted(to_fill, 'cell')} of {layout.name}",
            hint="dcgrid recipes list shows layouts with more cells",
        )
    supply = itertools.cycle(clauses or [None])
    return [None if cell in layout.given else next(supply) for cell in range(len(layout.cells))]


def _coloured(prompt: prompts.Prompt) -> "Text":
    """Return a prompt with each cell's words in a colour of their own."""
    from rich.text import Text

    text = Text(prompt.text)
    for segment in prompt.segments:
        if segment.cell is not None:
            style = _CELL_STYLES[segment.cell % len(_CELL_STYLES)]
            text.stylize(style, segment.start, segment.end)
    return text
