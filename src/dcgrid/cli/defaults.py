"""Where options get their values from if the command line does not give them.

    command line  >  DCGRID_* variables  >  config.toml  >  built in

A value in either place holds for every command below the table, or the name, that it stands in,
and the nearest wins:

    model = "wan2.2-5b"        DCGRID_MODEL        all commands that have --model
    [eval]
    model = "mini"             DCGRID_EVAL_MODEL   all of `dcgrid eval`
    [eval.run]
    model = "tiny"             DCGRID_EVAL_RUN_MODEL
"""

import difflib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from dcgrid import hub
from dcgrid.cli.errors import bad_value
from dcgrid.cli.output import printable
from dcgrid.errors import DcgridError, UsageError
from dcgrid.io.schema import Document, Problem, near, parse_toml, read_toml, show
from dcgrid.io.toml_positions import KeyPath

Words = tuple[str, ...]
"""A command or a group by its words, without `dcgrid`."""

OWN_VARIABLES = frozenset(
    f"DCGRID_{name}" for name in ("CONFIG", "CONFIG_DIR", "CACHE_DIR", "HOME", "TRACEBACK")
)
"""Variables that are no option's."""
FREE_TEXT = ("TEXT", "SCENE")
"""What options are said to take whose commas are a sentence's."""
_OWN_ONLY: Mapping[Words, frozenset[str]] = {
    # A manifest is repeated the same whatever is set for other commands.
    ("rerun",): frozenset({"device", "out", "input", "force", "dry-run"})
}
"""Options that take only what is set for their very command."""
_TYPES: Mapping[type, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"),
    int: (int, "an integer"),
    float: ((int, float), "a number"),
}
"""What TOML has for options of a type; for all others a string."""
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_HINT = "`dcgrid config show` lists what is set, `dcgrid config path` names the file"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it comes from."""

    value: Any
    """As TOML has it."""
    origin: str
    """Name of the variable, or file and line."""


class Options:
    """The options of every command of a tree.

    Args:
        tree: The program.
    """

    def __init__(self, tree: TyperGroup) -> None:
        self._tree = tree

    @cached_property
    def commands(self) -> Mapping[Words, Mapping[str, TyperOption]]:
        """By the words of the command and the option's long name; imports every command."""
        return dict(_leaves(self._tree))

    def of(self, words: Words) -> Mapping[str, TyperOption]:
        """Return the options of one command; of words that are none, none."""
        command: Any = self._tree
        for word in words:
            command = command.commands[word]
        return {} if hasattr(command, "commands") else _own(command)

    def under(self, words: Words) -> dict[str, list[tuple[Words, TyperOption]]]:
        """Return the options of all commands below some words, by name."""
        found: dict[str, list[tuple[Words, TyperOption]]] = {}
        for command, options in self.commands.items():
            if command[: len(words)] == words:
                for name, option in options.items():
                    if words == command or name not in _OWN_ONLY.get(command, ()):
                        found.setdefault(name, []).append((command, option))
        return found

    def levels(self) -> set[Words]:
        """Return all words that a table may have."""
        return {command[:n] for command in self.commands for n in range(len(command) + 1)}

    def keys(self) -> list[str]:
        """Return all keys that can be set."""
        levels = sorted(self.levels())
        return [".".join((*words, name)) for words in levels for name in sorted(self.under(words))]

    def problem(self, words: Words, name: str, value: object) -> str:
        """Return what is wrong with a value of TOML, as "must be 0 or more, not -1", or "".

        It must fit every command below the words that has the option.
        """
        options = self.under(words)[name]
        for command, option in options:
            if problem := _problem(command, option, value):
                return problem + f" (dcgrid {' '.join(command)})" * (len(options) > 1)
        return ""


def read_config(options: Options, *, check: bool = True) -> Document:
    """Read the user's config.toml; empty if there is none.

    Args:
        options: What it may set.
        check: False: keys and values are not looked at.

    Raises:
        UsageError: It cannot be read, is not TOML, or holds what no option takes.
    """
    path = hub.config_file()
    is_named = bool(os.environ.get("DCGRID_CONFIG"))
    if str(path) == os.devnull or not (is_named or os.path.lexists(path)):
        return Document(file=str(path), values={}, error=UsageError)
    document = read_toml(path, UsageError, hint=_HINT)
    if check:
        document.refuse(_problems(options, document.values, (), ()))
    return document


def entries(document: Document, words: Words = ()) -> dict[tuple[Words, str], tuple[Any, int]]:
    """Return the values of a checked file with their lines, by level and option."""
    found: dict[tuple[Words, str], tuple[Any, int]] = {}
    values: Any = document.values
    for word in words:
        values = values[word]
    for key, value in values.items():
        if isinstance(value, dict):
            found |= entries(document, (*words, key))
        else:
            found[words, key.replace("_", "-")] = value, document.place(*words, key).line
    return found


