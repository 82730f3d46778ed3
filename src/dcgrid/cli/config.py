"""`dcgrid config`: what options are where the command line does not give them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dcgrid import hub
from dcgrid.cli import complete, defaults
from dcgrid.cli.defaults import Options, Words
from dcgrid.cli.help import App
from dcgrid.cli.options import FormatOption
from dcgrid.cli.output import Format, Output
from dcgrid.errors import UsageError
from dcgrid.io.atomic import write_whole
from dcgrid.io.locks import run_lock
from dcgrid.io.schema import Document, near, parse_toml
from dcgrid.io.toml_positions import KeyPath, value_end

app = App(
    help="Show and change the defaults of options: config.toml and DCGRID_* variables.",
    no_args_is_help=True,
)
_BUILT_IN = "built in"

_Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="An option after its command, as edit.model or eval.run.suite; without one, as model: "
        "for all commands that have it.",
        autocompletion=complete.config_keys,
    ),
]


@app.command("show")
def show_config(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="Show all options of this one.", show_default=False),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show all options of all commands.")
    ] = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show what options are by default, and where each value comes from.

    Without --all or a command only what is set. The order: command line, then DCGRID_EDIT_MODEL,
    DCGRID_MODEL, then in config.toml [edit] model, model, then what is built in.
    """
    options = _options(context)
    under: Words = tuple(command or ())
    if under not in options.levels():
        known = [" ".join(words) for words in options.levels()]
        raise UsageError(f"there is no command {' '.join(under)!r}{near(' '.join(under), known)}")
    with Output(format_=format_) as output:
        document = defaults.read_config(options)
        rows = _rows(options, under, document)
        is_all = everything or bool(under) or format_ is Format.JSON
        shown = rows if is_all else [one for one in rows if one["from"] != _BUILT_IN]
        width = max((len(one["key"]) for one in shown), default=0)
        lines = [f"config file: {document.file}{'' if document.values else ' (nothing in it)'}"]
        lines += [f"{one['key']:<{width}}  {_toml(one['value'])}  ({one['from']})" for one in shown]
        if not is_all:
            lines.append(f"{len(rows) - len(shown)} more are built in; --all shows them")
        output.result(lines, {"file": Path(document.file), "settings": shown})


@app.command("path")
def show_path(format_: FormatOption = Format.TEXT) -> None:
    """Print the path of config.toml, whether it is there or not; DCGRID_CONFIG names another."""
    with Output(format_=format_) as output:
        path = hub.config_file().absolute()
        output.result([str(path)], {"path": path, "exists": path.exists()})


@app.command("set")
def set_value(
    context: typer.Context,
    key: _Key,
    value: Annotated[
        list[str],
        typer.Argument(metavar="VALUE", help="The value; several for an option that is a list."),
    ],
    format_: FormatOption = Format.TEXT,
) -> None:
    """Set the default of an option; comments and everything else in the file stay.

    Values are checked as on the command line. Write -- before a value that begins with a dash.
    """
    options = _options(context)
    words, name = _found(options, key)
    option = options.under(words)[name][0][1]
    if len(value) > 1 and not option.multiple:
        raise UsageError(f"--{name} takes one value, not {len(value)}", hint="quote the value")
    parsed = [defaults.parse_text(option, one) for one in value]
    flat = [one for part in parsed for one in (part if isinstance(part, list) else [part])]
    new = flat if option.multiple and len(flat) > 1 else flat[0] if flat else []
    if problem := options.problem(words, name, new):
        raise UsageError(f"{key} {problem}", hint=" ".join(("dcgrid", *words, "--help")))
    with Output(format_=format_) as output, _locked():
        document = _editable(options)
        _write(document, _with_key(document, words, name, new), (*words, name), new)
        line = f"{'.'.join((*words, name))} = {_toml(new)}  ({document.file})"
        output.result([line], {"key": key, "value": new, "file": Path(document.file)})


@app.command("unset")
def unset(context: typer.Context, key: _Key, format_: FormatOption = Format.TEXT) -> None:
    """Take an option out of config.toml; one that is unknown, too."""
    options = _options(context)
    with Output(format_=format_) as output, _locked():
        document = _editable(options)
        path = _path_in(document, tuple(key.split(".")))
        if path is None:
            _found(options, key)
            output.result([f"{key} is not set in {document.file}"], {"key": key, "removed": False})
            return
        text, position = document.text, document.positions[path]
        start = text.rfind("\n", 0, position.key) + 1
        end = text.find("\n", value_end(text, position.value)) + 1 or len(text)
        _write(document, text[:start] + text[end:], path, None)
        output.result([f"{key} is no longer set in {document.file}"], {"key": key, "removed": True})


