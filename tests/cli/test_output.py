"""Progress: one bar for the whole run on a terminal, lines in a log file, nothing in between."""

import json
import os
import pty
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dcgrid.cli.main import main
from dcgrid.cli.output import Output
from dcgrid.cli.progress_bar import LogLines
from dcgrid.io import progress as module
from dcgrid.io.progress import Tracker
from tests.terminal import Screen

STAGES = (("loading", 1.0), ("window 1 of 2: sampling", 4.0), ("window 2 of 2: sampling", 4.0))
SMALL = ("--model", "tiny", "--num-inference-steps", "2")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def log(tracker: Tracker) -> tuple[list[str], LogLines, Callable[..., None]]:
    """Return the lines, what writes them, and what begins a stage."""
    lines: list[str] = []
    view = LogLines(lines.append)

    def begin(stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        view.begin(tracker.start(stage, total, done=0, in_bytes=in_bytes))

    return lines, view, begin


def test_stages_take_their_share_of_the_whole(clock: list[float]) -> None:
    tracker = Tracker((*STAGES, ("encoding", 1.0)))
    shares = []
    for stage, total in (
        (STAGES[0][0], None),
        (STAGES[1][0], 4),
        (STAGES[2][0], 4),
        ("encoding", 2),
    ):
        shares.append(tracker.start(stage, total, done=0, in_bytes=False).share)
        for done in range(1, (total or 0) + 1):
            clock[0] += 1
            shares.append(tracker.now(done).share)
    assert shares == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.95, 1]
    )


def test_stages_that_nobody_announced_move_the_bar_on_and_never_back(clock: list[float]) -> None:
    tracker = Tracker(STAGES)
    last = 0.0
    for stage in (
        "loading",
        "ranking",
        "fine-tuning",
        "window 1 of 2: sampling",
        "what?",
        "loading",
    ):
        tracker.start(stage, 2, done=0, in_bytes=False)
        for done in (1, 2):
            share = tracker.now(done).share
            assert share is not None
            assert last < share < 1
            last = share


def test_what_an_earlier_run_has_done_counts_for_the_bar_but_not_for_the_time(
    clock: list[float],
) -> None:
    tracker = Tracker(STAGES)
    tracker.start(STAGES[2][0], 4, done=0, in_bytes=False)  # the first window is there
    clock[0] += 10
    moment = tracker.now(1)
    assert moment.share == pytest.approx(6 / 9)
    assert moment.left_s == pytest.approx(30)
    training = Tracker()
    training.start("training", 1000, done=900, in_bytes=False)
    clock[0] += 10
    assert training.now(910).left_s == pytest.approx(90)


def test_times_of_earlier_runs_count_while_little_is_done(clock: list[float]) -> None:
    tracker = Tracker(STAGES, 90.0)
    assert tracker.start("loading", None, done=0, in_bytes=False).left == "about 90 s left"
    tracker.start(STAGES[1][0], 4, done=0, in_bytes=False)
    clock[0] += 100
    assert 40 < (tracker.now(4).left_s or 0) < 80  # twice as slow as earlier runs


def test_a_line_each_tenth_of_the_run_with_the_time_left(clock: list[float]) -> None:
    lines, view, begin = log(tracker := Tracker(STAGES))
    for stage, _ in STAGES:
        begin(stage, 100)
        for done in range(1, 101):
            clock[0] += 0.1
            view.show(tracker.now(done))
    view.close()
    assert lines[0] == "loading ..."
    assert [line for line in lines if line.endswith("...")] == [
        "loading ...",
        "window 1 of 2: sampling ...",
    ]
    told = [line for line in lines if "%" in line]
    assert 8 <= len(told) <= 9
    assert all(re.fullmatch(r".+: \d+%, about \d+ (s|min) left", line) for line in told)
    assert told[-1].startswith("window 2 of 2: sampling: ")


