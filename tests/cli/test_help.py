"""`--help` of every command: panels, what matters first, no noise of types, in two widths."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from dcgrid.cli.app import command_tree
from dcgrid.cli.main import main

FIRST = {
    "edit": ["--effect", "--prompt", "--subject", "--model", "--out"],
    "compose": ["--concept", "--subject", "--prompt", "--model", "--out"],
    "story": ["--scene", "--from", "--subject", "--model", "--out"],
    "train": ["--stage", "--model", "--out", "--resume", "--fetch-world"],
    "eval run": ["--suite", "--method", "--metric", "--out", "--model"],
}
PANELS = ["Most used", "What to make", "How to make it", "Where it goes", "Machine"]


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


ALL = dict(commands(command_tree()))


def help_of(
    words: tuple[str, ...], columns: int, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_option_is_named_without_noise(
    words: tuple[str, ...],
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = help_of(words, columns, monkeypatch, capsys)
    assert max(map(len, text.splitlines())) <= columns
    assert not re.search(r"<\w|default: default|list\[|str\]|\.\.\.\.|…", text)
    flat = text.replace("--[no-]", "--")
    for one in ALL[words].params:
        named = one.opts if one.param_type_name == "option" else [one.display_name_raw.strip("[]")]
        assert all(name in flat for name in named), one.name
        if one.param_type_name == "option" and not one.hidden:
            help_words = " ".join((one.help or "").split()[:2])
            assert help_words in text, one.name


@pytest.mark.parametrize("name", FIRST)
def test_panels_come_in_their_order_and_five_options_first(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(tuple(name.split()), 80, monkeypatch, capsys)
    titles = [title for title in re.findall(r"─ ([A-Z][^─]+) ─", text) if title in PANELS]
    assert titles == PANELS
    main_panel = text.split("─ Most used ─")[1].split("╰")[0]
    assert re.findall(r"--[\w-]+(?= )", re.sub(r"(?m)^│ {10,}.*$", "", main_panel)) == FIRST[name]


def test_a_choice_and_a_range_stand_in_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(("edit",), 120, monkeypatch, capsys)
    assert "auto|none|model|block|disk" in text
    assert "[1 to 1000; default: the model's]" in text
    assert "default: 0" in text.split("--seed N")[1].splitlines()[0]