def _options(context: typer.Context) -> Options:
    tree: Any = context.find_root().command
    return Options(tree)


def _rows(options: Options, under: Words, document: Document) -> list[dict[str, Any]]:
    rows = []
    for words, known in sorted(options.commands.items()):
        if words[: len(under)] != under:
            continue
        found = defaults.settings_of(options, words, document)
        for name, option in known.items():
            setting = found.get(name)
            value = option.default if setting is None else setting.value
            origin = _BUILT_IN if setting is None else setting.origin
            rows.append({"key": ".".join((*words, name)), "value": value, "from": origin})
    return rows


def _found(options: Options, key: str) -> tuple[Words, str]:
    """Return the level and the option that a key names.

    Raises:
        UsageError: There is none.
    """
    *words, name = key.replace("_", "-").split(".")
    if tuple(words) not in options.levels() or name not in options.under(tuple(words)):
        raise UsageError(
            f"there is no option {key!r}{near(key, options.keys())}",
            hint="write COMMAND.OPTION, as edit.model, or OPTION for all commands that have it",
        )
    return tuple(words), name


def _locked() -> Any:  # noqa: ANN401 - a context manager
    path = hub.config_file()
    return run_lock(path.parent, f".{path.name}.lock", f"another process writes {path}")


def _editable(options: Options) -> Document:
    """Return config.toml as it is, with keys that are wrong; a new one is empty."""
    path = hub.config_file()
    if not path.exists():
        return Document(file=str(path), values={}, error=UsageError)
    return defaults.read_config(options, check=False)


def _path_in(document: Document, path: KeyPath) -> KeyPath | None:
    """Return a key of a file as it is spelt there; None: it has no line of its own."""
    spelt = {_dashed(known): known for known in document.positions}
    return spelt.get(_dashed(path))


def _dashed(path: KeyPath) -> KeyPath:
    return tuple(str(one).replace("_", "-") for one in path)


def _with_key(document: Document, words: Words, name: str, value: object) -> str:
    """Return the text of a file with a key set: in its line, or else in one of its own."""
    text, positions = document.text, document.positions
    path = _path_in(document, (*words, name))
    if path is not None:
        start = positions[path].value
        old = text[start : value_end(text, start)].rstrip()
        return text[:start] + _toml(value) + text[start + len(old) :]
    # Keys of a table without a header of its own are dotted: edit.seed = 1.
    heads = [words[:n] for n in range(len(words) + 1) if words[:n] in positions]
    dotted = words[len(max(heads, key=len, default=())) :]
    line = f"{name} = {_toml(value)}\n"
    inside = [one for one in positions if one[:-1] == words and not _is_header(document, one)]
    if inside:  # after the last key of its table
        line = ".".join((*dotted, line))
        last = max(positions[one].value for one in inside)
        end = text.find("\n", value_end(text, last)) + 1 or len(text)
    elif words in positions:  # a table without keys
        end = text.find("\n", positions[words].key) + 1 or len(text)
    elif words:
        end, line = len(text), f"{'' if not text else chr(10)}[{'.'.join(words)}]\n{line}"
    else:  # before the first table
        headers = [positions[one].key for one in positions if _is_header(document, one)]
        end = min(headers, default=len(text))
        line += "\n" if headers else ""
    before = text[:end]
    return before + ("\n" if before and not before.endswith("\n") else "") + line + text[end:]


def _is_header(document: Document, path: KeyPath) -> bool:
    return document.positions[path].key == document.positions[path].value


def _write(document: Document, text: str, path: KeyPath, value: object) -> None:
    """Write a changed file if it means what was meant; None: the key is gone.

    Raises:
        UsageError: It does not: the file has a form that is not changed here.
    """
    expected = json.loads(json.dumps(document.values, default=str))
    table = expected
    for word in path[:-1]:
        table = table.setdefault(word, {})
    spelt = _path_in(document, path) or path
    table.pop(spelt[-1], None)
    if value is not None:
        table[spelt[-1]] = value
    try:
        found = parse_toml(text, document.file, UsageError).values
        plain = json.loads(json.dumps(found, default=str))
        meant = _without_empty(plain) == _without_empty(expected)
    except (UsageError, TypeError):
        meant = False
    if not meant:
        raise UsageError(
            f"{document.file} has {'.'.join(map(str, path))} in a form that cannot be changed here",
            hint="change it with an editor: `option = value` lines in the [table] of a command",
        )
    # A link to a file elsewhere stays a link.
    write_whole(Path(document.file).resolve(), text, hint="`dcgrid config path` names the file")


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    inner = {
        key: _without_empty(one) if isinstance(one, dict) else one for key, one in values.items()
    }
    return {key: one for key, one in inner.items() if one != {}}


def _toml(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
