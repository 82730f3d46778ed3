"""`dcgrid batch`: many jobs, one folder, any number of workers."""

import json
import os
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcgrid import hub
from dcgrid.cli import complete
from dcgrid.cli.errors import ShownAsJsonError
from dcgrid.cli.options import (
    DeviceOption,
    DryRunOption,
    FormatOption,
    OfflineOption,
    QuietOption,
    machine,
    main,
    what,
    where,
)
from dcgrid.cli.output import Format, Output
from dcgrid.errors import BatchError, UsageError
from dcgrid.io.progress import counted

if TYPE_CHECKING:
    from dcgrid.batch.engines import Engine
    from dcgrid.batch.plan import BatchPlan, Estimate
    from dcgrid.batch.run_batch import BatchDone
    from dcgrid.batch.store import Store
    from dcgrid.batch.worker import WorkerTask
    from dcgrid.cli.defaults import Settings


class On(StrEnum):
    """What workers run on."""

    LOCAL = "local"
    HERE = "here"
    RAY = "ray"
    SLURM = "slurm"


_Jobs = Annotated[
    str,
    typer.Argument(metavar="JOBS", help="A .csv, .jsonl or .toml file, a folder of clips, or -."),
]
_Out = Annotated[
    str, main("--out", "-o", metavar="DIR", help="Folder of the batch, or s3://..., gs://... .")
]
_Effects = Annotated[
    list[str] | None,
    main(
        "--effect",
        "-e",
        metavar="EFFECT",
        autocompletion=complete.effects,
        help="Effect of rows that name none; up to three times.",
    ),
]
_Set = Annotated[
    list[str] | None,
    what("--set", metavar="KEY=VALUE", help="An option of rows that do not name it."),
]
_On = Annotated[
    On,
    machine(
        "--on", help="local: processes of this machine; here: this one; ray, slurm: a cluster."
    ),
]
_Workers = Annotated[
    int | None,
    machine(
        "--workers",
        "-w",
        metavar="N",
        min=1,
        max=4096,
        help="How many work side by side.",
        show_default="one a GPU, or a CPU core",
    ),
]
_Threads = Annotated[
    int, machine("--threads", metavar="N", min=1, max=1024, help="CPU threads of a worker.")
]
_Retry = Annotated[bool, where("--retry-failed", help="Run rows that failed before once more.")]
_MaxFailures = Annotated[
    int,
    where("--max-failures", metavar="N", min=0, help="Begin no more rows after so many; 0: go on."),
]
_Minutes = Annotated[
    int,
    machine("--minutes", metavar="N", min=1, help="Time limit of a Slurm task."),
]
_Address = Annotated[
    str,
    machine(
        "--address",
        metavar="NAME",
        help="Of a Ray cluster, or the Slurm partition.",
        show_default="this machine; Slurm's own",
    ),
]


