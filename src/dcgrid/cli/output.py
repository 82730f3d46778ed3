"""What a command shows: its result on stdout, everything else on stderr.

`Output` is made once a command. Human text, progress bars and plans go to stderr, so that
`--format json` leaves exactly one JSON value on stdout.
"""

import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Self

from dcgrid.cli.progress_bar import LogLines, TerminalBar
from dcgrid.io.progress import Tracker

_INNER_BREAK = re.compile(r"\n(?= {4})")


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


class Output:
    """One command's sink for results, notes and progress.

    Used as a context manager: progress bars need to be taken down, also after an error. It has
    the methods that pipelines call for progress (`start`, `update`, `note`).
    """

    def __init__(self, *, format_: Format = Format.TEXT, quiet: bool = False) -> None:
        self.format = format_
        self.quiet = quiet
        self.muted = False
        self._view: TerminalBar | LogLines | None = None
        self._tracker = Tracker()

    def __enter__(self) -> Self:
        """Return self; the first `start` puts up the bar."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take down the bar."""
        self.close()

    def close(self) -> None:
        """Take down the bar, if there is one; another `start` puts up another."""
        if self._view is not None:
            self._view.close()
            self._view = None

    def mute(self) -> None:
        """Show nothing from now on, results and warnings included: another process does."""
        self.quiet = self.muted = True

    def result(self, lines: Iterable[str], value: Mapping[str, object]) -> None:
        """Print the result of the command: lines for people, or the value as JSON.

        Args:
            lines: What a person reads; `--quiet` leaves them out.
            value: What a program reads.
        """
        self.close()
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
        if isinstance(self._view, TerminalBar):
            self._view.print(line)
        else:
            sys.stderr.write(f"{line}\n")

    def warn(self, line: str) -> None:
        """Print a warning on stderr, quiet or not."""
        if self.muted:
            return
        quiet, self.quiet = self.quiet, False
        self.note(f"warning: {line}")
        self.quiet = quiet

    def expect(self, stages: Sequence[tuple[str, float]], seconds: float | None = None) -> None:
        """Say which stages are to come, so that one bar shows the whole run.

        Args:
            stages: Their names, as `start` will get them, and how long each takes beside the
                others.
            seconds: How long all of them take by earlier runs; None: not known.
        """
        self._tracker = Tracker(stages, seconds)

    def start(
        self, stage: str, total: int | None = None, *, done: int = 0, in_bytes: bool = False
    ) -> None:
        """Begin a stage of the work; the one before it is done.

        Args:
            stage: What is being done, e.g. "sampling".
            total: How many steps it has; None: unknown.
            done: How many of them an earlier run has done.
            in_bytes: True if its steps are bytes.
        """
        moment = self._tracker.start(stage, total, done=done, in_bytes=in_bytes)
        if self.quiet:
            return
        if self._view is None:
            self._view = TerminalBar(printable) if sys.stderr.isatty() else LogLines(self.note)
        self._view.begin(moment)

    def busy(self, stage: str) -> None:
        """Begin a stage that takes seconds at most: a terminal shows it, a log file does not."""
        if sys.stderr.isatty():
            self.start(stage)

    def update(self, done: int, total: int | None = None, *, detail: str = "") -> None:
        """Report how many steps of the present stage are done, and what else there is to say."""
        moment = self._tracker.now(done, total, detail)
        if self._view is not None:
            self._view.show(moment)
