"""How long jobs report what they do; the command line shows it, tests collect it."""

from typing import Protocol


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
