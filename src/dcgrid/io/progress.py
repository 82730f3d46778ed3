"""How long jobs report what they do, and how fast this machine was at earlier ones.

The command line shows progress, tests collect it. Rates are what runs leave for the plans of the
next ones: one JSON file, a table a setting (model, device, number format).
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from dcgrid.errors import OutputError
from dcgrid.io.atomic import write_whole


class Progress(Protocol):
    """Receives stages, steps and remarks."""

    def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        """Begin a stage with so many steps (None: unknown), which may be bytes."""

    def update(self, done: int, total: int | None = None) -> None:
        """Report how many steps of the present stage are done."""

    def note(self, line: str) -> None:
        """Report something about the work, one line."""

    def warn(self, line: str) -> None:
        """Report something that may make the result worse, one line."""


def duration_words(seconds: float) -> str:
    """Return a length of time in the unit that a reader would take: 40 s, 7 min, 2.5 h."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def size_words(count: int) -> str:
    """Return a number of bytes in the unit that a reader would take: 2 kB, 35 MB, 34.2 GB."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def counted(count: int, noun: str) -> str:
    """Return a number of things in words: 1 clip, 2 clips."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class NullProgress:
    """Reports nothing: somebody else shows how far the work is."""

    def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        """Begin a stage."""

    def update(self, done: int, total: int | None = None) -> None:
        """Report how many steps are done."""

    def note(self, line: str) -> None:
        """Report something about the work."""

    def warn(self, line: str) -> None:
        """Report something that may make the result worse."""


class PrefixProgress:
    """Names in each stage what it belongs to, such as a window of a clip."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self._progress, self._prefix = progress, prefix
        self.update, self.note, self.warn = progress.update, progress.note, progress.warn

    def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        """Begin a stage."""
        self._progress.start(f"{self._prefix}: {stage}", total, in_bytes=in_bytes)


RATES_NAME = "rates.json"
"""Name of the file in the cache folder."""


def keep_rates(path: Path, setting: str, rates: Mapping[str, float]) -> None:
    """Keep the rates of a run; a file that cannot be written is no error.

    Args:
        path: The file, in the cache folder.
        setting: What they hold for.
        rates: Seconds by what they are of.
    """
    known = {**_read(path), setting: dict(rates)}
    with suppress(OutputError):
        write_whole(path, json.dumps(known))


def read_rates(path: Path, setting: str) -> dict[str, float]:
    """Return the rates of the last run with a setting; none if there was none, or the file is bad.

    Args:
        path: The file, in the cache folder.
        setting: What they hold for.
    """
    return _read(path).get(setting, {})


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(path.read_text())
        return {
            setting: {name: _seconds(value) for name, value in rates.items()}
            for setting, rates in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        return {}


def _seconds(value: object) -> float:
    seconds = float(value)  # type: ignore[arg-type]
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"a rate of {seconds}")
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """How far a command is at one moment."""

    stage: str
    """What is being done."""
    share: float | None
    """Which part of the run is done, 0 to 1; None: not known."""
    left_s: float | None
    """Seconds left; None: not known."""
    amount: str = ""
    """Steps or bytes of the stage that are done, of how many; may be empty."""
    detail: str = ""
    """What else there is to say, such as a loss; may be empty."""

    @property
    def percent(self) -> str:
        """The share in words, empty if it is not known."""
        return "" if self.share is None else f"{int(100 * self.share + 1e-6)}%"

    @property
    def left(self) -> str:
        """The time left in words, empty if it is not known."""
        return "" if self.left_s is None else f"about {duration_words(self.left_s)} left"


class Tracker:
    """Makes one count of the whole run out of stages and their steps.

    A stage that was announced takes the share that its weight has of all. One that was not takes
    half of the rest of the part it comes in, so that the bar moves, never back, and is not full too
    early. Where nothing was announced, each stage is a run of its own.

    Args:
        stages: Names of the stages to come, in order, each with its weight.
        seconds: How long all of them take by earlier runs; None: not known.
    """

    def __init__(
        self, stages: Sequence[tuple[str, float]] = (), seconds: float | None = None
    ) -> None:
        total = sum(weight for _, weight in stages) or 1.0
        self._names = [name for name, _ in stages]
        self._ends = [0.0, *accumulate(weight / total for _, weight in stages)]
        self._seconds = seconds
        self._place = 0  # how many of the announced stages have begun
        self._span = (0.0, 0.0)
        self._share = 0.0
        self._skipped = 0.0  # what an earlier run has done
        self._began_s = time.monotonic()
        self._stage, self._in_bytes = "", False
        self._total: int | None = None

    def start(self, stage: str, total: int | None, *, done: int, in_bytes: bool) -> Moment:
        """Begin a stage; see `Progress.start`; `done` steps of it an earlier run has done."""
        self._stage, self._total, self._in_bytes = stage, total, in_bytes
        if self._names:
            self._enter(stage)
        else:
            self._share = self._skipped = 0.0
            self._span, self._began_s = (0.0, 1.0), time.monotonic()
        if done:
            self.now(done)
            self._skipped += self._share - self._span[0]
        return self.now(done)

    def _enter(self, stage: str) -> None:
        later = range(self._place, len(self._names))
        place = next((number for number in later if self._names[number] == stage), None)
        if place is None:
            end = self._ends[min(self._place + 1, len(self._names))]
            self._span = (self._share, (self._share + end) / 2)
        else:
            self._skipped += self._ends[place] - self._ends[self._place]
            self._place = place + 1
            self._share = max(self._share, self._ends[place])
            self._span = (self._share, max(self._share, self._ends[place + 1]))

    def now(self, done: int, total: int | None = None, detail: str = "") -> Moment:
        """Return how far the run is once so many steps of the stage are done."""
        total = total or self._total
        begin, end = self._span
        if total:
            self._share = max(self._share, begin + (end - begin) * min(done / total, 1.0))
        known = bool(total or self._names)
        return Moment(
            stage=self._stage,
            share=self._share if known else None,
            left_s=self._left_s() if known else None,
            amount=self._amount(done, total),
            detail=detail,
        )

    def _left_s(self) -> float | None:
        """Return the time left by the time so far, and the less is done, by earlier runs."""
        elapsed_s, share = time.monotonic() - self._began_s, self._share
        made = share - self._skipped
        by_now = elapsed_s * (1 - share) / made if made > 1e-6 else None
        if self._seconds is None:
            return by_now
        expected_s = self._seconds * (1 - share)
        return expected_s if by_now is None else share * by_now + (1 - share) * expected_s

    def _amount(self, done: int, total: int | None) -> str:
        if self._in_bytes:
            whole = f" of {total / 1e9:.2f}" if total else ""
            return f"{done / 1e9:.2f}{whole} GB"
        return f"{done}/{total}" if total and total > 1 else ""
