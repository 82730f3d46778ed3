"""`--format json`: one JSON value on stdout whatever happens, with absolute paths and no NaN."""

import json
import math
import shutil
from pathlib import Path

import pytest

from dcgrid.cli.main import main
from dcgrid.cli.output import write_json


def value_of(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Return the one JSON value of stdout; NaN and Infinity are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    value: dict[str, object] = json.loads(capsys.readouterr().out, parse_constant=refuse)
    return value


FAILURES = {
    "usage of Typer": (["edit", "--no-such-option"], 2),
    "a missing argument": (["edit"], 2),
    "a number that is none": (["edit", "input.mp4", "--seed", "x"], 2),
    "usage of ours": (["edit", "input.mp4"], 2),
    "input": (["edit", "none.mp4", "-e", "rain"], 3),
    "recipe": (["edit", "input.mp4", "-e", "rian"], 3),
    "weights": (["edit", "input.mp4", "-e", "rain", "--adapter", "no.safetensors"], 4),
    "device": (["edit", "input.mp4", "-e", "rain", "--device", "cuda:7"], 5),
    "compose": (["compose", "input.mp4", "none.mp4"], 3),
    "story": (["story"], 2),
    "rerun": (["rerun", "none.json"], 3),
    "recipes": (["recipes", "show", "rian"], 3),
    "checked recipes": (["recipes", "check", "bad.toml"], 3),
    "models": (["models", "info", "nothing"], 2),
    "adapters": (["adapters", "info", "none.safetensors"], 4),
    "eval": (["eval", "none/"], 3),
    "a report": (["eval", "report", "none"], 3),
    "a study": (["eval", "study", "table", "none", "answers"], 3),
    "train": (["train", "--stage", "nothing"], 2),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("form", [["--format", "json"], ["--format=json"]], ids=len)
def test_errors_are_json_too(
    name: str,
    form: list[str],
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(clip.parent)
    Path("bad.toml").write_text("title = 3")
    arguments, code = FAILURES[name]
    assert main([*arguments, *form]) == code
    error = value_of(capsys)["error"]
    assert isinstance(error, dict)
    assert set(error) == {"code", "message", "hint"}
    assert error["code"] == code
    assert error["message"]


def test_an_interrupt_and_a_bug_are_json_too(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for raised, code in ((KeyboardInterrupt(), 130), (ValueError("odd"), 1)):

        def fail(*_: object, error: BaseException = raised) -> None:
            raise error

        monkeypatch.setattr("dcgrid.cli.run_job.prepare_job", fail)
        assert main(["edit", str(clip), "-e", "rain", "--format", "json"]) == code
        assert value_of(capsys)["error"]["code"] == code  # type: ignore[index]


def test_without_the_option_errors_are_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", "none.mp4", "-e", "rain"]) == 3
    assert main(["edit", "none.mp4", "-e", "rain", "--format", "text"]) == 3
    assert main(["edit", "-e", "rain", "--", "--format", "json"]) == 2
    assert capsys.readouterr().out == ""


def paths_of(value: object) -> list[str]:
    """Return all text in a value that names a file or a folder of the test."""
    if isinstance(value, dict):
        return [path for key, one in value.items() if key != "notes" for path in paths_of(one)]
    if isinstance(value, list):
        return [path for one in value for path in paths_of(one)]
    ends = (".mp4", ".json", ".png", "out")
    return [value] if isinstance(value, str) and value.endswith(ends) else []


def test_paths_are_absolute(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clip.parent)
    shutil.copy(clip, "b.mp4")
    small = ["--model", "tiny", "--duration", "0.4", "--format", "json", "--out", "out"]
    for command in (
        ["edit", "input.mp4", "-e", "rain", *small, "--dry-run"],
        ["edit", "input.mp4", "-e", "rain", *small],
        ["compose", "input.mp4", "b.mp4", *small, "--dry-run"],
        ["story", "--from", "input.mp4", "-s", "rain", *small],
        ["eval", "input.mp4", *small[:2], *small[4:], "--dry-run"],
        ["train", "--stage", "dc", *small[4:], "--dry-run"],
    ):
        assert main(command) == 0, command
        found = paths_of(value_of(capsys))
        for path in found:
            # Names of results inside a manifest are relative to it.
            assert Path(path).is_absolute() or (Path("out") / path).exists(), (command, path)
        assert found, command


def test_numbers_that_are_none_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"a": math.nan, "b": [math.inf, 1.5, -math.inf], "c": {"d": Path("x")}, "e": True})
    value = value_of(capsys)
    assert value == {
        "a": None,
        "b": [None, 1.5, None],
        "c": {"d": str(Path("x").absolute())},
        "e": True,
    }
