"""Progress where there is no terminal: lines, not a moving bar."""

import re

import pytest

from dcgrid.cli import output as module
from dcgrid.cli.main import main
from dcgrid.cli.output import Output, StageLines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_each_tenth_with_the_time_left(clock: list[float]) -> None:
    lines, found = StageLines("writing", 200), []
    for done in range(1, 201):
        clock[0] += 0.5
        found.append(lines.line(done))
    said = [line for line in found if line]
    assert len(said) == 9
    assert said[0] == "writing: 10%, about 90 s left"
    assert said[-1] == "writing: 90%, about 10 s left"
    assert found[19] == said[0]


def test_a_slow_stage_says_something_each_30_s(clock: list[float]) -> None:
    lines, said = StageLines("sampling", 1000), []
    for done in range(1, 11):
        clock[0] += 10
        said.append(lines.line(done))
    assert [index for index, line in enumerate(said) if line] == [2, 5, 8]
    assert said[2] == "sampling: 0%, about 166 min left"


def test_unknown_lengths_and_ends_say_nothing() -> None:
    assert StageLines("loading", None).line(3) == ""
    assert StageLines("loading", 3).line(3) == ""
    assert StageLines("loading", None).line(1, 4) == "loading: 25%, about 0 s left"


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.start("writing", 4)
    output.update(2)
    assert capsys.readouterr().err == ""


def test_frames_are_counted_while_a_video_is_written(
    clip: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edit", str(clip), "-e", "rain", "--model", "tiny"]) == 0
    shown = capsys.readouterr().err
    assert shown.startswith("planning ...\n")
    assert len(re.findall(r"^writing: \d+%, about \d+ s left$", shown, flags=re.MULTILINE)) >= 5
