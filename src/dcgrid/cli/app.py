"""The tree of commands."""

from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from dcgrid import __version__
from dcgrid.cli import (
    adapters,
    batch,
    compose,
    config,
    doctor,
    edit,
    evaluate,
    models,
    recipes,
    rerun,
    story,
    train,
)
from dcgrid.cli.help import App

app = App(
    name="dcgrid",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(edit.edit)
app.command()(compose.compose)
app.command()(story.story)
app.command()(batch.batch)
app.command()(rerun.rerun)
app.add_typer(config.app, name="config")
app.add_typer(recipes.app, name="recipes")
app.add_typer(adapters.app, name="adapters")
app.add_typer(models.app, name="models")
app.command()(doctor.doctor)
app.command()(train.train)
app.add_typer(evaluate.app, name="eval")


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
    _add_opposites(tree)
    return tree


def _add_opposites(command: Any) -> None:  # noqa: ANN401 - of Typer
    for inner in getattr(command, "commands", {}).values():
        _add_opposites(inner)
        for one in inner.params:
            if getattr(one, "is_flag", False) and not one.secondary_opts:
                one.secondary_opts = [f"--no-{max(one.opts, key=len).removeprefix('--')}"]
