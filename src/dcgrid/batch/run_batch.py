"""`dcgrid batch` from the top: start workers on a plan, watch, write the index.

    read_jobs -> check_rows -> make_plan -> run_batch: settle_plan -> Engine.run -> write_index

jobs.py and plan.py have the first three.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dcgrid.batch.engines import Engine
from dcgrid.batch.plan import BatchPlan, Item, settle_plan
from dcgrid.batch.store import Store
from dcgrid.batch.worker import STOP_NAME, WorkerTask
from dcgrid.errors import BatchError
from dcgrid.io.progress import Progress

INDEX_NAME = "index.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDone:
    """What a batch has come to."""

    rows: tuple[dict[str, Any], ...]
    """Lines of index.jsonl."""
    index: str
    """Where it is."""
    is_stopped: bool
    """True: too many rows have failed, so no more were begun."""

    def count(self, status: str) -> int:
        """Return how many rows are done, failed or open."""
        return sum(one["status"] == status for one in self.rows)


def run_batch(
    store: Store,
    plan: BatchPlan,
    engine: Engine,
    tasks: Sequence[WorkerTask],
    progress: Progress,
    *,
    retry_failed: bool = False,
) -> BatchDone:
    """Run all rows of a plan that are not done.

    Args:
        store: Where the batch is.
        plan: From `make_plan`.
        engine: Starts the workers.
        tasks: One a worker.
        progress: Gets the count of rows and remarks.
        retry_failed: Run rows that failed before once more.

    Raises:
        BatchError: The folder is another batch's, or workers die.
        OutputError: The disk is full.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    if settle_plan(store, plan, created):
        _check_earlier(store, plan, progress, retry_failed=retry_failed)
    watch = _Watch(store, plan, progress)
    try:
        if watch.look() < len(plan.items):
            engine.run(tasks, watch.look)
            watch.look()
    finally:
        done = write_index(store, plan)
    if done.count("open") == 0 and store.folder is not None:
        for name in ("work", "claims"):
            with suppress(OSError):
                shutil.rmtree(store.folder / name)
    return done


class _Watch:
    """Counts rows that are settled; each is looked at until it is."""

    def __init__(self, store: Store, plan: BatchPlan, progress: Progress) -> None:
        self._store, self._progress = store, progress
        self._open = {one.id: one for one in plan.items}
        self._total = len(plan.items)
        self._has_begun = False

    def look(self) -> int:
        """Report rows that were settled since the last look; return how many are."""
        for id_ in self._open.keys() & set(self._store.names("items")):
            if self._store.exists(f"items/{id_}/manifest.json"):
                del self._open[id_]
            elif (found := read_error(self._store, id_)) is not None:
                item = self._open.pop(id_)
                if self._has_begun:
                    self._progress.warn(f"{item.place}: {found['message']}")
        if not self._has_begun:
            self._progress.start("rows", self._total)
            self._has_begun = True
        settled = self._total - len(self._open)
        self._progress.update(settled)
        return settled


def _check_earlier(
    store: Store, plan: BatchPlan, progress: Progress, *, retry_failed: bool
) -> None:
    """Open again what was changed since it was written, and failed rows if that is asked."""
    store.remove(STOP_NAME)
    done = 0
    for item in plan.items:
        text = store.read(f"items/{item.id}/manifest.json")
        if text is not None:
            if _is_whole(store, item.id, text):
                done += 1
            else:
                progress.warn(f"{item.place}: results have changed or are gone, they are made anew")
                store.remove(f"items/{item.id}/manifest.json")
        elif retry_failed:
            store.remove(f"items/{item.id}/error.json")
    progress.note(f"{done} of {len(plan.items)} rows are done already.")


def _is_whole(store: Store, id_: str, manifest: bytes) -> bool:
    """Return whether the files of a row have the hashes of its manifest."""
    try:
        values = json.loads(manifest)
        files = {one["path"]: one["file_sha256"] for one in values["outputs"]}
        files.update(values["files_sha256"])
    except (ValueError, KeyError, TypeError):
        return False
    for name, digest in files.items():
        content = store.read(f"items/{id_}/{name}")
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            return False
    return True


def read_error(store: Store, id_: str) -> dict[str, Any] | None:
    """Return the error.json of a row; None: it has none."""
    text = store.read(f"items/{id_}/error.json")
    if text is None:
        return None
    try:
        found: dict[str, Any] = json.loads(text)
        return {"message": str(found["message"]), **found}
    except (ValueError, KeyError, TypeError):
        return {"message": "its error.json is damaged"}


def write_index(store: Store, plan: BatchPlan) -> BatchDone:
    """Write index.jsonl anew from what is there: a line a row, in the order of the rows."""
    rows = tuple(_index_row(store, item) for item in plan.items)
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    store.write(INDEX_NAME, text.encode())
    return BatchDone(
        rows=rows, index=store.location(INDEX_NAME), is_stopped=store.exists(STOP_NAME)
    )


def _index_row(store: Store, item: Item) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": item.id,
        "place": item.place,
        "name": item.name,
        "command": item.job.command,
        "inputs": [str(path) for path in item.job.inputs],
        "seed": item.job.seed,
    }
    home = f"items/{item.id}"
    text = store.read(f"{home}/manifest.json")
    if text is not None:
        values = json.loads(text)
        outputs = [f"{home}/{one['path']}" for one in values["outputs"]]
        seconds = round(sum(values["timings_s"].values()), 3)
        return {**row, "status": "done", "outputs": outputs, "seconds": seconds}
    error = read_error(store, item.id)
    if error is not None:
        return {**row, "status": "failed", "error": error["message"], "hint": error.get("hint", "")}
    return {**row, "status": "open"}


def failures_error(done: BatchDone, out: str | Path) -> BatchError | None:
    """Return what to say of rows that are not done; None: all are."""
    failed, opened = done.count("failed"), done.count("open")
    if not failed and not opened:
        return None
    more = f", {opened} were not begun" if opened else ""
    why = " (--max-failures)" if done.is_stopped else ""
    return BatchError(
        f"{failed} of {len(done.rows)} rows failed{more}{why}: see {done.index}",
        hint=f"the same command with --retry-failed runs them again; {out} keeps what is done",
    )
