"""What starts workers: this process, processes of this machine, Ray actors, a Slurm array.

An engine starts `work` once a task and starts it again where it dies; rows, results and errors are
files, so it knows nothing of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dcgrid.batch.worker import WorkerTask, work
from dcgrid.errors import BatchError
from dcgrid.io.progress import NullProgress, Progress
from dcgrid.runtime.workers import DeadWorker, WorkerPool

Tick = Callable[[], int]
"""Called now and then while workers run; returns how many rows are settled."""


class Engine(Protocol):
    """Starts workers and waits for them."""

    def run(self, tasks: Sequence[WorkerTask], tick: Tick) -> None:
        """Run `work` for each task until all have ended.

        Raises:
            BatchError: Workers cannot be started, or die without finishing any row.
            DcgridError: What a worker raised.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class HereEngine:
    """This process, one worker."""

    progress: Progress

    def run(self, tasks: Sequence[WorkerTask], tick: Tick) -> None:
        """Run the first task, which does all rows."""
        work(tasks[0], _Ticking(self.progress, tick))


class _Ticking(NullProgress):
    """Ticks after each row."""

    def __init__(self, progress: Progress, tick: Tick) -> None:
        self._tick = tick
        self.warn = progress.warn  # type: ignore[method-assign]

    def note(self, line: str) -> None:
        """Look at the rows."""
        self._tick()


class LocalEngine:
    """Processes of this machine."""

    def run(self, tasks: Sequence[WorkerTask], tick: Tick) -> None:
        """Run a process a task; one that dies is started again."""
        counts = Deaths(len(tasks))
        pool = WorkerPool(tasks, _work_of, len(tasks), lambda: counts.saw(tick()))
        for _, outcome in pool.outcomes():
            if isinstance(outcome, DeadWorker):
                counts.died(tick(), outcome.reason)
                pool.add(outcome.item)


def _work_of(number: int) -> Callable[[WorkerTask, Progress], int]:
    del number  # the task says which worker it is
    return work


class Deaths:
    """Counts workers that died since a row was settled.

    Args:
        workers: How many there are.
    """

    MOST = 4
    """Deaths for each worker: a row takes three down, and all may be at such rows."""

    def __init__(self, workers: int) -> None:
        self._most = self.MOST * workers
        self._settled = self._deaths = 0

    def saw(self, settled: int) -> None:
        """Note how many rows are settled."""
        if settled > self._settled:
            self._settled, self._deaths = settled, 0

    def died(self, settled: int, reason: str) -> None:
        """Count a death.

        Raises:
            BatchError: Too many without a row settled.
        """
        self.saw(settled)
        self._deaths += 1
        if self._deaths > self._most:
            raise BatchError(
                f"{self._deaths} workers have died and no row was finished: {reason}",
                hint="try one row alone with `dcgrid edit`; fewer --workers take less memory",
            )
