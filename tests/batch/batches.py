"""Small batches with `tiny`, for the tests of this folder."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcgrid.batch.engines import Engine, HereEngine
from dcgrid.batch.jobs import read_jobs
from dcgrid.batch.plan import BatchPlan, check_rows, make_plan
from dcgrid.batch.run_batch import BatchDone, run_batch
from dcgrid.batch.store import Store, open_store
from dcgrid.batch.worker import WorkerTask
from tests.pipelines.runs import Silence

SMALL: dict[str, Any] = {
    "model": "tiny",
    "dtype": "fp32",
    "duration": 0.4,
    "num_inference_steps": 1,
    "upsample": "none",
    "contact_sheet": False,
}


def write_jobs(clip: Path, rows: Sequence[dict[str, Any]], name: str = "jobs.jsonl") -> Path:
    """Write rows beside a clip; each is of a copy of the clip unless it names its own."""
    path = clip.parent / name
    lines = [json.dumps({"input": clip.name, "effects": ["rain"], **SMALL, **row}) for row in rows]
    path.write_text("\n".join(lines))
    return path


def plan_of(jobs: Path, out: Path | str) -> BatchPlan:
    rows, problems = read_jobs(jobs, {})
    checked, plans, _ = check_rows(rows, problems, Path(out), lambda _: None)
    return make_plan(rows, checked, plans)


def task_of(out: Path | str, number: int = 0, count: int = 1, **more: Any) -> WorkerTask:
    return WorkerTask(out=str(out), number=number, count=count, lease_s=30, **more)


def run(
    jobs: Path,
    out: Path | str,
    engine: Engine | None = None,
    workers: int = 1,
    progress: Silence | None = None,
    *,
    retry_failed: bool = False,
    **more: Any,
) -> BatchDone:
    progress = progress or Silence()
    return run_batch(
        open_store(str(out)),
        plan_of(jobs, out),
        engine or HereEngine(progress=progress),
        [task_of(out, number, workers, **more) for number in range(workers)],
        progress,
        retry_failed=retry_failed,
    )


def pixels(store: Store, done: BatchDone) -> list[list[str]]:
    """Return the hashes of the pixels of each row."""
    found = []
    for row in done.rows:
        text = store.read(f"items/{row['id']}/manifest.json")
        outputs = [] if text is None else json.loads(text)["outputs"]
        found.append([one["frames_sha256"] for one in outputs])
    return found


def copies(clip: Path, count: int) -> list[str]:
    """Copy a clip so many times beside it; return the names."""
    names = [f"clip{number}.mp4" for number in range(count)]
    for name in names:
        shutil.copy(clip, clip.parent / name)
    return names


def leftovers(out: Path) -> list[str]:
    """Return files of a batch that are no result."""
    known = {"plan.json", "index.jsonl"}
    files = [one for one in out.rglob("*") if one.is_file()]
    return [
        str(one.relative_to(out))
        for one in files
        if one.name not in known
        and (one.relative_to(out).parts[0] != "items" or one.name.startswith("."))
    ]
