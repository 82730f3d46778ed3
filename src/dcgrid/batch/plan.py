"""What a batch will do: every row checked, each with an id that names its result. No row is begun.

    id = hash of (inputs' content, resolved text and sampler, seed, options, weights, version)

Thousands of rows differ in little: each file is probed once, each text resolved once, and rows that
differ in seed or in clips of one kind share one plan.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from dcgrid import __version__, hub
from dcgrid.adapters.find import find_adapter
from dcgrid.api import PlannedJob, plan_job, prepare_job
from dcgrid.batch.jobs import Row
from dcgrid.batch.store import Store
from dcgrid.errors import BatchError, DcgridError
from dcgrid.io.progress import counted
from dcgrid.io.schema import parse_json
from dcgrid.pipelines.earlier import NO_SETTINGS
from dcgrid.pipelines.job import ComposeJob, EditJob, GridJob, check_input, parse_lora
from dcgrid.pipelines.script import StoryJob
from dcgrid.pipelines.times import expected_seconds
from dcgrid.video.read import probe

FORMAT = "dcgrid-batch-1"
PLAN_NAME = "plan.json"
_BYTES_PER_PIXEL = 0.05
"""Bytes of a result for each pixel of its frames: H.264 as we write it, of ordinary clips, or
less (docs/batch.md has measurements)."""
_KINDS: Mapping[str, type[GridJob]] = {"edit": EditJob, "compose": ComposeJob, "story": StoryJob}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row, ready for any worker."""

    id: str
    """Names its folder; see the head of this file."""
    place: str
    """Where it was written."""
    name: str
    """What the user calls it; may be empty."""
    job: GridJob
    """What is asked, with whole paths."""
    group: str
    """Alike for rows that one loaded model serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """All rows in their order."""

    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """Hash of all ids in their order."""
        return hashlib.sha256(" ".join(one.id for one in self.items).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a batch will take."""

    rows: int
    seconds: float | None
    """Of one worker; None: not known before a first run."""
    disk_bytes: int
    """Of all results, roughly."""
    downloads: Mapping[str, int | None]
    """Bytes by what is downloaded."""


def check_rows(
    rows: Sequence[Row], problems: list[str], out: Path, progress: Callable[[int], None]
) -> tuple[list[GridJob], list[PlannedJob], Estimate]:
    """Check all rows as far as that goes without loading anything.

    Args:
        rows: From `read_jobs`.
        problems: Messages of what is wrong are added.
        out: Where results will go.
        progress: Called with the number of rows that are done.

    Returns:
        For each row its job with whole paths and the plan that it shares, if nothing is wrong.

    Raises:
        BatchError: Something is; the message names every problem of every row.
    """
    checks = _Checks(out)
    jobs, plans, seconds, disk = [], [], list[float | None](), 0
    for number, row in enumerate(rows):
        try:
            planned = checks.plan(row.job)
        except DcgridError as error:
            problems.append(f"{row.place}: {error.message}")
            continue
        finally:
            progress(number + 1)
        jobs.append(checks.located(row.job))
        plans.append(planned)
        seconds.append(checks.seconds(planned))
        disk += checks.disk_bytes(planned)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise BatchError("\n".join(problems), hint=f"{count}; nothing was begun")
    known = [one for one in seconds if one is not None]
    downloads: dict[str, int | None] = {}
    for one in {id(one): one for one in plans}.values():
        downloads.update(one.plan.downloads)
    estimate = Estimate(
        rows=len(rows),
        seconds=sum(known) if len(known) == len(seconds) else None,
        disk_bytes=disk,
        downloads=downloads,
    )
    return jobs, plans, estimate


