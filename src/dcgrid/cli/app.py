"""The tree of commands; each is imported when it is needed, for a shell waits for completions."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from dcgrid import __version__
from dcgrid.cli.help import App

_MODULES = {
    "edit": "edit",
    "compose": "compose",
    "story": "story",
    "batch": "batch",
    "ui": "ui",
    "rerun": "rerun",
    "config": "config",
    "recipes": "recipes",
    "adapters": "adapters",
    "models": "models",
    "doctor": "doctor",
    "train": "train",
    "eval": "evaluate",
}
"""Module of each command; it holds `app`, a group of commands, or a function of the command's
name."""

app = App(
    name="dcgrid",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version and exit.")
    ] = False,
) -> None:
    """Edit videos by filling a grid of cells with a video diffusion transformer.

    Start with: dcgrid edit input.mp4 --effect rain

    Defaults of any option: `dcgrid config set edit.model NAME`, or DCGRID_EDIT_MODEL=NAME.
    """
    if version:
        typer.echo(f"dcgrid {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def command_tree() -> TyperGroup:
    """Return the program as the tree of commands and options that Typer parses with.

    Every switch has its opposite, which takes back what config.toml or a variable has set.
    """
    tree = typer.main.get_command(app)
    assert isinstance(tree, TyperGroup)
    tree.commands = _Commands()  # type: ignore[assignment]  # Typer only reads it
    return tree


class _Commands(Mapping[str, Any]):
    """The commands by name, made when they are asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - of Typer
        if name not in self._made:
            module = import_module(f"dcgrid.cli.{_MODULES[name]}")
            if hasattr(module, "app"):
                command: Any = typer.main.get_group(module.app)
            else:
                alone = App(add_completion=False)
                alone.command(name)(getattr(module, name))
                command = typer.main.get_command(alone)
            command.name = name
            _add_opposites(command)
            self._made[name] = command
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


def _add_opposites(command: Any) -> None:  # noqa: ANN401 - of Typer
    for one in command.params:
        if getattr(one, "is_flag", False) and not one.secondary_opts:
            one.secondary_opts = [f"--no-{max(one.opts, key=len).removeprefix('--')}"]
    for inner in getattr(command, "commands", {}).values():
        _add_opposites(inner)