@pytest.mark.parametrize("total", [1000, None])
def test_a_slow_stage_says_something_each_30_s(clock: list[float], total: int | None) -> None:
    lines, view, begin = log(tracker := Tracker())
    begin("sampling", total)
    for done in range(1, 31):
        clock[0] += 3
        view.show(tracker.now(done // 10))
        view.beat()
    view.close()
    assert len(lines) == 4
    assert lines[3] == ("sampling: 0%, about 8.3 h left" if total else "sampling: 90 s so far")


def test_nothing_is_said_of_a_stage_that_is_done(clock: list[float]) -> None:
    lines, view, begin = log(tracker := Tracker())
    begin("loading", 3)
    view.show(tracker.now(3))
    view.close()
    assert lines == ["loading ..."]


def test_a_download_is_counted_in_gigabytes(clock: list[float]) -> None:
    tracker = Tracker()
    tracker.start("downloading", None, done=0, in_bytes=True)
    clock[0] += 10
    moment = tracker.now(3_000_000_000, 12_000_000_000)
    assert (moment.amount, moment.percent, moment.left) == (
        "3.00 of 12.00 GB",
        "25%",
        "about 30 s left",
    )


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.start("writing", 4)
    output.update(2)
    assert capsys.readouterr().err == ""


def test_a_log_file_of_an_edit(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", str(clip), "-e", "rain", *SMALL]) == 0
    shown = capsys.readouterr().err
    assert shown.startswith("planning ...\n")
    for stage in ("reading", "loading", "sampling", "enlarging and encoding"):
        assert re.search(rf"^(window 1 of \d: )?{stage}.* \.\.\.$", shown, flags=re.MULTILINE)
    shares = [int(one) for one in re.findall(r": (\d+)%, about \d+ s left$", shown, re.MULTILINE)]
    assert shares == sorted(set(shares))
    assert 4 <= len(shares) <= 10
    assert "\r" not in shown
    assert "\x1b" not in shown


def on_terminal(
    monkeypatch: pytest.MonkeyPatch, words: list[str], columns: int = 80
) -> tuple[int, Screen, str]:
    """Run a command with a terminal as its stderr; return exit code, screen and what came."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    master, slave = pty.openpty()
    screen, pieces = Screen(columns), []

    def read() -> None:
        while piece := os.read(master, 65536):
            if piece.endswith(b"\0"):
                break
            pieces.append(piece)
            screen.feed(piece.decode())

    reader = threading.Thread(target=read)
    reader.start()
    with open(slave, "w", encoding="utf-8", closefd=True) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        code = main(words)
        stream.flush()
        time.sleep(0.3)  # what is written is read by then
        stream.write("\0")
        stream.flush()
        reader.join(10)
    monkeypatch.undo()
    os.close(master)
    return code, screen, b"".join(pieces).decode()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_shows_one_bar_for_the_whole_run(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    words = ["edit", str(clip), "-e", "rain", *SMALL, "--format", "json"]
    code, screen, _ = on_terminal(monkeypatch, words, columns)
    assert code == 0
    assert json.loads(capsys.readouterr().out)["files"]
    assert max(map(len, screen.bars)) == 1
    bars = [bar for (bar,) in filter(None, screen.bars)]
    labels = " ".join(bars)
    for stage in ("planning", "reading", "loading", "sampling", "enlarging"):
        assert stage in labels
    shares = [int(one) for bar in bars for one in re.findall(r"(\d+)%", bar)]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert all(len(bar) <= columns for bar in bars)
    assert not [line for line in screen.lines if "━" in line], "the bar is taken down"
    assert "Grid: 2x2" in "\n".join(screen.lines)


def test_a_terminal_is_told_of_an_error_below_no_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    code, screen, _ = on_terminal(monkeypatch, ["edit", str(tmp_path / "a.mp4"), "-e", "rain"])
    assert code == 3
    begun = [line for line in screen.lines if line.startswith(("error: ", "hint: "))]
    assert len(begun) == 2
    assert "━" not in "".join(screen.lines)


@pytest.mark.parametrize(
    "words",
    [["doctor"], ["models", "list"], ["eval", "metrics"], ["adapters", "list"]],
    ids=" ".join,
)
def test_commands_that_only_look_show_that_they_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, screen, _ = on_terminal(monkeypatch, words)
    assert code == 0
    assert any(screen.bars)
    assert not "".join(screen.lines).strip()
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().err == "", "a log file gets the result alone"
