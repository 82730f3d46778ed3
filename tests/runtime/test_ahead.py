"""Jobs that run ahead: in order, whole, and never left behind."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from dcgrid.runtime.ahead import run_ahead


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_whichever_job_ends_first(threads: int) -> None:
    def jobs() -> Iterator[Callable[[], int]]:
        for number in range(20):

            def job(number: int = number) -> int:
                time.sleep(0.003 * (number % 3 == 0))
                assert torch.get_num_threads() == 1
                return number

            yield job

    before = torch.get_num_threads()
    assert list(run_ahead(jobs(), threads)) == list(range(20))
    assert torch.get_num_threads() == before
    assert list(run_ahead(iter(()), threads)) == []


def test_jobs_run_side_by_side() -> None:
    """Two wait for each other: one after the other they would never end."""
    together = threading.Barrier(2, timeout=20)
    assert len(list(run_ahead((together.wait for _ in range(6)), 2))) == 6


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("in_job", [True, False])
def test_what_a_job_raises_arrives_and_threads_end(threads: int, in_job: bool) -> None:
    def fails() -> int:
        raise ValueError("here")

    def jobs() -> Iterator[Callable[[], int]]:
        yield lambda: 0
        if not in_job:
            fails()
        yield fails
        yield lambda: 2

    alive, found = threading.active_count(), []
    with pytest.raises(ValueError, match="here"):
        found += run_ahead(jobs(), threads)
    assert threading.active_count() == alive


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_are_drawn_than_are_soon_taken(threads: int) -> None:
    drawn = []

    def jobs() -> Iterator[Callable[[], int]]:
        for number in range(1000):
            drawn.append(number)
            yield lambda: 0

    alive = threading.active_count()
    coming = run_ahead(jobs(), threads)
    for _ in range(5):
        next(coming)
    coming.close()  # type: ignore[attr-defined]
    assert len(drawn) <= 5 + threads + 2
    assert threading.active_count() == alive