class _Checks:
    """Plans rows; what rows have in common is looked at once."""

    def __init__(self, out: Path) -> None:
        # A name that no result has, so that nothing is there already.
        self._out = out / "rows"
        self._facts: dict[Path, Any] = {}
        self._plans: dict[str, PlannedJob | DcgridError] = {}
        self._whole: dict[tuple[str, ...], GridJob] = {}
        self._seconds: dict[int, float | None] = {}
        self._shown: dict[str, tuple[Path, ...]] = {}

    def plan(self, job: GridJob) -> PlannedJob:
        """Return the plan that a row shares with rows of the same options and kind of clip.

        Raises:
            DcgridError: The row cannot be run.
        """
        clips = [self._fact(path) for path in job.inputs]
        key = repr((_options(job), clips))
        if key not in self._plans:
            self._shown[key] = job.inputs
            try:
                self._plans[key] = plan_job(prepare_job(replace(job, out=self._out)))
            except DcgridError as error:
                self._plans[key] = error
        found = self._plans[key]
        if isinstance(found, DcgridError):
            message = found.message
            for shown, own in zip(self._shown[key], job.inputs, strict=True):
                message = message.replace(str(shown), str(own))
            raise BatchError(message, hint=found.hint)
        return found

    def located(self, job: GridJob) -> GridJob:
        """Return the job with whole paths; see `GridJob.located`."""
        key = (job.model, job.adapter, *job.loras, job.concepts)
        if key not in self._whole:
            self._whole[key] = job.located()
        one = self._whole[key]
        return replace(
            job, model=one.model, adapter=one.adapter, loras=one.loras, concepts=one.concepts
        )

    def seconds(self, planned: PlannedJob) -> float | None:
        """Return how long a row will take."""
        if id(planned) not in self._seconds:
            self._seconds[id(planned)] = expected_seconds(planned.plan.work)
        return self._seconds[id(planned)]

    def disk_bytes(self, planned: PlannedJob) -> int:
        """Return how large the results of a row will be, roughly."""
        return round(planned.plan.work.pixels * _BYTES_PER_PIXEL)

    def _fact(self, path: Path) -> Any:  # noqa: ANN401 - SourceInfo without its path
        if path not in self._facts:
            try:
                check_input(path)
                self._facts[path] = repr(replace(probe(path), path=Path()))
            except DcgridError as error:
                self._facts[path] = error
        found = self._facts[path]
        if isinstance(found, DcgridError):
            raise found
        return found


def _options(job: GridJob) -> list[tuple[str, object]]:
    """Return all that a job asks beside its inputs and its seed."""
    without = {"input", "first", "second", "source", "seed"}
    named = (one.name for one in fields(job))
    return [(name, getattr(job, name)) for name in named if name not in without]


def make_plan(
    rows: Sequence[Row], jobs: Sequence[GridJob], plans: Sequence[PlannedJob]
) -> BatchPlan:
    """Return the plan of checked rows whose weights are on this machine.

    Raises:
        BatchError: Two rows are the same job.
    """
    digests = _Digests()
    items, places, problems = [], dict[str, str](), []
    for row, job, planned in zip(rows, jobs, plans, strict=True):
        item = Item(
            id=digests.item_id(job, planned),
            place=row.place,
            name=row.name,
            job=job,
            group=digests.group(job),
        )
        if item.id in places:
            problems.append(f"{item.place}: the same job as {places[item.id]}")
        places.setdefault(item.id, item.place)
        items.append(item)
    if problems:
        raise BatchError("\n".join(problems), hint="give one of them another seed, or remove it")
    return BatchPlan(items=tuple(items))


class _Digests:
    """Hashes of what decides results, each computed once."""

    def __init__(self) -> None:
        self._files: dict[Path, str] = {}
        self._weights: dict[tuple[object, ...], str] = {}
        self._texts: dict[int, str] = {}

    def item_id(self, job: GridJob, planned: PlannedJob) -> str:
        """Return the id of a row."""
        settings = {one: getattr(job, one) for one in (f.name for f in fields(job))}
        used = {name: one for name, one in settings.items() if name not in NO_SETTINGS}
        facts = [
            __version__,
            job.command,
            [self._file(path) for path in job.inputs],
            used,
            [job.starts_s, job.duration_s, job.cell_size, job.dtype],
            self._text(planned),
            self.group(job),
        ]
        return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:20]

    def group(self, job: GridJob) -> str:
        """Return a hash of all weights that a job loads, and of how."""
        kind = "composition" if job.command == "compose" else "consistent"
        how = (job.offload, job.quantize, job.attention, job.compile, job.dtype, job.device)
        key = (job.model, job.adapter, job.loras, job.concepts, kind, *how)
        if key not in self._weights:
            files = [*_weight_files(job, kind)]
            hashed = [(part, digest or self._file(path)) for part, path, digest in files]
            self._weights[key] = hashlib.sha256(repr((hashed, how)).encode()).hexdigest()[:16]
        return self._weights[key]

    def _text(self, planned: PlannedJob) -> str:
        if id(planned) not in self._texts:
            grids = [asdict(grid) for grid in planned.plan.grids]
            for grid in grids:
                for edit in grid["edits"]:
                    edit.pop("recipe", None)
            self._texts[id(planned)] = json.dumps(grids, default=str, sort_keys=True)
        return self._texts[id(planned)]

    def _file(self, path: Path) -> str:
        if path not in self._files:
            self._files[path] = hub.file_sha256(path)
        return self._files[path]