def batch(
    context: typer.Context,
    jobs: _Jobs,
    out: _Out,
    effect: _Effects = None,
    set_: _Set = None,
    on: _On = On.LOCAL,
    workers: _Workers = None,
    threads: _Threads = 1,
    device: DeviceOption = "auto",
    retry_failed: _Retry = False,
    max_failures: _MaxFailures = 0,
    address: _Address = "",
    minutes: _Minutes = 240,
    dry_run: DryRunOption = False,
    offline: OfflineOption = False,
    format_: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Run many edits, compositions and stories with the models kept in memory.

    Each row is a job; a column is an option of `edit`, `compose` or `story`. All rows are checked
    before one is begun. Results go to OUT/items/ID, OUT/index.jsonl lists them. However it was
    stopped, the same command goes on; several may work in one folder.
    """
    from dcgrid.batch.plan import check_rows, make_plan
    from dcgrid.batch.run_batch import failures_error, run_batch
    from dcgrid.batch.store import check_place, open_store

    defaults = _defaults(set_ or [], effect or [], offline=offline)
    with Output(format_=format_, quiet=quiet) as output:
        if offline:
            hub.go_offline()
        check_place(out)
        rows, problems = _rows(jobs, defaults, context.obj)
        output.start("checking rows", len(rows))
        checked, plans, estimate = check_rows(rows, problems, Path(out), output.update)
        if dry_run:
            value = {
                "dry_run": True,
                "rows": estimate.rows,
                "expected_s": estimate.seconds,
                "disk_bytes": estimate.disk_bytes,
                "downloads": dict(estimate.downloads),
            }
            output.result(_estimate_lines(estimate), value)
            return
        for line in _estimate_lines(estimate):
            output.note(line)
        _download(plans, output)
        plan = make_plan(rows, checked, plans)
        store = open_store(out)
        _check_disk(store, estimate)
        count = workers or _worker_count(plan, plans, on)
        engine = _engine(on, address, minutes, output, has_gpu=device.startswith("cuda"))
        tasks = _tasks(out, count, device, threads, max_failures)
        if on in (On.RAY, On.SLURM):  # each worker sees the GPU that it was given, and no other
            tasks = [replace(one, device=device, starter=0) for one in tasks]
        done = run_batch(store, plan, engine, tasks, output, retry_failed=retry_failed)
        output.result(_done_lines(done), {"index": done.index, "rows": list(done.rows)})
        error = failures_error(done, out)
        if error is not None:
            raise (
                _ShownRowsError(error.message, hint=error.hint) if format_ == Format.JSON else error
            )


class _ShownRowsError(BatchError, ShownAsJsonError):
    """Failed rows, which the JSON has named already."""


def _rows(jobs: str, defaults: dict[str, Any], settings: "Settings") -> tuple[list[Any], list[str]]:
    """Read the rows; what they leave out is as config.toml and variables have it for a command."""
    from dcgrid.batch.jobs import SetValue, read_jobs

    given = {
        command: {
            name: SetValue(one.value, one.origin)
            for name, one in settings.of_command((command,)).items()
        }
        for command in ("edit", "compose", "story")
    }
    if jobs != "-":
        return read_jobs(Path(jobs), defaults, given)
    try:
        return read_jobs(sys.stdin.read(), defaults, given)
    except UnicodeDecodeError as error:
        raise BatchError(f"standard input is not UTF-8 text: {error}") from error


def _defaults(settings: list[str], effects: list[str], *, offline: bool) -> dict[str, Any]:
    """Return the options of the command line for rows that do not name them."""
    from dcgrid.batch.jobs import check_defaults

    defaults: dict[str, Any] = {"effects": effects} if effects else {}
    for text in settings:
        name, mark, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not mark or not name:
            raise UsageError(
                f"--set {text!r} is not of the form KEY=VALUE", hint="write --set duration=2"
            )
        try:
            defaults[name] = json.loads(value)
        except ValueError:
            defaults[name] = value
    if offline:
        defaults["offline"] = True
    check_defaults(defaults)
    return defaults


def _estimate_lines(estimate: "Estimate") -> list[str]:
    from dcgrid.pipelines.plan import download_lines

    minutes = estimate.seconds
    time = "unknown before a first run" if minutes is None else f"about {minutes / 60:.1f} min"
    return [
        f"Rows: {estimate.rows}, all checked.",
        f"Time: {time} of one worker.",
        f"Disk: about {estimate.disk_bytes / 1e6:.0f} MB.",
        *download_lines(estimate.downloads),
    ]


def _done_lines(done: "BatchDone") -> list[str]:
    counts = ", ".join(
        f"{done.count(one)} {one}" for one in ("done", "failed", "open") if done.count(one)
    )
    failed = [f"{row['place']}: {row['error']}" for row in done.rows if row["status"] == "failed"]
    return [*failed, f"{counted(len(done.rows), 'row')}: {counts}", f"wrote {done.index}"]


def _download(plans: list[Any], output: Output) -> None:
    """Download what rows need, before workers would each do it."""
    from dcgrid.api import fetch_weights

    for planned in {id(one): one for one in plans}.values():
        if planned.plan.downloads:
            fetch_weights(planned, output)


def _check_disk(store: "Store", estimate: "Estimate") -> None:
    from dcgrid.batch.plan import free_bytes

    free = free_bytes(store)
    if free is not None and free < 50_000_000:
        raise BatchError(
            f"{store.location('')} has {free / 1e6:.0f} MB of free space; results will take about "
            f"{estimate.disk_bytes / 1e6:.0f} MB",
            hint="free some space, or use another --out",
        )


def _worker_count(plan: "BatchPlan", plans: list[Any], on: On) -> int:
    """Return how many workers the machine has room for; 1 where the machine is not this one."""
    if on != On.LOCAL:
        return 1
    import torch

    from dcgrid.runtime.device import available_host_memory_bytes, usable_cores

    if torch.cuda.is_available():
        return min(len(plan.items), torch.cuda.device_count())
    need = max(one.plan.need.device_bytes for one in plans)
    room = available_host_memory_bytes() // max(1, need) or usable_cores()
    return max(1, min(len(plan.items), usable_cores(), int(room)))


def _tasks(
    out: str, count: int, device: str, threads: int, max_failures: int
) -> list["WorkerTask"]:
    """Return the settings of each worker; GPUs are assigned in turn."""
    import torch

    from dcgrid.batch.worker import WorkerTask

    place = out if "://" in out else str(Path(out).absolute())
    one = WorkerTask(
        out=place,
        number=0,
        count=count,
        starter=os.getpid(),
        device=device,
        threads=threads,
        max_failures=max_failures,
    )
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return [
        replace(one, number=n, device=f"cuda:{n % gpus}" if gpus else device) for n in range(count)
    ]


def _engine(on: On, address: str, minutes: int, output: Output, *, has_gpu: bool) -> "Engine":
    if on == On.HERE:
        from dcgrid.batch.engines import HereEngine

        return HereEngine(progress=output)
    if on == On.RAY:
        from dcgrid.batch.ray_engine import RayEngine

        return RayEngine(address=address, gpus=int(has_gpu))
    if on == On.SLURM:
        from dcgrid.batch.slurm import SlurmEngine

        return SlurmEngine(partition=address, gpus=int(has_gpu), minutes=minutes)
    from dcgrid.batch.engines import LocalEngine

    return LocalEngine()
