"""Writes docs/cli.md: `python -m dcgrid.cli.reference > docs/cli.md`, or `make docs`.

A test compares the page with what this prints, so the page cannot fall behind the program.
"""

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer
import typer.main

from dcgrid.cli.app import app

_HEAD = """# Command line

Written by `make docs` from the program itself; do not edit.

Results go to stdout, plans, progress and errors to stderr. Exit codes: 0 done, 1 a bug, 2 usage,
3 input, recipe, prompt or output, 4 weights or network, 5 device or memory, 130 interrupted.
Ctrl-C and SIGTERM end a command with 130 at any moment, and no file is left half-written; while it
cleans up, further ones wait, and one that comes after five seconds ends it at once.
`DCGRID_TRACEBACK=1` shows the traceback of an error, `DCGRID_CONFIG_DIR` and `DCGRID_CACHE_DIR`
move the folders of your recipes and of downloads, `HF_HUB_OFFLINE=1` keeps the network off.
"""


def reference() -> str:
    """Return the page as Markdown."""
    return _HEAD + "".join(_section(name, command) for name, command in _leaves(app_command()))


def app_command() -> Any:  # noqa: ANN401 - Typer's own class is private
    """Return the program as the tree of commands and parameters that Typer parses with."""
    return typer.main.get_command(app)


def _leaves(command: Any, prefix: str = "dcgrid") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yield the full name and the command of everything that can be run."""
    if not hasattr(command, "commands"):
        yield prefix, command
        return
    for name, inner in command.commands.items():
        yield from _leaves(inner, f"{prefix} {name}")


def _section(name: str, command: Any) -> str:  # noqa: ANN401 - see app_command
    operands = [one for one in command.params if one.param_type_name == "argument"]
    usage = " ".join(_label(one) if one.required else f"[{_label(one)}]" for one in operands)
    lines = [f"\n## {name}\n\n    {name} [OPTIONS] {usage}".rstrip()]
    lines.append(f"\n\n{inspect.cleandoc(command.help or '')}\n\n| | default | |\n|---|---|---|\n")
    for one in command.params:
        lines.append(f"| `{_label(one)}` | {_default(one)} | {one.help or ''} |\n")
    return "".join(lines)


def _label(parameter: Any) -> str:  # noqa: ANN401 - see app_command
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return ", ".join((*parameter.opts, *parameter.secondary_opts))


def _default(parameter: Any) -> str:  # noqa: ANN401 - see app_command
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if parameter.required:
        return "required"
    if parameter.default is None or parameter.default is False or parameter.default == "":
        return ""
    return "on" if parameter.default is True else f"`{parameter.default}`"


if __name__ == "__main__":
    sys.stdout.write(reference())
