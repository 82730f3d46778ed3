"""Work done one after another, or by several processes that take what is next.

A process that dies (the kernel stops one that takes too much memory) costs the item that it was at
and nothing else. When this process dies, so do they.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeAlias, TypeVar

import torch

from dcgrid.io.progress import NullProgress, Progress

_LAST_SECONDS = 10
"""How long a process that is ended may take to remove what it has begun to write."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")
Work: TypeAlias = Callable[[_In, Progress], _Out]
"""Does an item."""


class DeadWorker(Generic[_In]):
    """Stands in a result's place where the process that was at it has died."""

    def __init__(self, item: _In, code: int | None) -> None:
        self.item, self.code = item, code

    @property
    def reason(self) -> str:
        """What is known of its end."""
        if self.code is not None and self.code < 0:
            return f"its process was killed (signal {-self.code}): out of memory?"
        return f"its process ended with code {self.code}"


def work_through(
    items: Sequence[_In],
    make: Callable[[int], Work[_In, _Out]],
    jobs: int,
    progress: Progress,
) -> Iterator[tuple[int, _Out | DeadWorker[_In]]]:
    """Yield the index and the outcome of every item, as they come.

    Args:
        items: What is to be done.
        make: Makes the work of a process, given its number; can be pickled if `jobs` is above 1.
        jobs: Processes; 1 works in this one.
        progress: Told of what a single process does; several are silent.
    """
    if jobs == 1 or len(items) < 2:
        work = make(0)
        for index, item in enumerate(items):
            yield index, work(item, progress)
        return
    yield from WorkerPool(items, make, min(jobs, len(items))).outcomes()


class WorkerPool(Generic[_In, _Out]):
    """Processes that each take the next item when they are done with one.

    Args:
        items: What is to be done; `add` adds more.
        make: Makes the work of a process, given its number; can be pickled.
        jobs: Most processes at a time.
        tick: Called about once a second, in this process.
    """

    def __init__(
        self,
        items: Sequence[_In],
        make: Callable[[int], Work[_In, _Out]],
        jobs: int,
        tick: Callable[[], None] | None = None,
    ) -> None:
        self._items, self._make, self._jobs, self._tick = list(items), make, jobs, tick
        self._context = multiprocessing.get_context("spawn")
        self._answers: Any = self._context.Queue()
        self._orders: list[Any] = []
        self._processes: list[BaseProcess] = []
        self._left = list(range(len(self._items)))
        self._idle: list[int] = []
        self._at: dict[int, int] = {}
        """The item that each process is at."""

    def add(self, item: _In) -> None:
        """Add an item, also while outcomes are taken."""
        self._left.append(len(self._items))
        self._items.append(item)

    def outcomes(self) -> Iterator[tuple[int, _Out | DeadWorker[_In]]]:
        """Yield what comes; all processes are gone at the end, also after an error."""
        try:
            self._hand_out()
            while self._at:
                number, index, outcome = self._next()
                del self._at[number]
                if not isinstance(outcome, DeadWorker):
                    self._idle.append(number)
                if isinstance(outcome, BaseException):
                    raise outcome
                self._hand_out()
                yield index, outcome
                self._hand_out()
        finally:
            for process in self._processes:
                process.terminate()
            for process in self._processes:
                process.join(_LAST_SECONDS)
                process.kill()  # one that hangs; the others are gone
                process.join()

    def _hand_out(self) -> None:
        """Give items to processes that wait, and start processes as long as there may be more."""
        while self._left and (self._idle or len(self._at) < self._jobs):
            number = self._idle.pop() if self._idle else self._start()
            index = self._left.pop(0)
            self._at[number] = index
            self._orders[number].put((index, self._items[index]))

    def _start(self) -> int:
        number = len(self._processes)
        orders = self._context.Queue()
        threads = max(1, (os.cpu_count() or 1) // self._jobs)
        process = self._context.Process(
            target=_serve, args=(number, self._make, orders, self._answers, threads), daemon=True
        )
        # Ctrl-C reaches every process of a terminal; this one ends the others. They inherit what is
        # blocked, so that it holds for their first line, too.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self._orders.append(orders)
        self._processes.append(process)
        return number

    def _next(self) -> tuple[int, int, Any]:
        """Return the next answer, or the death of a process that was at something."""
        while True:
            try:
                answer: tuple[int, int, Any] = self._answers.get(timeout=1)
                return answer
            except queue.Empty:
                if self._tick is not None:
                    self._tick()
                for number, index in self._at.items():
                    process = self._processes[number]
                    if not process.is_alive() and self._answers.empty():
                        return number, index, DeadWorker(self._items[index], process.exitcode)


def _serve(
    number: int,
    make: Callable[[int], Work[Any, Any]],
    orders: Any,  # noqa: ANN401 - a queue of multiprocessing
    answers: Any,  # noqa: ANN401
    threads: int,
) -> None:
    """Do what comes until the process is ended."""
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    work = make(number)
    while True:
        index, item = orders.get()
        try:
            outcome = work(item, NullProgress())
        except Exception as error:  # reported by the first process
            outcome = error
        answers.put((number, index, outcome))


def _leave(*_: object) -> None:
    """Unwind the stack, so that no temporary file is left."""
    raise SystemExit(0)


def _leave_with_parent() -> None:
    """Wait for the end of the process that started this one, whatever ended it, and follow it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
