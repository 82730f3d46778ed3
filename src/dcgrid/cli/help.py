"""What `--help` shows: the options by panel, without the types that Typer would name.

-e, --effect EFFECT     See `dcgrid recipes list`; up to three times.
--num-inference-steps N Sampling steps. [1 to 1000; default: the model's]
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

MAIN, WHAT, HOW, WHERE, MACHINE = PANELS = (
    "Most used",
    "What to make",
    "How to make it",
    "Where it goes",
    "Machine",
)
"""Panels that options stand in, in the order in which help shows them."""
_LABEL_COLUMNS = 29
"""Longest option with its value that stands on one line; else the value goes below it."""
_HELP_COLUMNS = 100
"""Lines of help are no longer, however wide the terminal is."""


class Command(TyperCommand):
    """A command with our help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - Typer's own
        """Parse a command line; for a completion only which options it names."""
        if not ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        return _parse_names(self, ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:  # noqa: ANN401 - Typer's own
        """Return the options that go on from what is typed; opposites only if they are meant."""
        found: list[Any] = super().shell_complete(ctx, incomplete)
        off = {
            name
            for one in self.params
            if getattr(one, "default", None) is False
            for name in getattr(one, "secondary_opts", ())
        }
        return [one for one in found if one.value not in off or incomplete.startswith("--no-")]

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - Typer's own
        """Print the help."""
        _show(self, ctx)


class Group(TyperGroup):
    """A group of commands with our help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - Typer's own
        """Parse a command line; for a completion only which options it names."""
        if not ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        rest = _parse_names(self, ctx, args)
        ctx._protected_args, ctx.args = rest[:1], rest[1:]
        return list(ctx.args)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - Typer's own
        """Return the names of the commands, none of which is made for it."""
        return list(self.commands)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:  # noqa: ANN401 - Typer's own
        """Return the commands, or else the options, that go on from what is typed."""
        from typer._click.shell_completion import CompletionItem

        names = [name for name in self.commands if name.startswith(incomplete)]
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name) for name in names]

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - Typer's own
        """Print the help."""
        _show(self, ctx)


def _parse_names(command: Any, context: Any, words: list[str]) -> list[str]:  # noqa: ANN401
    """Note which options a command line names; return the words behind them.

    Values are not looked at: that would import pydantic, and they may be half-typed.
    """
    from typer._click.core import ParameterSource

    parser = command.make_parser(context)
    given, rest, _ = parser.parse_args(args=words)
    for one in command.get_params(context):
        context.params[one.name] = given.get(one.name)
        if context.params[one.name] is not None:
            context.set_parameter_source(one.name, ParameterSource.COMMANDLINE)
    context.args = list(rest)
    context._opt_prefixes.update(parser._opt_prefixes)
    return list(rest)


class App(typer.Typer):
    """A tree of commands with our help.

    Args:
        cls: Class of the group itself.
        settings: As Typer has them.
    """

    def __init__(self, *, cls: type[TyperGroup] = Group, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(cls=cls, **settings)

    def command(  # type: ignore[override]
        self, name: str | None = None, *, hidden: bool = False
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Return what adds a command to the tree."""
        return super().command(name, cls=Command, hidden=hidden)


def _show(command: Any, context: Any) -> None:  # noqa: ANN401 - Typer's own classes are private
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from dcgrid.cli.console import CleanConsole

    console = CleanConsole()
    console.width = min(console.width, _HELP_COLUMNS)
    console.print(Padding(Text(command.get_usage(context)), (1, 1, 0, 1)))
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        console.print(Padding(Text(" ".join(paragraph.split())), (1, 1, 0, 1)))
    console.print()
    for title, rows in _panels(command, context):
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="bold cyan")
        table.add_column(ratio=1)
        for label, text in rows:
            table.add_row(Text(label), Text(text))
        console.print(Panel(table, title=title, title_align="left", border_style="dim"))


def _panels(command: Any, context: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:  # noqa: ANN401
    panels: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for one in command.get_params(context):
        if one.hidden:
            continue
        is_argument = one.param_type_name == "argument"
        usual = "Arguments" if is_argument else "Options"
        panels[one.rich_help_panel or usual].append((_label(one), _text(one, context)))
    order = ("Arguments", *PANELS, "Options")
    yield from sorted(panels.items(), key=lambda panel: order.index(panel[0]))
    commands = getattr(command, "commands", {}).items()
    shown = [(name, inner.get_short_help_str(300)) for name, inner in commands if not inner.hidden]
    if shown:
        yield "Commands", shown


def _label(parameter: Any) -> str:  # noqa: ANN401 - see _show
    """Return an option with the value that it takes."""
    if parameter.param_type_name == "argument":
        return str(parameter.display_name_raw.strip("[]"))
    names = sorted(parameter.opts, key=len)
    if parameter.secondary_opts and parameter.default is not False:
        names[-1] = names[-1].replace("--", "--[no-]", 1)
    label = ", ".join(names)
    if parameter.is_flag:
        return label
    choices = parameter.type_descriptor.choices
    value = parameter.metavar or ("|".join(choices) if choices else parameter.name.upper())
    space = " " if len(label) + len(value) < _LABEL_COLUMNS else "\n  "
    return f"{label}{space}{value}"


def _text(parameter: Any, context: Any) -> str:  # noqa: ANN401 - see _show
    """Return what an option does, its range, and what it is where it is not given."""
    notes = []
    low, high = parameter.min, parameter.max
    if high is not None and high < 1e6:
        notes.append(f"{low:g} to {high:g}")
    if parameter.required and parameter.param_type_name == "option":
        notes.append("required")
    elif default := default_text(parameter, context):
        notes.append(f"default: {default}")
    return " ".join([parameter.help or "", *([f"[{'; '.join(notes)}]"] if notes else [])])


def default_text(parameter: Any, context: Any) -> str:  # noqa: ANN401 - see _show
    """Return what an option is where it is not given; empty: nothing worth saying."""
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    default = parameter.get_default(context, call=False)
    worth_saying = parameter.show_default and default not in (None, "", "default")
    return str(default) if worth_saying and not isinstance(default, bool) else ""
