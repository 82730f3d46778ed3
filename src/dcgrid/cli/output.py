"""What a command shows: its result on stdout, everything else on stderr.

`Output` is made once a command. Human text, progress bars and plans go to stderr, so that
`--format json` leaves exactly one JSON value on stdout.
"""

import json
import math
import re
import sys
import time
import unicodedata
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


_INNER_BREAK = re.compile(r"\n(?= {4})")


NOTE_EVERY_S = 30.0
"""Seconds between lines about a slow stage where there is no terminal for a moving bar."""


class Format(StrEnum):
    """How a result is printed."""

    TEXT = "text"
    JSON = "json"


def printable(text: str) -> str:
    r"""Return text as it may go to a terminal: what does not show by itself shows as an escape.

    Names of files, recipes, headers of files and answers of servers may hold sequences that clear
    the screen, turn the direction of writing round (U+202E) or begin a line that looks like one of
    ours. A line break stays only before an indented line, which a drawing of an error begins with.
    """
    if text.isprintable():
        return text
    lines = _INNER_BREAK.split(text)
    return "\n".join("".join(map(_shown, line)) for line in lines)


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if character == "\t" or unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode()


def write_json(value: object) -> None:
    """Print one JSON value on stdout: paths are absolute, numbers that are none are null."""
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    sys.stdout.write(text.replace("\x7f", "\\u007f") + "\n")


def _plain(value: object) -> object:
    """Return a value that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value.absolute() if isinstance(value, Path) else value)


class StageLines:
    """What a log file gets of a stage: a line each 10 % of it, or each 30 s, with the time left.

    Args:
        stage: What is being done.
        total: How many steps it has; None: unknown.
    """

    def __init__(self, stage: str, total: int | None) -> None:
        self._stage, self._total = stage, total
        self._began_s = self._told_s = time.monotonic()
        self._told_share = 0.0

    def line(self, done: int, total: int | None = None) -> str:
        """Return what there is to say after so many steps; empty: nothing yet, or no more."""
        total = total or self._total
        if not total or not 0 < done < total:
            return ""
        now_s, share = time.monotonic(), done / total
        if share < self._told_share + 0.1 - 1e-9 and now_s < self._told_s + NOTE_EVERY_S:
            return ""
        self._told_s, self._told_share = now_s, share
        left_s = (now_s - self._began_s) * (1 - share) / share
        left = f"{left_s:.0f} s" if left_s < 100 else f"{left_s / 60:.0f} min"
        return f"{self._stage}: {share:.0%}, about {left} left"


class Output:
    """One command's sink for results, notes and progress.

    Used as a context manager: progress bars need to be taken down, also after an error. It has
    the methods that pipelines call for progress (`start`, `update`, `note`).
    """

    def __init__(self, *, format_: Format = Format.TEXT, quiet: bool = False) -> None:
        self.format = format_
        self.quiet = quiet
        self.muted = False
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._lines = StageLines("", None)

    def __enter__(self) -> Self:
        """Return self; the first `start` puts up the bars."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take down the progress bars."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def mute(self) -> None:
        """Show nothing from now on, results and warnings included: another process does."""
        self.quiet = self.muted = True

    def result(self, lines: Iterable[str], value: Mapping[str, object]) -> None:
        """Print the result of the command: lines for people, or the value as JSON.

        Args:
            lines: What a person reads; `--quiet` leaves them out.
            value: What a program reads.
        """
        self.__exit__(None, None, None)
        if self.muted:
            return
        if self.format == Format.JSON:
            write_json(value)
        elif not self.quiet:
            sys.stdout.writelines(f"{printable(line)}\n" for line in lines)

    def note(self, line: str) -> None:
        """Print one line on stderr unless quiet."""
        if self.quiet:
            return
        line = printable(line)
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(f"{line}\n")

    def warn(self, line: str) -> None:
        """Print a warning on stderr, quiet or not."""
        if self.muted:
            return
        quiet, self.quiet = self.quiet, False
        self.note(f"warning: {line}")
        self.quiet = quiet

    def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        """Begin a stage of the work; the one before it is done.

        Args:
            stage: What is being done, e.g. "sampling".
            total: How many steps it has; None: unknown.
            in_bytes: True if its steps are bytes.
        """
        if self.quiet or not sys.stderr.isatty():
            # A log file gets lines instead of a moving bar.
            self._lines = StageLines(stage, total)
            self.note(f"{stage} ...")
            return
        bars = self._bars or self._put_up_bars()
        if self._task is not None:
            bars.update(self._task, visible=False)
        self._task = bars.add_task(printable(stage), total=total, in_bytes=in_bytes)

    def update(self, done: int, total: int | None = None) -> None:
        """Move the bar of the present stage."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, total=total)
        elif line := self._lines.line(done, total):
            self.note(line)

    def _put_up_bars(self) -> "Progress":
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        from dcgrid.cli.console import CleanConsole

        class Amount(ProgressColumn):
            def render(self, task: Task) -> Text:
                column = DownloadColumn() if task.fields.get("in_bytes") else MofNCompleteColumn()
                return column.render(task)

        self._bars = Progress(
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(bar_width=30),
            Amount(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=CleanConsole(stderr=True),
            transient=True,
        )
        self._bars.start()
        return self._bars
