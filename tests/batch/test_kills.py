"""kill -9 at random moments: the same command ends with the same files, and no row twice."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dcgrid.api import Session
from dcgrid.batch import engines
from dcgrid.batch.engines import LocalEngine
from dcgrid.batch.store import open_store
from dcgrid.batch.worker import WorkerTask, work
from dcgrid.errors import BatchError
from dcgrid.io.progress import Progress
from dcgrid.pipelines.job import GridJob
from tests.batch.batches import leftovers, pixels, run, write_jobs

ROWS = [{"seed": seed} for seed in range(4)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def jobs(shared_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = tmp_path_factory.mktemp("kills") / "input.mp4"
    clip.write_bytes(shared_clip.read_bytes())
    return write_jobs(clip, ROWS)


@pytest.fixture(scope="module")
def expected(jobs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The pixels of each row, run one after another in this process."""
    out = tmp_path_factory.mktemp("serial") / "out"
    return pixels(open_store(str(out)), run(jobs, out))


def check(out: Path, expected: list[list[str]]) -> None:
    rows = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["done"] * len(ROWS)
    assert len({row["id"] for row in rows}) == len(ROWS)
    for row, hashes in zip(rows, expected, strict=True):
        manifest = json.loads((out / "items" / row["id"] / "manifest.json").read_text())
        assert [one["frames_sha256"] for one in manifest["outputs"]] == hashes
    assert leftovers(out) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_what_one_process_makes(
    workers: int, jobs: Path, expected: list[list[str]], tmp_path: Path
) -> None:
    done = run(jobs, tmp_path / "out", LocalEngine(), workers, starter=os.getpid())
    assert done.count("done") == len(ROWS)
    check(tmp_path / "out", expected)


def kill_worker(moment: random.Random, seconds: float) -> threading.Thread:
    """Kill a worker of this process some time after the first has been started."""

    def kill() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.05)
        time.sleep(moment.random() * seconds)
        children = multiprocessing.active_children() or children
        victim = moment.choice(children).pid
        if victim is not None:
            os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))]
)
def test_a_worker_is_killed(
    seed: int, jobs: Path, expected: list[list[str]], tmp_path: Path
) -> None:
    thread = kill_worker(random.Random(seed), 8)
    done = run(jobs, tmp_path / "out", LocalEngine(), 2, starter=os.getpid())
    thread.join()
    assert done.count("done") == len(ROWS)
    check(tmp_path / "out", expected)


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 20))]
)
def test_the_driver_is_killed(
    seed: int, jobs: Path, expected: list[list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dcgrid", "batch", str(jobs), "--out", str(out), "-w", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    moment = random.Random(seed)
    while not (out / "plan.json").exists() and driver.poll() is None:
        time.sleep(0.05)
    try:
        driver.wait(moment.random() * 10)
    except subprocess.TimeoutExpired:
        driver.kill()
        driver.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    check(out, expected)


def poisoned(number: int) -> Callable[[WorkerTask, Progress], int]:
    """Return the work of a process that one row takes down."""
    del number
    real = Session.run_job

    def dies(self: Session, job: GridJob, progress: Progress) -> object:
        if job.seed == 2:
            os._exit(9)
        return real(self, job, progress)

    Session.run_job = dies  # type: ignore[method-assign,assignment]
    return work


def broken(number: int) -> Callable[[WorkerTask, Progress], int]:
    """Return the work of a process that dies before it takes a row."""
    del number
    os._exit(7)


def test_a_clip_that_takes_workers_down_fails_alone(
    jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three workers die of it, then it has an error of its own."""
    monkeypatch.setattr(engines, "_work_of", poisoned)
    done = run(jobs, tmp_path / "out", LocalEngine(), 1, starter=os.getpid())
    assert [row["status"] for row in done.rows] == ["done", "done", "failed", "done"]
    assert "took 3 workers down" in done.rows[2]["error"]
    assert leftovers(tmp_path / "out") == []


def test_workers_that_cannot_start_end_the_batch(
    jobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_work_of", broken)
    monkeypatch.setattr(engines.Deaths, "MOST", 1)
    with pytest.raises(BatchError, match="no row was finished: its process ended with code 7"):
        run(jobs, tmp_path / "out", LocalEngine(), 1, starter=os.getpid())
    rows = (tmp_path / "out" / "index.jsonl").read_text().splitlines()
    assert {json.loads(row)["status"] for row in rows} == {"open"}
