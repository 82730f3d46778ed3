"""How `dcgrid train` shows a run that goes on: a bar on a terminal, lines elsewhere."""

import sys
import time
from typing import TYPE_CHECKING, Any, Self

from dcgrid.cli.output import Output, printable

if TYPE_CHECKING:
    import rich.progress

    from dcgrid.train.job import Reporter
    from dcgrid.train.log import Progress
    from dcgrid.train.settings import TrainRecipe

_NOTE_EVERY_S = 30.0
"""Seconds between lines about progress where there is no terminal for a moving bar."""


class TrainBar:
    """Shows progress with loss, seconds a step and time left; lines instead without a terminal."""

    def __init__(self, recipe: "TrainRecipe", output: Output) -> None:
        self._output = output
        self._stage, self._steps = recipe.stage, recipe.optim.steps
        self._last: Progress | None = None
        self._started_s = time.monotonic()
        self._noted_s = self._started_s
        self._bars: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> Self:
        """Put up the bar where a person can see it."""
        if self._output.quiet or not sys.stderr.isatty():
            return self
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars

        from dcgrid.cli.console import CleanConsole

        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            console=CleanConsole(stderr=True),
            transient=True,
        )
        self._task = self._bars.add_task(self._stage, total=self._steps, state="")
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar down."""
        self.stop()

    def stop(self) -> None:
        """Take the bar down; nothing if there is none."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def reporter(self) -> "Reporter":
        """Return what `run_stage` reports to."""
        from dcgrid.cli.validation import generate_validation
        from dcgrid.train.job import Reporter

        return Reporter(say=self._say, progress=self._show, generate=generate_validation)

    def summary(self) -> dict[str, Any]:
        """Return the last figures and the whole time as JSON values."""
        seconds = round(time.monotonic() - self._started_s, 1)
        if self._last is None:
            return {"stage": self._stage, "steps": self._steps, "seconds": seconds}
        return {
            "stage": self._stage,
            "steps": self._last.step,
            "seconds": seconds,
            **self._last.figures,
        }

    def _say(self, line: str) -> None:
        if self._bars is not None:
            self._bars.console.print(printable(line), markup=False, highlight=False)
        else:
            self._output.note(line)

    def _show(self, progress: "Progress") -> None:
        self._last = progress
        left_s = (progress.steps - progress.step) * progress.seconds_per_step
        state = ", ".join(
            [
                *(f"{name} {value:.4g}" for name, value in progress.figures.items()),
                f"{progress.seconds_per_step:.3g} s/step",
                f"{left_s / 60:.0f} min left",
            ]
        )
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=progress.step, state=state)
        elif time.monotonic() - self._noted_s > _NOTE_EVERY_S or progress.step == progress.steps:
            self._noted_s = time.monotonic()
            self._output.note(f"{self._stage} {progress.step}/{progress.steps}: {state}")
