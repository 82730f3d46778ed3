"""The entry point: handles signals, runs the command and holds the only try/except of the program.

The commands themselves (app.py) are imported late, for that takes half a second, and Ctrl-C counts
from the first line on.
"""

import atexit
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from itertools import pairwise

from dcgrid.cli.interrupts import INTERRUPTED, Interrupts, end_signals_at_once, silence_dropped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: What follows the program's name. None: of this process, which then ends with
            the code that is returned, without tearing down what is loaded.
    """
    if arguments is not None:
        return _main(arguments)
    end_signals_at_once()
    code = 1

    def leave() -> None:
        # All work is done and all files are whole. Taking torch apart takes time in which signals
        # have no handlers, and aborts now and then where processes talked to each other
        # (std::terminate, gloo, torch 2.13), so that torchrun would call the job failed.
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    atexit.register(leave)  # the first to be registered is the last to be called
    code = _main(sys.argv[1:])
    return code


def _main(arguments: Sequence[str]) -> int:
    # Read once by OpenMP when torch is imported: threads that spin while they wait made two
    # threads on a busy machine up to 70 times slower than one (research/perf.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    earlier, sys.unraisablehook = sys.unraisablehook, silence_dropped
    try:
        with warnings.catch_warnings(), Interrupts() as interrupts:
            if os.environ.get("DCGRID_TRACEBACK") != "1":
                warnings.simplefilter("ignore")
            return _run(arguments, interrupts)
    finally:
        sys.unraisablehook = earlier


def _run(arguments: Sequence[str], interrupts: Interrupts) -> int:
    if "_DCGRID_COMPLETE" in os.environ:
        return _complete()
    as_json = _asks_for_json(arguments)
    try:
        try:
            from dcgrid.cli.app import command_tree
            from dcgrid.cli.defaults import Settings

            tree = command_tree()
            settings = Settings.read(tree, arguments)
            as_json = _asks_for_json(arguments, settings.asks_for_json)
            settings.check()
            outcome = tree.main(
                list(arguments),
                prog_name="dcgrid",
                standalone_mode=False,
                default_map=settings.as_defaults(),
                obj=settings,
            )
            sys.stdout.flush()
        finally:
            interrupts.hold()
    except SystemExit as leaving:
        outcome = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException as error:
        return _report(error, as_json=as_json, interrupted=interrupts.received)
    if interrupts.received or outcome == INTERRUPTED:
        # Typer swallows the interrupt and returns its code.
        return _report(KeyboardInterrupt(), as_json=as_json, interrupted=True)
    return outcome if isinstance(outcome, int) else 0


def _complete() -> int:
    """Print what a shell may complete; whatever goes wrong, nothing else."""
    try:
        from dcgrid.cli.app import command_tree

        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            command_tree().main([], prog_name="dcgrid")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    except Exception:
        return 1
    return 0


def _report(error: BaseException, *, as_json: bool, interrupted: bool) -> int:
    from dcgrid.cli.errors import report
    from dcgrid.errors import AlreadyToldError

    # An interrupt may come out as whatever a library made of it.
    if interrupted and not isinstance(error, AlreadyToldError):
        error = KeyboardInterrupt()
    return report(error, as_json=as_json)


def _asks_for_json(arguments: Sequence[str], otherwise: bool = False) -> bool:
    """Return True for `--format json`, whether or not the other arguments can be understood.

    Args:
        arguments: The command line.
        otherwise: What is returned where it says nothing of it.
    """
    options = list(arguments)
    if "--" in options:
        options = options[: options.index("--")]
    if not any(one.partition("=")[0] == "--format" for one in options):
        return otherwise
    return "--format=json" in options or ("--format", "json") in pairwise(options)
