"""How far a command is: one bar for the whole of it on a terminal, lines in a log file."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from dcgrid.io.progress import duration_words

LINE_EVERY_S = 30.0
"""Seconds between lines of a log file where less than a tenth of the run is done in that time."""
STEP = 0.1
"""A line of a log file comes each time that this share of the run is done."""
_WIDE = 90
"""Columns of a terminal that has room for a long bar and the time so far."""


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
        """Begin a stage; see `Output.start`."""
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


class LogLines:
    """What a log file gets: a line a new stage, and one each 10 % of the run or each 30 s.

    Args:
        write: Takes a line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._told: set[str] = set()
        self._told_share = 0.0
        self._began_s = self._told_s = time.monotonic()
        self._last: Moment | None = None
        self._ended: threading.Event | None = None

    def begin(self, moment: Moment) -> None:
        """Say that a stage begins, unless it is that of another window or grid again."""
        if self._last is None or (moment.share or 0.0) < self._told_share:
            self._told.clear()
            self._told_share = 0.0
        kind = moment.stage.rsplit(": ", 1)[-1]
        self._last, self._began_s = moment, time.monotonic()
        if kind not in self._told:
            self._told.add(kind)
            self._told_s = self._began_s
            self._write(f"{moment.stage} ...")
        if self._ended is None:
            self._ended = threading.Event()
            threading.Thread(target=self._watch, args=(self._ended,), daemon=True).start()

    def show(self, moment: Moment) -> None:
        """Say how far the run is if that was not said of late."""
        self._last = moment
        if moment.share is None or (moment.share >= 1 and not moment.detail):
            return
        further = moment.share >= self._told_share + STEP - 1e-9
        if further or time.monotonic() >= self._told_s + LINE_EVERY_S:
            self._say(moment)

    def beat(self) -> None:
        """Say that the run goes on, if nothing was said for long and no step has ended."""
        if self._last is not None and time.monotonic() >= self._told_s + LINE_EVERY_S:
            self._say(self._last)

    def close(self) -> None:
        """Say nothing more."""
        if self._ended is not None:
            self._ended.set()
            self._ended = None
        self._last = None

    def _say(self, moment: Moment) -> None:
        self._told_s, self._told_share = time.monotonic(), moment.share or 0.0
        so_far = f"{duration_words(self._told_s - self._began_s)} so far"
        left = moment.left if moment.share != 1 else ""
        facts = [moment.percent, moment.detail, left or so_far]
        self._write(f"{moment.stage}: {', '.join(fact for fact in facts if fact)}")

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(1.0):
            self.beat()


class TerminalBar:
    """One bar on a terminal: what is done, how much of the run, and the time left."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        from dcgrid.cli.console import CleanConsole

        def text(field: str, **layout: object) -> TextColumn:
            column = Column(no_wrap=True, overflow="ellipsis", **layout)  # type: ignore[arg-type]
            return TextColumn(field, markup=False, table_column=column)

        self._clean = clean
        console = CleanConsole(stderr=True)
        wide = console.width >= _WIDE
        self._bars = Progress(
            SpinnerColumn(),
            text("{task.description}", ratio=1),
            BarColumn(bar_width=20 if wide else 8),
            text("{task.fields[percent]:>4}", min_width=4),
            *([TimeElapsedColumn()] if wide else []),
            text("{task.fields[left]}", min_width=13),
            console=console,
            transient=True,
            expand=True,
        )
        self._task = self._bars.add_task("", total=None, percent="", left="")

    def begin(self, moment: Moment) -> None:
        """Show another label at once, however short its stage is."""
        self.show(moment)
        self._bars.start()
        self._bars.refresh()

    def show(self, moment: Moment) -> None:
        """Move the bar; without a known share it swings."""
        parts = [moment.stage, moment.amount]
        label = " ".join(part for part in parts if part)
        self._bars.update(
            self._task,
            description=self._clean(f"{label}, {moment.detail}" if moment.detail else label),
            completed=moment.share or 0.0,
            total=None if moment.share is None else 1.0,
            percent=moment.percent,
            left=moment.left.removeprefix("about "),
        )

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar down."""
        self._bars.stop()