def parse_text(option: TyperOption, text: str) -> object:
    """Return the text of a variable, or of `config set`, as TOML would have the value.

    A list is written as in TOML, or with commas; free text is not split at them. What cannot be
    parsed stays text.
    """
    kind = _kind(option)
    if option.multiple and text.startswith("["):
        with suppress(UsageError):
            return parse_toml(f"list = {text}", "the list", UsageError).values["list"]
    if option.multiple and option.metavar not in FREE_TEXT:
        return [_parsed(kind, part.strip()) for part in text.split(",")]
    return _parsed(kind, text)


def _parsed(kind: type, text: str) -> object:
    lower = text.strip().lower()
    if kind is bool:
        return True if lower in _TRUE else False if lower in _FALSE else text
    with suppress(ValueError):
        return kind(lower) if kind in (int, float) else text
    return text


def variable(words: Words, name: str) -> str:
    """Return the name of the variable that sets an option for all commands below some words."""
    return "_".join(("dcgrid", *words, name)).upper().replace("-", "_")


def command_words(tree: TyperGroup, arguments: Sequence[str]) -> Words:
    """Return the words of the command that a command line runs, as far as they are one."""
    words: Words = ()
    place: Any = tree
    for word in arguments:
        if word not in getattr(place, "commands", {}):
            break
        words, place = (*words, word), place.commands[word]
    # `dcgrid eval CLIPS` is `dcgrid eval run CLIPS`.
    return (*words, "run") if words == ("eval",) and len(arguments) > 1 else words


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is set for the options of the command that runs."""

    options: Options
    """Those of all commands."""
    words: Words
    """The command."""
    by_option: Mapping[str, Setting]
    """By the option's long name."""
    problem: DcgridError | None = None
    """What is wrong with the file, or with a value."""

    @classmethod
    def read(cls, tree: TyperGroup, arguments: Sequence[str]) -> "Settings":
        """Read variables and config.toml for a command line; nothing is raised."""
        options, words = Options(tree), command_words(tree, arguments)
        if {"-h", "--help"} & {*arguments} or {*arguments} <= {"-V", "--version"}:
            return cls(options=options, words=words, by_option=_set_if_right(options, words))
        problem: DcgridError | None = None
        found: dict[str, Setting] = {}
        try:
            found = settings_of(options, words, read_config(options))
        except DcgridError as error:
            # The commands that show and mend it.
            problem = None if words[:1] == ("config",) else error
        return cls(options=options, words=words, by_option=found, problem=problem)

    @property
    def asks_for_json(self) -> bool:
        """True: the result is JSON if the command line says nothing else."""
        return "format" in self.by_option and self.by_option["format"].value == "json"

    def check(self) -> None:
        """Warn of variables that are likely misspelt.

        Raises:
            UsageError: The file, or a value, is wrong.
        """
        for line in unknown_variables(self.options):
            sys.stderr.write(f"warning: {printable(line)}\n")
        if self.problem is not None:
            raise self.problem

    def of_command(self, words: Words) -> dict[str, Setting]:
        """Return what is set for the options of another command, as its command line would have it.

        Raises:
            UsageError: The file, or a value, is wrong.
        """
        own = self.options.of(words)
        found = settings_of(self.options, words, read_config(self.options))
        return {
            name: Setting(_given(own[name], one.value), one.origin) for name, one in found.items()
        }

    def as_defaults(self) -> dict[str, Any]:
        """Return the values as Typer's `default_map` of the whole tree."""
        own = self.options.of(self.words)
        values: dict[str, Any] = {
            own[name].name: _given(own[name], setting.value)
            for name, setting in self.by_option.items()
        }
        for word in reversed(self.words):
            values = {word: values}
        return values

    def origins(self, context: typer.Context) -> dict[str, str]:
        """Return where the options that are not as they are built in have their values from.

        Args:
            context: The parsed command line.

        Returns:
            By long name: "command line", a variable, or a file and its line.
        """
        found = {}
        for name, option in self.options.of(self.words).items():
            source = context.get_parameter_source(option.name)
            if source is not None and source.name == "COMMANDLINE":
                found[name] = "command line"
            elif source is not None and source.name == "DEFAULT_MAP":
                found[name] = self.by_option[name].origin
        return found


