"""Workers as actors of a Ray cluster, or of a Ray that is started on this machine.

Ray deals out machines, CPUs and GPUs; which worker does which row is in the folder of the batch, as
on every engine. An actor that dies, alone or with its machine, is started again on any other one.
"""

import logging
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcgrid.batch.engines import Deaths, Tick
from dcgrid.batch.worker import WorkerTask, work
from dcgrid.errors import BatchError
from dcgrid.io.progress import NullProgress

_POLL_S = 1.0
_CONNECT_S = 10.0
_STORE_BYTES = 100_000_000
"""Ray's shared memory on this machine: rows and results are files, nothing of size goes through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEngine:
    """A Ray cluster."""

    address: str = ""
    """Of its head, or "auto"; empty: one that is started here and ends with the command."""
    gpus: float = 0
    """GPUs of a worker."""

    def run(self, tasks: Sequence[WorkerTask], tick: Tick) -> None:
        """Run an actor a task; one that dies is started again.

        Raises:
            BatchError: Ray is not installed or cannot be reached, or workers die without finishing
                a row.
            DcgridError: What a worker raised.
        """
        try:
            import ray
        except ImportError as error:
            raise BatchError(
                "--on ray needs Ray, which is not installed", hint="pip install 'dcgrid[batch]'"
            ) from error
        is_own = not ray.is_initialized()
        try:
            if is_own:
                self._connect(ray, len(tasks))
            self._run(ray, tasks, tick)
        except (ray.exceptions.RaySystemError, ConnectionError, TimeoutError) as error:
            raise BatchError(
                f"the Ray cluster cannot be reached: {_first_line(error)}",
                hint="check `ray status`; the same command goes on where it was",
            ) from error
        finally:
            if is_own:
                ray.shutdown()

    def _connect(self, ray: Any, workers: int) -> None:  # noqa: ANN401 - a module
        if self.address:
            _check_answers(self.address)
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
            return
        # Sockets stand in this folder, whose path may have 107 bytes at most.
        folder = Path(tempfile.gettempdir())
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_STORE_BYTES,
            _temp_dir=None if len(str(folder)) < 40 else "/tmp/dcgrid-ray",
        )

    def _run(self, ray: Any, tasks: Sequence[WorkerTask], tick: Tick) -> None:  # noqa: ANN401
        counts = Deaths(len(tasks))
        actor = ray.remote(num_cpus=1, num_gpus=self.gpus, max_restarts=0)(_Actor)
        running: dict[Any, tuple[Any, WorkerTask]] = {}

        def start(task: WorkerTask) -> None:
            handle = actor.remote()  # held: an actor without a handle is ended
            running[handle.work.remote(task)] = (handle, task)

        for task in tasks:
            start(task)
        while running:
            ended, _ = ray.wait(list(running), timeout=_POLL_S)
            counts.saw(tick())
            for reference in ended:
                _, task = running.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, Exception) else error from None
                except ray.exceptions.RayActorError as error:
                    counts.died(tick(), _first_line(error))
                    start(task)


def _check_answers(address: str) -> None:
    """Check that something listens at HOST:PORT: Ray itself would try for many minutes.

    Raises:
        OSError: Nothing does.
    """
    host, mark, port = address.removeprefix("ray://").rpartition(":")
    if mark and port.isdecimal():
        with socket.create_connection((host, int(port)), timeout=_CONNECT_S):
            pass


class _Actor:
    """One worker; its process keeps the model."""

    def work(self, task: WorkerTask) -> int:
        """Do rows until none is left."""
        return work(task, NullProgress())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