def _weight_files(job: GridJob, mode: Any) -> Iterable[tuple[str, Path, str]]:  # noqa: ANN401
    """Yield part, path and, where it is known, hash of the weights that a job loads."""
    from dcgrid.models.registry import find_model
    from dcgrid.pipelines.loading import adapter_reference

    model = find_model(job.model)
    for part, digest in model.digests().items():
        yield part, Path(), digest
    references = [("adapter", adapter_reference(job, model, mode)), ("concepts", job.concepts)]
    references += [(f"lora {one.strength}", one.reference) for one in map(parse_lora, job.loras)]
    for part, reference in references:
        if reference not in ("", "none"):
            yield part, find_adapter(reference, offline=job.offline), ""


def plan_text(plan: BatchPlan, created: str) -> str:
    """Return plan.json."""
    items = [
        {
            "id": one.id,
            "place": one.place,
            "name": one.name,
            "command": one.job.command,
            "group": one.group,
            "job": _said(one.job),
        }
        for one in plan.items
    ]
    values = {"format": FORMAT, "dcgrid": __version__, "created": created, "items": items}
    return f"{json.dumps(values, default=str)}\n"


def _said(job: GridJob) -> dict[str, Any]:
    """Return the fields of a job that differ from their defaults."""
    plain = asdict(job)
    return {one.name: plain[one.name] for one in fields(job) if plain[one.name] != one.default}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """An item of plan.json."""

    id: str
    place: str
    name: str
    command: str
    group: str
    job: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanFile:
    """plan.json."""

    dcgrid: str
    created: str
    items: tuple[_Written, ...]


def read_plan(store: Store) -> BatchPlan | None:
    """Return the plan of a folder; None: it has none.

    Raises:
        BatchError: It is damaged, or of another version.
    """
    text = store.read(PLAN_NAME)
    if text is None:
        return None
    place = store.location(PLAN_NAME)
    document = parse_json(text, place, BatchError, hint="choose another --out")
    if document.values.pop("format", None) != FORMAT:
        raise BatchError(f"{place} is not a plan of format {FORMAT}", hint="choose another --out")
    read = document.build(_PlanFile)
    jobs: dict[str, list[GridJob]] = {}
    for command, kind in _KINDS.items():
        found = [one.job for one in read.items if one.command == command]
        jobs[command] = list(document.build(tuple[kind, ...], found)) if found else []  # type: ignore[valid-type]
    queues = {command: iter(found) for command, found in jobs.items()}
    items = (
        Item(
            id=one.id,
            place=one.place,
            name=one.name,
            job=next(queues[one.command]),
            group=one.group,
        )
        for one in read.items
    )
    return BatchPlan(items=tuple(items))


def settle_plan(store: Store, plan: BatchPlan, created: str) -> bool:
    """Write plan.json, or find that it is there already; return True if it was.

    Raises:
        BatchError: The folder is another batch's.
    """
    if store.create(PLAN_NAME, plan_text(plan, created).encode()):
        return False
    there = read_plan(store)
    if there is None or there.digest == plan.digest:
        return True
    own, other = Counter(one.id for one in plan.items), Counter(one.id for one in there.items)
    same = sum((own & other).values())
    raise BatchError(
        f"{store.location('')} holds another batch: {counted(len(there.items), 'row')}, "
        f"of which {same} are among the {len(plan.items)} of this one",
        hint="choose another --out, or give it the same jobs, clips, weights and version",
    )


def free_bytes(store: Store) -> int | None:
    """Return the free bytes of the folder's disk; None: not known."""
    folder = store.folder
    if folder is None:
        return None
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
