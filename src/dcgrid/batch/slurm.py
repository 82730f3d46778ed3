"""Workers as an array job of Slurm, through submitit.

The folder of the batch must be one that all nodes see. A task that is preempted, or runs into its
time limit, is queued again and goes on with whatever rows are open.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcgrid.batch.engines import Tick
from dcgrid.batch.worker import WorkerTask, work
from dcgrid.errors import BatchError
from dcgrid.io.progress import NullProgress

_REQUEUES = 100
"""Time limits that a task may run into before Slurm gives it up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmEngine:
    """A Slurm cluster."""

    partition: str = ""
    """Where tasks go; empty: Slurm's own choice."""
    gpus: int = 0
    """GPUs of a worker."""
    minutes: int = 240
    """Time limit of a task."""
    cluster: str = "slurm"
    """ "slurm", or "local" for processes of this machine in its place (tests)."""
    poll_s: float = 5.0
    """Seconds between looks at the jobs."""

    def run(self, tasks: Sequence[WorkerTask], tick: Tick) -> None:
        """Submit an array of a task a worker and wait for it.

        Raises:
            BatchError: submitit or Slurm is not there, the folder is none that nodes share, or
                tasks have failed and rows are left.
        """
        try:
            import submitit
        except ImportError as error:
            raise BatchError(
                "--on slurm needs submitit, which is not installed",
                hint="pip install 'dcgrid[batch]'",
            ) from error
        if "://" in tasks[0].out:
            raise BatchError(
                f"--on slurm writes its logs into --out, and {tasks[0].out} is no folder",
                hint="use a folder that all nodes see",
            )
        executor = self._executor(submitit, Path(tasks[0].out) / "slurm", tasks)
        try:
            jobs = executor.map_array(_Task(), tasks)
        except (RuntimeError, submitit.core.utils.FailedJobError) as error:
            raise BatchError(f"Slurm takes no job: {error}", hint="try `sbatch` by hand") from error
        try:
            while not all(job.done() for job in jobs):
                tick()
                time.sleep(self.poll_s)
        except KeyboardInterrupt:
            for job in jobs:
                job.cancel()
            raise
        tick()
        errors = [found for job in jobs if (found := job.exception()) is not None]
        if errors and len(errors) == len(jobs):
            last = (str(errors[0]).strip().splitlines() or ["no reason given"])[-1]
            raise BatchError(
                f"all {len(jobs)} Slurm tasks have failed: {last}",
                hint=f"see {Path(tasks[0].out) / 'slurm'}; the same command goes on",
            )

    def _executor(self, submitit: Any, folder: Path, tasks: Sequence[WorkerTask]) -> Any:  # noqa: ANN401
        try:
            executor = submitit.AutoExecutor(
                folder=folder,
                cluster=self.cluster,
                slurm_max_num_timeout=_REQUEUES,
            )
        except RuntimeError as error:
            raise BatchError(
                f"Slurm is not there: {error}", hint="run it on a login node"
            ) from error
        executor.update_parameters(
            name="dcgrid-batch",
            timeout_min=self.minutes,
            cpus_per_task=tasks[0].threads,
            gpus_per_node=self.gpus,
            slurm_array_parallelism=len(tasks),
            slurm_additional_parameters={"requeue": True},
        )
        if self.partition:
            executor.update_parameters(slurm_partition=self.partition)
        return executor


class _Task:
    """One worker; submitit asks it what to queue again when it is stopped from outside."""

    def __call__(self, task: WorkerTask) -> int:
        """Do rows until none is left."""
        return work(task, NullProgress())

    def checkpoint(self, task: WorkerTask) -> Any:  # noqa: ANN401 - of submitit
        """Return the same task: what it has done is in the folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, task)
