"""The one table from exceptions to what a user reads and the exit code.

0 ok, 1 bug, 2 usage, 3 input/recipe/prompt/output, 4 weights/network, 5 device/memory,
130 interrupt.
"""

import errno
import os
import re
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import typer

from dcgrid.cli.interrupts import INTERRUPTED
from dcgrid.cli.output import printable, write_json
from dcgrid.errors import (
    BatchError,
    DcgridError,
    DeviceError,
    InputVideoError,
    LayoutError,
    NetworkError,
    OutputError,
    PromptError,
    RecipeError,
    UsageError,
    WeightsError,
    is_out_of_memory,
)

_USAGE = 2
_HINTS: dict[type[DcgridError], str] = {
    UsageError: "run the command with --help",
    InputVideoError: "play the file, or try another one",
    OutputError: "write elsewhere with --out",
    RecipeError: "correct the file, then run `dcgrid recipes check FILE`",
    PromptError: "docs/prompt-language.md explains the language; `dcgrid recipes check FILE`",
    LayoutError: "see the layouts in `dcgrid recipes list`",
    WeightsError: "run `dcgrid doctor` to see which weights are here",
    NetworkError: "check the connection, or use --offline",
    DeviceError: "run `dcgrid doctor` to see what this machine has",
    BatchError: "docs/batch.md explains files of jobs and the folder of a batch",
}
"""What helps with most errors of a kind, for those that name nothing better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is told about an exception."""

    message: str
    """One sentence."""
    hint: str
    """What to try next; may be empty."""
    exit_code: int
    """The process's exit code."""


def explain(error: BaseException) -> Failure:
    """Return what to tell about any exception, a bug included."""
    if isinstance(error, DcgridError):
        usual = (hint for kind, hint in _HINTS.items() if isinstance(error, kind))
        hint = error.hint or next(usual, "")
        return Failure(message=error.message, hint=hint, exit_code=error.exit_code)
    if isinstance(error, typer.TyperException):
        problem, parameter = bad_value(error), getattr(error, "param", None)
        message = " ".join(error.format_message().split()).replace(": Value error, ", ": ")
        if problem and parameter is not None:
            message = f"{max(parameter.opts, key=len)} {problem}"
        return Failure(message=message, hint="run the command with --help", exit_code=_USAGE)
    if isinstance(error, KeyboardInterrupt):
        return Failure(message="interrupted", hint="", exit_code=INTERRUPTED)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(
            message=f"no space left on the disk{_place(error)}",
            hint="free some space, or write elsewhere with --out",
            exit_code=OutputError.exit_code,
        )
    if is_out_of_memory(error):
        return Failure(
            message="out of memory",
            hint="use a shorter --duration, or see `dcgrid doctor` for what fits this machine",
            exit_code=DeviceError.exit_code,
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return Failure(
            message=f"{error.strerror or 'cannot use the file'}{_place(error)}",
            hint="check the path and its permissions",
            exit_code=OutputError.exit_code,
        )
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    return Failure(
        message=f"internal error: {summary[:300]}",
        hint="this is a bug; run again with DCGRID_TRACEBACK=1 and report what it prints",
        exit_code=1,
    )


_KINDS = {"int": "an integer", "float": "a number", "bool": "true or false"}


def bad_value(error: BaseException) -> str:
    """Return what is wrong with an option's value, as "must be 0 or more, not -1".

    Args:
        error: What Typer raised. Of any other kind, or without a value: the answer is empty.
    """
    errors = getattr(error.__cause__, "errors", None)
    if errors is None:
        return ""
    first = errors()[0]
    kind, limits = first["type"], first.get("ctx", {})
    low, high = error.param.min, error.param.max  # type: ignore[attr-defined]
    if kind in ("greater_than_equal", "less_than_equal"):
        open_end = high is None or (high > 1e6 and kind == "greater_than_equal")
        what = f"{low:g} or more" if open_end else f"{low} to {high}"
    elif (name := kind.partition("_")[0]) in _KINDS:
        what = _KINDS[name]
    elif "error" in limits:  # a choice: its own words name the value
        return f"cannot be {limits['error']}".replace(" is not", ": it is").rstrip(".")
    else:
        return ""
    return f"must be {what}, not {first['input']}"


class ShownAsJsonError(RecipeError):
    """A problem that stands in the JSON that the command has printed already."""


def error_json(error: BaseException) -> dict[str, Any]:
    """Return what programs are told of an exception."""
    found = explain(error)
    named = {"code": found.exit_code, "message": found.message, "hint": found.hint}
    return {"error": named}


def report(error: BaseException, *, as_json: bool = False) -> int:
    """Print an exception as one line and a hint on stderr, and return the exit code.

    Args:
        error: What ended the command.
        as_json: True: the same stands on stdout, as the one JSON value there.
    """
    failure = explain(error)
    if not failure.message:
        # A group of commands without a command: its help has been printed already.
        return failure.exit_code
    if os.environ.get("DCGRID_TRACEBACK") == "1":
        for line in "".join(traceback.format_exception(error)).splitlines():
            sys.stderr.write(f"{printable(line)}\n")
    prefix = "" if failure.exit_code == INTERRUPTED else "error: "
    message = failure.message
    if isinstance(error, RecipeError):
        # A recipe may have several problems, a line each.
        message = re.sub(r"\n(?! {4})", "\n    ", message)
    sys.stderr.write(f"{prefix}{printable(message)}\n")
    if failure.hint:
        sys.stderr.write(f"hint: {printable(failure.hint)}\n")
    if as_json and not isinstance(error, ShownAsJsonError):
        write_json(error_json(error))
    return failure.exit_code


def _place(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""
