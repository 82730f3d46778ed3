"""How long jobs report what they do, and how fast this machine was at earlier ones.

The command line shows progress, tests collect it. Rates are what runs leave for the plans of the
next ones: one JSON file, a table a setting (model, device, number format).
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
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
