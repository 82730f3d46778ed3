"""Work side by side: all outcomes come, a death costs one item, an error ends everything."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

import dcgrid
from dcgrid.errors import InputVideoError
from dcgrid.io.progress import NullProgress
from dcgrid.runtime.workers import DeadWorker, work_through


@dataclass
class Squares:
    number: int
    deadly: int = -1
    wrong: int = -1

    def __call__(self, item, progress):
        if item == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == self.wrong:
            raise InputVideoError("cannot be read", hint="look at it")
        return item * item, os.getpid()


def test_one_process_works_in_order():
    found = list(work_through([1, 2, 3], Squares, 1, NullProgress()))
    assert [(index, value[0]) for index, value in found] == [(0, 1), (1, 4), (2, 9)]
    assert {value[1] for _, value in found} == {os.getpid()}


def test_two_processes_do_all_of_it_elsewhere():
    found = dict(work_through(list(range(6)), Squares, 2, NullProgress()))
    assert {index: value[0] for index, value in found.items()} == {n: n * n for n in range(6)}
    assert os.getpid() not in {value[1] for value in found.values()}


def test_a_process_that_is_killed_costs_what_it_was_at():
    found = dict(work_through(list(range(5)), partial(Squares, deadly=1), 2, NullProgress()))
    dead = found.pop(1)
    assert isinstance(dead, DeadWorker)
    assert dead.item == 1
    assert "signal 9" in dead.reason
    assert {index: value[0] for index, value in found.items()} == {n: n * n for n in (0, 2, 3, 4)}


def test_an_error_of_a_worker_is_raised_whole():
    with pytest.raises(InputVideoError, match="cannot be read") as caught:
        list(work_through([1, 2, 3, 4], partial(Squares, wrong=3), 2, NullProgress()))
    assert caught.value.hint == "look at it"


@dataclass
class Sleepers:
    number: int

    def __call__(self, item, progress):
        with tempfile.TemporaryDirectory(dir=item):
            time.sleep(60)


@pytest.mark.parametrize("wait_for_work", [True, False])
def test_ctrl_c_in_a_terminal_ends_all_without_a_trace_or_a_file(tmp_path, wait_for_work):
    """Every process of a terminal gets the signal, those that still import, too."""
    code = (
        "import sys; from pathlib import Path\n"
        "from dcgrid.cli.interrupts import Interrupts\n"
        "from dcgrid.runtime.workers import work_through\n"
        "from dcgrid.io.progress import NullProgress\n"
        "from tests.runtime.test_workers import Sleepers\n"
        "folder = Path(sys.argv[1])\n"
        "with Interrupts():\n"
        "    try:\n"
        "        (folder / 'begun').touch()\n"
        "        list(work_through([folder] * 3, Sleepers, 2, NullProgress()))\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(130)\n"
    )
    roots = [str(Path(dcgrid.__file__).parents[1]), str(Path(__file__).parents[2])]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        expected, deadline = 3 if wait_for_work else 1, time.monotonic() + 240
        while len(list(tmp_path.iterdir())) < expected and time.monotonic() < deadline:
            time.sleep(0.02)
        # A folder is there a moment before the statement that removes it has begun.
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]
