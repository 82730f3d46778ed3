"""The loop of one worker, the same on every engine: take a row, run it, publish it, take the next.

    take -> read (in a thread, while the row before it is sampled) -> run -> publish

A row is done when items/ID/manifest.json is there, which is written last; one that fails leaves
items/ID/error.json.
"""

import errno
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dcgrid.api import Session
from dcgrid.batch.leases import LEASE_S, GivenUp, Lease, Leases, Owner, this_process
from dcgrid.batch.plan import Item, read_plan
from dcgrid.batch.store import Store, open_store
from dcgrid.errors import BatchError, DcgridError, DeviceError, is_out_of_memory
from dcgrid.io.atomic import remove_abandoned
from dcgrid.io.progress import Progress
from dcgrid.pipelines.job import GridJob

if TYPE_CHECKING:
    from dcgrid.pipelines.run import RunResult

STOP_NAME = "stop.json"
"""Tells workers to take no more rows."""
ERROR_FORMAT = "dcgrid-batch-error-1"
_OFFLOAD: tuple[Literal["none", "model", "block", "disk"], ...] = ("none", "model", "block", "disk")
"""Where weights are; each takes less memory of the device than the one before."""
_WAIT_S = 2.0
"""Between looks at rows that other workers have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """Settings of a worker; they go to other processes and machines."""

    out: str
    """Folder or URL of the batch."""
    number: int
    """Of the worker, from 0."""
    count: int
    """Of workers."""
    starter: int = 0
    """Process that watches it, on the same machine; 0: none."""
    device: str = "auto"
    """Device of rows that name none."""
    threads: int = 1
    """CPU threads."""
    max_failures: int = 0
    """Rows that may fail before no more are taken; 0: any number."""
    lease_s: float = LEASE_S
    """See `leases.LEASE_S`."""


def work(task: WorkerTask, progress: Progress) -> int:
    """Work at the rows of a batch until each is done, failed or given up; return how many were run.

    Raises:
        BatchError: There is no plan.
        OutputError: The disk is full; rows that were not published are open again.
    """
    import torch

    torch.set_num_threads(task.threads)
    store = open_store(task.out)
    plan = read_plan(store)
    if plan is None:
        raise BatchError(f"{store.location('plan.json')} is not there", hint="run dcgrid batch")
    owner = this_process(task.starter)
    with Leases(store, owner, task.lease_s) as leases, Session() as session:
        return _Worker(task, store, leases, session, progress).run(plan.items)


class _Worker:
    def __init__(
        self, task: WorkerTask, store: Store, leases: Leases, session: Session, progress: Progress
    ) -> None:
        self._task, self._store, self._leases = task, store, leases
        self._session, self._progress = session, progress
        self._scratch = store.scratch()
        remove_abandoned(self._scratch)

    def run(self, items: tuple[Item, ...]) -> int:
        """Run what can be taken, one row after the other, the next one prepared meanwhile."""
        done = 0
        waiting: tuple[Item, Lease, Future[None]] | None = None
        with ThreadPoolExecutor(1) as ahead:
            for taken in self._taken(items):
                following = None
                if taken is not None:
                    item, lease = taken
                    following = (item, lease, ahead.submit(self._warm, item))
                if waiting is not None:
                    self._run_row(*waiting)
                    done += 1
                elif taken is None:
                    time.sleep(min(_WAIT_S, self._task.lease_s / 4))
                waiting = following
            if waiting is not None:
                self._run_row(*waiting)
                done += 1
        return done

    def _taken(self, items: tuple[Item, ...]) -> Iterator[tuple[Item, Lease] | None]:
        """Yield rows that are this worker's from now on; None: all that are open are others'."""
        ordered = sorted(items, key=lambda one: one.group)
        start = len(ordered) * self._task.number // max(1, self._task.count)
        rows = [*ordered[start:], *ordered[:start]]
        while rows:
            left = []
            for item in rows:
                if self._store.exists(STOP_NAME):
                    return
                if is_settled(self._store, item.id):
                    continue
                lease = self._leases.take(item.id)
                if isinstance(lease, GivenUp):
                    self._give_up(item, lease)
                elif lease is None:
                    left.append(item)
                elif is_settled(self._store, item.id):  # since the look before the lease
                    self._leases.drop(lease)
                else:
                    yield item, lease
            rows = left
            if rows:
                yield None

    def _warm(self, item: Item) -> None:
        """Read a row's inputs once, so that they are in memory when the row begins."""
        for path in item.job.inputs:
            with suppress(OSError), path.open("rb") as stream:
                while stream.read(1 << 22):
                    pass

    def _run_row(self, item: Item, lease: Lease, warmed: "Future[None]") -> None:
        """Run and publish a row; what it fails of stands in its error.json.

        Raises:
            OutputError: The disk is full.
        """
        warmed.result()
        folder = self._scratch / f".{item.id}.{lease.owner.process}-{lease.token[:8]}.part"
        started = time.monotonic()
        try:
            self._leases.begin(lease)
            folder.mkdir()
            result = self._generate(item, folder)
            if self._leases.holds(lease):
                self._publish(item, result)
        except Exception as error:
            if _is_disk_full(error):
                raise
            if self._leases.holds(lease):
                self._fail(item.id, error, lease.tries, lease.owner)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._leases.drop(lease)
        self._progress.note(f"{item.place}: {time.monotonic() - started:.1f} s")

    def _generate(self, item: Item, folder: Path) -> "RunResult":
        """Run a row; where memory runs out, again with settings that take less."""
        job = replace(item.job, out=folder)
        if job.device == "auto":
            job = replace(job, device=self._task.device)
        while True:
            try:
                return self._session.run_job(job, self._progress)
            except (DcgridError, RuntimeError, MemoryError) as error:
                lower = next_setting(job)
                if lower is None or not _is_memory(error):
                    raise
                self._session.forget()
                job = lower

    def _publish(self, item: Item, result: "RunResult") -> None:
        *files, manifest = result.files
        home = f"items/{item.id}"
        values = json.loads(manifest.read_text(encoding="utf-8"))
        values["folder"] = self._store.location(home)
        values["job"]["out"] = None
        for path in files:
            self._store.put(path, f"{home}/{path.name}")
        text = json.dumps(values, indent=2, allow_nan=False)
        self._store.write(f"{home}/manifest.json", f"{text}\n".encode())

    def _give_up(self, item: Item, found: GivenUp) -> None:
        last = f", the last one {found.owner.label}" if found.owner else ""
        error = BatchError(
            f"took {found.tries} workers down{last}",
            hint=f"try it alone: dcgrid {item.job.command}; then dcgrid batch --retry-failed",
        )
        self._fail(item.id, error, found.tries, found.owner)

    def _fail(self, id_: str, error: Exception, tries: int, owner: Owner | None) -> None:
        """Write error.json, and tell all workers to stop where too many rows have failed."""
        known = isinstance(error, DcgridError)
        message = error.message if isinstance(error, DcgridError) else f"internal error: {error}"
        values: dict[str, Any] = {
            "format": ERROR_FORMAT,
            "kind": type(error).__name__,
            "message": message[:4000],
            "hint": error.hint if isinstance(error, DcgridError) else "",
            "exit_code": error.exit_code if known else 1,  # type: ignore[attr-defined]
            "tries": tries,
            "worker": owner.label if owner else "",
        }
        self._store.write(f"items/{id_}/error.json", json.dumps(values, indent=2).encode())
        if self._task.max_failures:
            ids = self._store.names("items")
            failed = sum(self._store.exists(f"items/{one}/error.json") for one in ids)
            if failed >= self._task.max_failures:
                text = json.dumps({"failed": failed, "max_failures": self._task.max_failures})
                self._store.create(STOP_NAME, text.encode())


def is_settled(store: Store, id_: str) -> bool:
    """Return whether a row is done or has failed."""
    return store.exists(f"items/{id_}/manifest.json") or store.exists(f"items/{id_}/error.json")


def next_setting(job: GridJob) -> GridJob | None:
    """Return the job with the next setting that takes less memory; None: there is none."""
    if is_small(job.model):
        return None
    at = 0 if job.offload == "auto" else _OFFLOAD.index(job.offload)
    return replace(job, offload=_OFFLOAD[at + 1]) if at + 1 < len(_OFFLOAD) else None


def is_small(model: str) -> bool:
    """Return whether a model is whole in memory, always: it has no such settings."""
    from dcgrid.models.native.model import find_native

    return find_native(model) is not None


def _is_memory(error: BaseException) -> bool:
    causes = _causes(error)
    return any(is_out_of_memory(one) for one in causes) or isinstance(error, DeviceError)


def _is_disk_full(error: BaseException) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(isinstance(one, OSError) and one.errno in full for one in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it comes from."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__
