"""Jobs that run ahead of whoever takes their results.

drawn by one thread, in order     0 1 2 3 4 5 6
run by others, side by side       0 1 2 3 4
taken in order                    0 1 2
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
_MOST = 8  # Each job that runs holds a picture or more.


def run_ahead(jobs: Iterator[Callable[[], T]], threads: int) -> Iterator[T]:
    """Yield what jobs return, in their order; torch computes each with one thread of the CPU.

    That is faster than all threads for one job where jobs are many small sums, and results do not
    depend on how many threads there are.

    Args:
        jobs: The jobs; a thread of its own goes through it, so that it may compute as well.
        threads: How many jobs run at once; with 1 they run in the caller's thread, as they are
            asked for.
    """
    before = torch.get_num_threads()
    if threads <= 1:
        while True:
            torch.set_num_threads(1)
            try:
                job = next(jobs, None)
                if job is None:
                    return
                result = job()
            finally:
                torch.set_num_threads(before)
            yield result
    threads = min(threads, _MOST)
    drawing, running = (
        ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
        for count in (1, threads)
    )

    def draw() -> Future[T] | None:
        job = next(jobs, None)
        return None if job is None else running.submit(job)

    try:
        ahead = deque(drawing.submit(draw) for _ in range(threads + 2))
        while (coming := ahead.popleft().result()) is not None:
            ahead.append(drawing.submit(draw))
            yield coming.result()
    finally:
        drawing.shutdown(cancel_futures=True)
        running.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
