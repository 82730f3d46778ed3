"""Work side by side: all outcomes come, a death costs one item, an error ends everything."""

import os
import signal
from dataclasses import dataclass
from functools import partial

import pytest

from dcgrid.errors import InputVideoError
from dcgrid.eval.suites.workers import DeadWorker, work_through
from dcgrid.pipelines.progress import Silent


@dataclass
class Squares:
    number: int
    deadly: int = -1
    wrong: int = -1

    def work(self, item, progress):
        if item == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == self.wrong:
            raise InputVideoError("cannot be read", hint="look at it")
        return item * item, os.getpid()


def test_one_process_works_in_order():
    found = list(work_through([1, 2, 3], Squares, 1, Silent()))
    assert [(index, value[0]) for index, value in found] == [(0, 1), (1, 4), (2, 9)]
    assert {value[1] for _, value in found} == {os.getpid()}


def test_two_processes_do_all_of_it_elsewhere():
    found = dict(work_through(list(range(6)), Squares, 2, Silent()))
    assert {index: value[0] for index, value in found.items()} == {n: n * n for n in range(6)}
    assert os.getpid() not in {value[1] for value in found.values()}


def test_a_process_that_is_killed_costs_what_it_was_at():
    found = dict(work_through(list(range(5)), partial(Squares, deadly=1), 2, Silent()))
    dead = found.pop(1)
    assert isinstance(dead, DeadWorker)
    assert dead.item == 1
    assert "signal 9" in dead.reason
    assert {index: value[0] for index, value in found.items()} == {n: n * n for n in (0, 2, 3, 4)}


def test_an_error_of_a_worker_is_raised_whole():
    with pytest.raises(InputVideoError, match="cannot be read") as caught:
        list(work_through([1, 2, 3, 4], partial(Squares, wrong=3), 2, Silent()))
    assert caught.value.hint == "look at it"
