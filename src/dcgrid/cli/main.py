"""The entry point: registers the commands and holds the only try/except of the program."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from dcgrid import __version__
from dcgrid.cli import (
    adapters,
    compose,
    doctor,
    edit,
    evaluate,
    models,
    recipes,
    rerun,
    story,
    train,
)
from dcgrid.cli.errors import INTERRUPTED, report

app = typer.Typer(
    name="dcgrid",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(edit.edit)
app.command()(compose.compose)
app.command()(story.story)
app.command()(rerun.rerun)
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
    """
    if version:
        typer.echo(f"dcgrid {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: What follows the program's name; None: of this process.
    """
    # Read once by OpenMP when torch is imported: threads that spin while they wait made two
    # threads on a busy machine up to 70 times slower than one (research/perf.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with warnings.catch_warnings(), _terminated_as_interrupt():
        if os.environ.get("DCGRID_TRACEBACK") != "1":
            warnings.simplefilter("ignore")
        try:
            outcome = app(arguments, prog_name="dcgrid", standalone_mode=False)
        except SystemExit as leaving:
            return leaving.code if isinstance(leaving.code, int) else 1
        except BaseException as error:
            return report(error)
    if outcome == INTERRUPTED:
        # Typer swallows the interrupt and returns its code.
        return report(KeyboardInterrupt())
    return outcome if isinstance(outcome, int) else 0


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that no temporary file is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


if __name__ == "__main__":
    sys.exit(main())
