"""How far a command is: one bar for the whole of it on a terminal, lines in a log file."""

import threading
import time
from collections.abc import Callable

from dcgrid.io.progress import Moment, duration_words

LINE_EVERY_S = 30.0
"""Seconds between lines of a log file where less than a tenth of the run is done in that time."""
STEP = 0.1
"""A line of a log file comes each time that this share of the run is done."""
_WIDE = 90
"""Columns of a terminal that has room for a long bar and the time so far."""


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
