"""Nothing that others wrote reaches the terminal raw: names, recipes, headers, answers."""

import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest

from dcgrid.cli import errors
from dcgrid.cli.main import main
from dcgrid.cli.output import Format, Output, printable
from dcgrid.errors import WeightsError

EVIL = "\x1b[2J\x1b]0;title\x07 \x9b31m \u202egnp.exe \u2066\u200b\ufeff\x7f\r\x08 \udcff\nhint: rm"
RECIPE = r"""
name = "evil"
title = "\u202Eevil \u2066\u200b\uFEFF"
kind = "tone"
deterministic = true
clause = "at night\u202E under \u2066 dim moonlight\u200b, evil"
phrases = ["at \u202Enight", "a", "b", "c", "d", "e", "f", "g"]
"""


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_every_character_shows_and_twice_is_as_once() -> None:
    for code in range(sys.maxunicode + 1):
        shown = printable(f"a{chr(code)}b")
        assert shown.isprintable()
        if unicodedata.category(chr(code)) not in {"Zs", "Cc"}:
            assert (shown == f"a{chr(code)}b") == chr(code).isprintable()
    assert printable(printable(EVIL)) == printable(EVIL)
    assert printable("a\u202eb\x1bc\nd") == r"a\u202eb\x1bc\nd"
    drawing = "r.toml:1:2: wrong\n    key = 1\n    ^^^"
    assert printable(drawing) == drawing


def test_results_notes_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with Output() as output:
        output.start(EVIL)
        output.note(EVIL)
        output.warn(EVIL)
        output.result([EVIL], {})
    out, err = capsys.readouterr()
    assert is_clean(out)
    assert is_clean(err)
    assert out.count("\n") == 1
    assert err.count("\n") == 3
    Output(format_=Format.JSON).result([], {"name": EVIL})
    out, _ = capsys.readouterr()
    assert is_clean(out)
    assert json.loads(out) == {"name": EVIL}


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"a": [float("nan"), 1.5], "b": {"c": float("inf")}, "d": (float("-inf"), "NaN")}
    Output(format_=Format.JSON).result([], values)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    read = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert read == {"a": [None, 1.5], "b": {"c": None}, "d": [None, "NaN"]}


@pytest.mark.parametrize("trace", ["", "1"])
def test_errors(
    trace: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCGRID_TRACEBACK", trace)
    errors.report(WeightsError(EVIL, hint=EVIL))
    errors.report(ValueError(EVIL))
    err = capsys.readouterr().err
    assert is_clean(err)
    if not trace:
        assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"] * 2


def test_progress_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Output() as output:
        output.start(f"[red]{EVIL}", 3)
        output.update(1)
        output.note(EVIL)
    shown = terminal.getvalue()
    assert "[red]" in shown
    for raw in ("\x1b[2J", "\x1b]0", "\x07", "\x9b", "\u202e", "\u2066", "\x7f", "\x08"):
        assert raw not in shown
    assert r"\u202egnp.exe" in shown


def test_recipes_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCGRID_CONFIG_DIR", str(tmp_path))
    folder = tmp_path / "recipes" / "effects"
    folder.mkdir(parents=True)
    (folder / "evil.toml").write_text(RECIPE)
    wrong = tmp_path / "\x1b[2J\nhint: evil.toml"
    wrong.write_text(RECIPE.replace("evil", r"\u001b[2J\u009B31m\nevil\u007F\r"))
    for words, code in (
        (["list"], 0),
        (["show", "evil"], 0),
        (["check", str(folder)], 0),
        (["check"], 0),
        (["render", "--effect", "evil"], 0),
        (["show", "ev\u202eil\x1b[2J"], 3),
        (["check", str(wrong)], 3),
        (["show", str(wrong)], 3),
    ):
        assert main(["recipes", *words]) == code
        out, err = capsys.readouterr()
        assert is_clean(out), words
        assert is_clean(err), words
        assert "evil" in out or "ev" in err
        assert not [line for line in out.splitlines() if line.startswith("hint")]
        assert [line.split(":")[0] for line in err.splitlines() if line[0] != " "] == (
            ["error", "hint"] if code else []
        )


def test_names_of_files(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = clip.with_name("a\x1b[2J\u202e\nhint: rm.mp4")
    clip.rename(evil)
    assert main(["edit", str(evil), "-e", "rain", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert is_clean(out)
    assert err == "planning ...\n"
    assert not [line for line in out.splitlines() if line.startswith("hint")]
    evil.write_bytes(b"no video")
    assert main(["edit", str(evil), "-e", "rain"]) == 3
    out, err = capsys.readouterr()
    assert is_clean(err)
    begun = [line.split(":")[0] for line in err.splitlines() if line != "planning ..."]
    assert begun == ["error", "hint"]
