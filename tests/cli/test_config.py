"""Defaults of options from config.toml and DCGRID_* variables, and `dcgrid config`."""

import json
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcgrid.cli.app import command_tree
from dcgrid.cli.defaults import Options, Settings, Words, variable
from dcgrid.cli.main import main

TREE = command_tree()
OPTIONS = Options(tree=TREE)
ALL = [(words, name) for words, known in OPTIONS.commands.items() for name in known]
# Of options that several commands share one.
EACH = {
    (name, str(option.type_descriptor.annotation), option.help): (words, name)
    for words, known in OPTIONS.commands.items()
    for name, option in known.items()
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config" / "config.toml"
    path.parent.mkdir()
    monkeypatch.setenv("DCGRID_CONFIG", str(path))
    path.write_text("")
    return path


def command_of(words: Words) -> Any:
    command: Any = TREE
    for word in words:
        command = command.commands[word]
    return command


def parsed(words: Words, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what a command would get, with what it needs beside the arguments."""
    command, got = command_of(words), {}
    monkeypatch.setattr(command, "callback", lambda **values: got.update(values))
    needed = ["x" for one in command.params if one.param_type_name == "argument" and one.required]
    line = [*words, *arguments, "--", *needed]
    settings = Settings.read(TREE, line)
    settings.check()
    TREE.main(
        line, "dcgrid", standalone_mode=False, default_map=settings.as_defaults(), obj=settings
    )
    return got


def sample(option: Any) -> tuple[object, list[str]]:
    """Return a value that an option takes, in TOML's types, and its words on the command line."""
    name = max(option.opts, key=len)
    annotation = option.type_descriptor.annotation
    kind = annotation.__args__[0] if option.multiple else annotation
    choices = option.type_descriptor.choices
    one: Any
    if option.is_flag:
        value = option.default is not True
        return value, [name if value else option.secondary_opts[0]]
    if choices:
        one = next(str(one) for one in choices if one != option.default)
    elif kind is int:
        one = int(option.min or 0) + 1
    elif kind is float:
        one = (option.min or 0) + 0.5
    else:
        one = {"WxH": "640x352", "TEXT": "a cat, asleep"}.get(option.metavar, "some-name")
    if option.multiple:
        return [one, one], [name, str(one), name, str(one)]
    return one, [name, str(one)]


def toml(value: object) -> str:
    return json.dumps(value)


def required(words: Words, but: str) -> list[str]:
    known = OPTIONS.commands[words].items()
    missing = [option for name, option in known if option.required and name != but]
    return [word for one in missing for word in sample(one)[1]]


@pytest.mark.parametrize(("words", "name"), EACH.values())
def test_any_option_of_any_command_can_be_set_in_each_way(
    words: Words, name: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = OPTIONS.commands[words][name]
    value, line = sample(option)
    more = required(words, name)
    expected = parsed(words, [*more, *line], monkeypatch)
    if not option.required:
        assert parsed(words, more, monkeypatch) != expected
    config.write_text(f"[{'.'.join(words)}]\n{name} = {toml(value)}\n")
    assert parsed(words, more, monkeypatch) == expected
    config.write_text("")
    assert main(["config", "set", ".".join((*words, name)), "--", *map(str, flat(value))]) == 0
    assert tomllib.loads(config.read_text()) != {}
    assert parsed(words, more, monkeypatch) == expected
    config.write_text("")
    monkeypatch.setenv(variable(words, name), toml(value) if option.multiple else text(value))
    assert parsed(words, more, monkeypatch) == expected
    # The command line wins, with the opposite of a switch, too.
    other = option.secondary_opts[:1] if value is True else []
    if other:
        assert parsed(words, [*more, *other], monkeypatch)[option.name] is False


def flat(value: object) -> list[object]:
    return [text(one) for one in value] if isinstance(value, list) else [text(value)]


def text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_no_two_options_have_one_variable() -> None:
    keys = [(words, name) for words in OPTIONS.levels() for name in OPTIONS.under(words)]
    names = {variable(*key) for key in keys}
    assert len(names) == len(keys)
    assert not names & {"DCGRID_CONFIG", "DCGRID_CONFIG_DIR", "DCGRID_CACHE_DIR", "DCGRID_HOME"}


PLACES: list[tuple[str, Callable[[Path, pytest.MonkeyPatch], object]]] = [
    ("2", lambda path, _: path.write_text("seed = 2\n")),
    ("3", lambda path, _: path.write_text("seed = 2\n[edit]\nseed = 3\n")),
    ("4", lambda _, patch: patch.setenv("DCGRID_SEED", "4")),
    ("5", lambda _, patch: patch.setenv("DCGRID_EDIT_SEED", "5")),
]


def test_the_nearest_place_wins(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [parsed(("edit",), [], monkeypatch)["seed"]]
    for _, put in PLACES:
        put(config, monkeypatch)
        seen.append(parsed(("edit",), [], monkeypatch)["seed"])
    seen.append(parsed(("edit",), ["--seed", "6"], monkeypatch)["seed"])
    assert seen == [0, 2, 3, 4, 5, 6]
    monkeypatch.setenv("DCGRID_EDIT_SEED", "")  # none
    assert parsed(("edit",), [], monkeypatch)["seed"] == 4
    assert parsed(("compose",), [], monkeypatch)["seed"] == 4


def test_a_group_hands_down(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[eval]\nsuite = "truth"\ndevice = "cpu"\n[eval.run]\ndevice = "cuda:1"\n')
    got = parsed(("eval", "run"), [], monkeypatch)
    assert (got["suite"], got["device"]) == ("truth", "cuda:1")
    assert parsed(("edit",), [], monkeypatch)["device"] == "auto"


def test_lists_and_paths_of_variables(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCGRID_EDIT_EFFECT", "rain, night")
    monkeypatch.setenv("DCGRID_EDIT_OUT", "~/videos")
    monkeypatch.setenv("DCGRID_COMPOSE_PROMPT", "fire, bright")
    got = parsed(("edit",), [], monkeypatch)
    assert got["effect"] == ["rain", "night"]
    assert got["out"] == Path.home() / "videos"
    assert parsed(("compose",), [], monkeypatch)["prompt"] == ["fire, bright"]
    monkeypatch.setenv("DCGRID_EDIT_OUT", "videos")  # of the folder that the command runs in
    assert parsed(("edit",), [], monkeypatch)["out"] == Path("videos")


def test_a_rerun_takes_only_what_is_set_for_it(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = parsed(("rerun",), [], monkeypatch)
    config.write_text('device = "cuda:3"\nout = "elsewhere"\nforce = true\ndry-run = true\n')
    monkeypatch.setenv("DCGRID_DEVICE", "cuda:4")
    assert parsed(("rerun",), [], monkeypatch) == plain
    config.write_text('[rerun]\ndevice = "cpu"\n')
    assert parsed(("rerun",), [], monkeypatch)["device"] == "cpu"


BAD_FILES = {
    "unknown option": ('[edit]\nmodle = "mini"\n', 2, "did you mean 'model'"),
    "unknown table": ('\n\n[edti]\nmodel = "mini"\n', 3, "did you mean 'edit'"),
    "unknown general option": ("sead = 3\n", 1, "did you mean 'seed'"),
    "unknown command of a group": ("[eval.rum]\nseed = 3\n", 1, "did you mean 'run'"),
    "text for a number": ('[edit]\nseed = "3"\n', 2, "must be an integer, not '3'"),
    "number for a text": ("[edit]\nmodel = 3\n", 2, "must be a string, not 3"),
    "text for a switch": ('[edit]\nforce = "yes"\n', 2, "must be true or false"),
    "switch for a number": ("[edit]\nseed = true\n", 2, "must be an integer"),
    "list for one": ("[edit]\nseed = [1]\n", 2, "must be an integer"),
    "numbers for texts": ("[edit]\neffect = [1]\n", 2, "a list of such"),
    "out of range": ("[edit]\nnum-inference-steps = 0\n", 2, "must be 1 to 1000, not 0"),
    "nan": ("[edit]\nguidance-scale = nan\n", 2, "must be 0 to 30"),
    "no choice": ('[edit]\nupsample = "no"\n', 2, "guided"),
    "no size": ('[edit]\nsize = "3"\n', 2, "WIDTHxHEIGHT"),
    "no table": ("edit = 3\n", 1, "must be a table"),
    "table of an option": ("[model]\na = 1\n", 1, "must be a string"),
    "tables": ("[[edit]]\nseed = 1\n", 1, "must be a table"),
    "twice": ("[edit]\nguidance_scale = 2\nguidance-scale = 3\n", 3, "twice"),
    "same key": ("[edit]\nseed = 2\nseed = 3\n", 3, "not TOML"),
    "no TOML": ("seed = 1\n[edit\n", 2, "not TOML"),
    "does not fit one command": ('stage = "base"\n', 1, "dcgrid adapters import"),
    "terminal escape": ('[edit]\nprompt = "\\u001b[2J"\n', 2, "U+001B"),
    "date": ("[edit]\nseed = 2020-01-01\n", 2, "must be an integer"),
    "huge": ("[edit]\nseed = " + "9" * 40 + "\n", 2, "must be 0 to"),
    "inline table": ("edit = {modle = 1}\n", 1, "did you mean 'model'"),
}


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("error: ") == 1
    assert err.count("hint: ") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("command", [["edit", "no.mp4"], ["doctor"], ["config", "show"]])
def test_a_bad_file_is_refused_at_its_line(
    name: str, command: list[str], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, line, problem = BAD_FILES[name]
    config.write_text(content)
    err = refused(capsys, command)
    assert f"{config}:{line}:" in err
    assert problem in err


@pytest.mark.parametrize("command", [["edit", "-h"], ["--version"], ["config", "path"]])
def test_a_bad_file_does_not_hide_the_help(
    command: list[str], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("[edit\n")
    assert main(command) == 0
    assert "error" not in capsys.readouterr().err


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (make_folder, "it is a folder"),
    "pipe": (make_pipe, "a pipe"),
    "no text": (lambda path: path.write_bytes(b"[edit]\nseed = \xff\n"), ":2: not UTF-8"),
    "missing": (Path.unlink, "no such file"),
    "large": (lambda path: path.write_text("#" * 2_000_000), "larger than"),
    "NUL": (lambda path: path.write_bytes(b"seed = 1\n\0"), ":2: not text"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_text_file_is_refused(
    name: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, problem = UNREADABLE[name]
    make(config)
    err = refused(capsys, ["edit", "no.mp4"])
    assert str(config) in err
    assert problem in err


def test_a_byte_order_mark_and_windows_lines_are_read(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_bytes(b"\xef\xbb\xbf[edit]\r\nseed = 3\r\n")
    assert parsed(("edit",), [], monkeypatch)["seed"] == 3
    config.write_text("[edit]\nseed = 4\n", encoding="utf-16")
    assert parsed(("edit",), [], monkeypatch)["seed"] == 4
    monkeypatch.setenv("DCGRID_CONFIG", os.devnull)
    assert parsed(("edit",), [], monkeypatch)["seed"] == 0


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("DCGRID_EDIT_SEED", "-3", "DCGRID_EDIT_SEED: --seed must be 0 or more, not -3"),
        ("DCGRID_SEED", "x", "DCGRID_SEED: --seed must be an integer, not 'x'"),
        ("DCGRID_FORCE", "maybe", "DCGRID_FORCE: --force must be true or false"),
        ("DCGRID_EDIT_FPS", "fast", "DCGRID_EDIT_FPS: --fps cannot be 'fast'"),
        ("DCGRID_EDIT_EFFECT", '["a"', ""),
    ],
)
def test_a_bad_variable_is_named(
    name: str,
    value: str,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["edit", "no.mp4"]) in (2, 3)
    assert problem in capsys.readouterr().err


def test_a_misspelt_variable_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DCGRID_EDIT_MODLE", "mini")
    monkeypatch.setenv("DCGRID_OF_SOMEBODY_ELSE", "1")
    assert main(["config", "path"]) == 0
    err = capsys.readouterr().err
    assert err == "warning: DCGRID_EDIT_MODLE sets no option; did you mean DCGRID_EDIT_MODEL?\n"


def test_json_that_is_set_holds_for_errors_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DCGRID_FORMAT", "json")
    assert main(["edit", "no.mp4"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == 3
    assert main(["edit", "no.mp4", "--format", "text"]) == 3
    assert capsys.readouterr().out == ""


FILES = [
    "",
    "# mine\n",
    'model = "mini" # small\n',
    "# top\n[edit]\n# first\nseed = 1 # one\n\n# last\n[eval.run]\nlimit = 2",
    '[edit]\neffect = [\n  "rain", # wet\n  "fog",\n]\nprompt = """\na\nb"""\n[train]\n',
    "seed = 2\n\n[story]\n[edit]\n",
    "edit.seed = 3\neval.run.limit = 4\n",
]
SETS: list[tuple[str, list[str], object]] = [
    ("model", ["tiny"], "tiny"),
    ("edit.seed", ["77"], 77),
    ("edit.effect", ["night"], "night"),
    ("edit.effect", ["night", "snow"], ["night", "snow"]),
    ("edit.prompt", ['a "big" cat\\dog, ünïcode'], 'a "big" cat\\dog, ünïcode'),
    ("edit.guidance-scale", ["2.5"], 2.5),
    ("edit.guidance_scale", ["3"], 3.0),
    ("edit.contact-sheet", ["off"], False),
    ("eval.run.limit", ["9"], 9),
    ("eval.study.make.title", ["Which?"], "Which?"),
    ("train.steps", ["5"], 5),
]


def at(values: Any, key: str) -> Any:
    for word in key.replace("_", "-").split("."):
        values = values[word]
    return values


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield from (
            leaves(value, f"{path}{key}.") if isinstance(value, dict) else [(path + key, value)]
        )


@pytest.mark.parametrize("content", FILES)
@pytest.mark.parametrize(("key", "words", "value"), SETS)
def test_set_and_unset_keep_all_else(
    key: str, words: list[str], value: object, content: str, config: Path
) -> None:
    config.write_text(content)
    before = dict(leaves(tomllib.loads(content)))
    assert main(["config", "set", key, *words]) == 0
    after = tomllib.loads(config.read_text())
    assert at(after, key) == value
    assert type(at(after, key)) is type(value)
    name = key.replace("_", "-")
    others = {one: kept for one, kept in before.items() if one != name}
    assert {one: kept for one, kept in leaves(after) if one != name} == others
    for comment in ("# mine", "# small", "# top", "# first", "# one", "# last"):
        assert (comment in content) == (comment in config.read_text())
    assert main(["config", "unset", key]) == 0
    assert dict(leaves(tomllib.loads(config.read_text()))) == others
    assert [one.name for one in config.parent.iterdir()] == ["config.toml"]


def test_a_form_that_set_cannot_keep_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text('edit = {seed = 1, model = "mini"}\n')
    assert "with an editor" in refused(capsys, ["config", "set", "edit.seed", "2"])
    assert config.read_text() == 'edit = {seed = 1, model = "mini"}\n'


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["edit.modle", "x"], "did you mean 'edit.model'"),
        (["edti.model", "x"], "did you mean 'edit.model'"),
        (["edit", "x"], "no option 'edit'"),
        (["edit.num-inference-steps", "5000"], "must be 1 to 1000, not 5000"),
        (["edit.force", "maybe"], "must be true or false"),
        (["edit.size", "3x"], "WIDTHxHEIGHT"),
        (["edit.seed", "1", "2"], "takes one value, not 2"),
        (["edit.fps", "fast"], "model"),
        (["", "x"], "no option ''"),
    ],
)
def test_set_refuses_what_the_option_refuses(
    arguments: list[str], problem: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert problem in refused(capsys, ["config", "set", *arguments])
    assert config.read_text() == ""


def test_a_wrong_key_can_be_unset(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("[edit]\nmodle = 3\nseed = 1\n")
    assert main(["config", "unset", "edit.modle"]) == 0
    assert tomllib.loads(config.read_text()) == {"edit": {"seed": 1}}
    capsys.readouterr()
    assert "edit.modle" in refused(capsys, ["config", "unset", "edit.modle"])


def test_a_link_stays_a_link_and_a_new_file_is_made(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("")
    config.unlink()
    config.symlink_to(real)
    assert main(["config", "set", "seed", "3"]) == 0
    assert config.is_symlink()
    assert tomllib.loads(real.read_text()) == {"seed": 3}
    new = tmp_path / "new" / "folder" / "my.toml"
    monkeypatch.setenv("DCGRID_CONFIG", str(new))
    assert main(["config", "set", "seed", "4"]) == 0
    assert tomllib.loads(new.read_text()) == {"seed": 4}


def test_show_says_where_each_value_comes_from(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text('[edit]\nmodel = "tiny"\n')
    monkeypatch.setenv("DCGRID_EDIT_SEED", "5")
    assert main(["config", "show", "--format", "json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["file"] == str(config)
    rows = {one["key"]: one for one in value["settings"]}
    assert {".".join((*words, name)) for words, name in ALL} == set(rows)
    assert rows["edit.model"] == {"key": "edit.model", "value": "tiny", "from": f"{config}:2"}
    assert rows["edit.seed"] == {"key": "edit.seed", "value": 5, "from": "DCGRID_EDIT_SEED"}
    assert rows["compose.model"]["from"] == "built in"
    assert main(["config", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert f'edit.model  "tiny"  ({config}:2)' in lines
    assert main(["config", "show", "edit"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(OPTIONS.commands["edit",])


def test_the_manifest_has_values_and_origins_and_is_repeated_whatever_is_set(
    clip: Path, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text('[edit]\nmodel = "tiny"\neffect = "rain"\n')
    monkeypatch.setenv("DCGRID_SEED", "5")
    assert main(["edit", str(clip), "--num-inference-steps", "1"]) == 0
    manifest = clip.parent / "input.rain.json"
    job = json.loads(manifest.read_text())["job"]
    assert (job["model"], job["effects"], job["seed"]) == ("tiny", ["rain"], 5)
    assert job["num_inference_steps"] == 1
    assert job["origins"] == {
        "effect": f"{config}:3",
        "model": f"{config}:2",
        "num-inference-steps": "command line",
        "seed": "DCGRID_SEED",
    }
    capsys.readouterr()
    # The same settings from elsewhere are the same run.
    same = ["-e", "rain", "-m", "tiny", "--seed", "5", "--num-inference-steps", "1"]
    assert main(["edit", str(clip), *same]) == 0
    assert "already there" in capsys.readouterr().out
    config.write_text('model = "mini"\nseed = 9\ndevice = "cuda:7"\nforce = true\nout = "no"\n')
    assert main(["rerun", str(manifest)]) == 0
    assert "same pixels" in capsys.readouterr().out
