"""Writes docs/cli.md: `python -m dcgrid.cli.reference > docs/cli.md`, or `make docs`.

A test compares the page with what this prints, so the page cannot fall behind the program.
"""

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from dcgrid.cli.app import command_tree

_HEAD = """# Command line

Written by `make docs` from the program itself; do not edit.

Results go to stdout, plans, progress and errors to stderr. Exit codes: 0 done, 1 a bug, 2 usage,
3 input, recipe, prompt or output, 4 weights or network, 5 device or memory, 130 interrupted.
Ctrl-C and SIGTERM end a command with 130 at any moment, and no file is left half-written; while it
cleans up, further ones wait, and one that comes after five seconds ends it at once.

## Defaults of your own

Every option of every command can have another default, in `config.toml` or in a variable:

    dcgrid config set edit.model wan2.2-5b     config.toml: [edit] model = "wan2.2-5b"
    dcgrid config set device cuda:1            config.toml: device = "cuda:1", before any table
    export DCGRID_EDIT_MODEL=wan2.2-5b         DCGRID_DEVICE=cuda:1

| wins over what is below | |
|---|---|
| command line | every switch has its opposite: `--no-force` |
| `DCGRID_EDIT_MODEL`, then `DCGRID_MODEL` | in capitals, `-` as `_`; an empty one is none |
| `[edit] model`, then `model` | the tables are commands, `[eval.run]`, or groups, `[eval]` |
| built in | |

A value holds for all commands below the table that it stands in; each of them must take it, and
the nearest wins. `dcgrid config show` prints what is set and from where (`--all`: every option),
`dcgrid config path` the file: `config.toml` in the folder of your recipes, or `DCGRID_CONFIG`
(`/dev/null`: none). Values have the type of the option: `force = true`, `seed = 3`,
`effect = ["rain", "night"]`; in a variable, `true`, `3` and `rain,night` (free text, as
`--prompt`, is not split at commas: `["one", "two"]`). Paths are those of the command line: relative
to the folder that the command runs in, `~` for the home folder. A key, table or value that no
option takes ends every command with exit code 2 and its file and line; `dcgrid config set` and
`unset` mend it.

Manifests and results say where each value came from. `dcgrid rerun` repeats a manifest whatever is
set: of `--device`, `--out`, `--input`, `--force` and `--dry-run` it takes only what `[rerun]` sets.

## Completion

`dcgrid --install-completion` sets up bash, zsh, fish or PowerShell: commands, options and their
choices, effects, scenes, layouts, recipes, models, adapters, methods, metrics, suites, and the keys
of `dcgrid config set`.

## Variables

`DCGRID_TRACEBACK=1` shows the traceback of an error, `DCGRID_CONFIG_DIR` and `DCGRID_CACHE_DIR`
move the folders of your recipes and of downloads, `HF_HUB_OFFLINE=1` keeps the network off.
"""


def reference() -> str:
    """Return the page as Markdown."""
    return _HEAD + "".join(_section(name, command) for name, command in _leaves(command_tree()))


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
    # The opposite of a switch that is off is there for those that config.toml turns on.
    opposites = [] if parameter.default is False else parameter.secondary_opts
    return ", ".join((*parameter.opts, *opposites))


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