def settings_of(options: Options, words: Words, document: Document) -> dict[str, Setting]:
    """Return what variables and the file say of a command's options, by long name.

    Raises:
        UsageError: A value is none that the option takes.
    """
    in_file = entries(document)
    found: dict[str, Setting] = {}
    for name, option in options.of(words).items():
        lowest = len(words) if name in _OWN_ONLY.get(words, ()) else 0
        levels = [words[:n] for n in range(len(words), lowest - 1, -1)]
        variables = (variable(level, name) for level in levels)
        named = next((one for one in variables if os.environ.get(one)), None)
        placed = next((level for level in levels if (level, name) in in_file), None)
        if named is not None:
            found[name] = Setting(parse_text(option, os.environ[named]), named)
        elif placed is not None:
            value, line = in_file[placed, name]
            found[name] = Setting(value, f"{document.file}:{line}")
        else:
            continue
        if problem := _problem(words, option, found[name].value):
            raise UsageError(f"{found[name].origin}: --{name} {problem}", hint=_HINT)
    return found


def _set_if_right(options: Options, words: Words) -> dict[str, Setting]:
    with suppress(DcgridError):
        return settings_of(options, words, read_config(options))
    return {}


def unknown_variables(options: Options) -> list[str]:
    """Return a warning for each variable that is likely a misspelt one of ours."""
    others = {name for name in os.environ if name.startswith("DCGRID_")} - OWN_VARIABLES
    if not others:
        return []
    known = {variable(words, name) for words in options.levels() for name in options.under(words)}
    found = []
    for name in sorted(others - known):
        if like := difflib.get_close_matches(name, known, n=1, cutoff=0.85):
            found.append(f"{name} sets no option; did you mean {like[0]}?")
    return found


def _leaves(command: Any, words: Words = ()) -> Iterator[tuple[Words, dict[str, TyperOption]]]:  # noqa: ANN401 - of Typer
    for name, inner in getattr(command, "commands", {}).items():
        yield from _leaves(inner, (*words, name))
    if not hasattr(command, "commands") and not command.hidden:
        yield words, _own(command)


def _own(command: Any) -> dict[str, TyperOption]:  # noqa: ANN401 - of Typer
    options = [one for one in command.params if one.param_type_name == "option"]
    return {max(one.opts, key=len).removeprefix("--"): one for one in options}


def _problems(
    options: Options, values: Mapping[str, Any], words: Words, path: KeyPath
) -> Iterator[Problem]:
    """Yield the keys of a table that no option has, or with a value that it does not take."""
    tables = {level[len(words)] for level in options.levels() if level[:-1] == words and level}
    known = options.under(words)
    seen: set[str] = set()
    for key, value in values.items():
        name, place = key.replace("_", "-"), (*path, key)
        if isinstance(value, dict) and key in tables:
            yield from _problems(options, value, (*words, key), place)
        elif name in known:
            problem = options.problem(words, name, value)
            if name in seen:
                problem = "stands there twice, with - and with _"
            seen.add(name)
            if problem:
                yield place, problem
        elif key in tables:
            several = isinstance(value, list) and value and isinstance(value[0], dict)
            problem = f"must be a table: write [{'.'.join((*words, key))}] once"
            yield (*place, 0) if several else place, problem
        else:
            thing = "command" if isinstance(value, dict) else "option"
            what = " ".join(("dcgrid", *words)) if words or thing == "command" else "any command"
            yield place, f"is no {thing} of {what}{near(name, [*known, *tables])}"


def _problem(words: Words, option: TyperOption, value: object) -> str:
    """Return what is wrong with a value of TOML for one option, as Typer would find it, or ""."""
    if problem := _wrong_type(option, value):
        return problem
    context = typer.Context(TyperCommand(words[-1]), info_name=words[-1])
    try:
        option.process_value(context, _given(option, value))
    except typer.TyperException as error:
        return bad_value(error) or f"cannot be {show(value)}: {error.format_message()}"
    except DcgridError as error:
        return f"does not fit: {error.message}"
    return ""


def _wrong_type(option: TyperOption, value: object) -> str:
    kind = _kind(option)
    types, what = _TYPES.get(kind, (str, "a string"))
    many = value if option.multiple and isinstance(value, list) else [value]
    if all(isinstance(one, types) and isinstance(one, bool) == (kind is bool) for one in many):
        return ""
    return f"must be {what}{', or a list of such' * option.multiple}, not {show(value)}"


def _kind(option: TyperOption) -> Any:  # noqa: ANN401 - a type, or a Literal
    annotation = option.type_descriptor.annotation
    return annotation.__args__[0] if option.multiple else annotation


def _given(option: TyperOption, value: Any) -> Any:  # noqa: ANN401 - of TOML
    """Return a value as the command line would give it: ~ is the home folder, a list a list."""
    if option.multiple and not isinstance(value, list):
        value = [value]
    if isinstance(value, list):
        return [os.path.expanduser(one) if isinstance(one, str) else one for one in value]
    is_path = isinstance(value, str) and option.metavar not in FREE_TEXT
    return os.path.expanduser(value) if is_path else value
