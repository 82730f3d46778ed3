"""`dcgrid eval` from the top: plan, make, score, write. No way back.

    plan_eval -> make_all (generate_unit) -> score_all (score_unit) -> results.json, tables, report

What is made and measured is kept in out/cache, so the same command goes on where it was stopped,
and does only what is new when clips, methods or metrics are added.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcgrid import hub
from dcgrid.eval.report import write_report
from dcgrid.eval.results import (
    ClipEntry,
    Item,
    MethodRow,
    Results,
    TaskEntry,
    write_results,
)
from dcgrid.eval.scoring import Encoders
from dcgrid.eval.suites.eval_clips import DEFAULT_SUBJECT
from dcgrid.eval.suites.eval_plan import SCORING, EvalPlan
from dcgrid.eval.suites.suite import (
    CEILING,
    EvalRequest,
    Unit,
    UnitOutcome,
    item_names,
)
from dcgrid.eval.suites.unit_generation import generate_unit, generation_context
from dcgrid.eval.suites.unit_scoring import Scored, score_unit, scoring_context
from dcgrid.eval.tables import csv_summary, csv_table, markdown_table, table_rows
from dcgrid.io.atomic import write_whole
from dcgrid.io.locks import run_lock
from dcgrid.io.progress import RATES_NAME, NullProgress, Progress, keep_rates, read_rates
from dcgrid.pipelines.baselines import METHODS
from dcgrid.pipelines.manifest import now, versions
from dcgrid.runtime.workers import DeadWorker, Work, work_through
from dcgrid.synthetic.sources import TRAINING_CLIPS

EVAL_STAGES = (("making videos", 0.7), ("scoring", 0.25), ("writing the results", 0.05))
"""What `run_job` does, in order, each with the share of the time that it takes or so."""
REFERENCES = frozenset({"unedited", "codec"})
"""Methods that change nothing and only bound what others can do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalDone:
    """What an evaluation wrote."""

    results: Results
    """All of it."""
    files: tuple[Path, ...]
    """What a person opens, the page first."""


def run_job(plan: EvalPlan, progress: Progress) -> EvalDone:
    """Make what is to be made, score it and write the results.

    Args:
        plan: From `plan_eval`.
        progress: Told of stages and units.

    Raises:
        OutputError: Another run works in the folder, or the disk is full.
        WeightsError: A model is missing or damaged.
    """
    request = plan.request
    with run_lock(request.out / "cache"):
        outcomes = make_all(request, plan.devices, plan.units, progress)
        began_s = time.monotonic()
        scored = score_all(request, plan.devices, outcomes, progress)
        _keep_times(plan, outcomes, time.monotonic() - began_s)
        progress.start("writing the results")
        results = gather(plan, scored)
        return EvalDone(results=results, files=write_all(request.out, results))


def _keep_times(plan: EvalPlan, outcomes: Sequence[UnitOutcome], scoring_s: float) -> None:
    """Keep how long units of each method took, and scores of new videos, for the next plans."""
    path = hub.cache_dir() / RATES_NAME
    rates = read_rates(path, plan.rate_setting)
    for method in {one.unit.method for one in outcomes}:
        seconds = [
            one.seconds
            for one in outcomes
            if one.unit.method == method and one.seconds is not None and not one.errors
        ]
        if seconds:
            rates[method] = sum(seconds) / len(seconds)
    if plan.results and not any(one.was_there for one in outcomes):
        rates[SCORING] = scoring_s / plan.results
    keep_rates(path, plan.rate_setting, rates)


def make_all(
    request: EvalRequest, devices: Sequence[str], units: Sequence[Unit], progress: Progress
) -> list[UnitOutcome]:
    """Do every unit that no earlier run has done."""
    progress.start("making videos", len(units))
    shown = _WarningsOnly(progress) if request.jobs == 1 else progress
    outcomes: dict[int, UnitOutcome] = {}
    make = partial(_generating, request, tuple(devices))
    for index, found in work_through(units, make, request.jobs, shown):
        if isinstance(found, DeadWorker):
            names = item_names(request.suite, found.item)
            found = UnitOutcome(unit=found.item, errors=dict.fromkeys(names, found.reason))
        outcomes[index] = found
        for name, reason in found.errors.items():
            clip = request.clips[found.unit.clip].key
            progress.warn(f"{found.unit.method} failed on {clip}, {name}: {reason}")
        progress.update(len(outcomes))
    there = sum(one.was_there for one in outcomes.values())
    if there:
        progress.note(f"{there} of {len(units)} units were there from an earlier run.")
    return [outcomes[index] for index in range(len(units))]


def score_all(
    request: EvalRequest,
    devices: Sequence[str],
    outcomes: Sequence[UnitOutcome],
    progress: Progress,
) -> list[Scored]:
    """Score every outcome, clip by clip: what is known of a clip serves all methods."""
    progress.start("scoring", len(outcomes))
    order = sorted(range(len(outcomes)), key=lambda index: _place(outcomes[index]))
    found: dict[int, Scored] = {}
    make = partial(_scoring, request, tuple(devices))
    chosen = [outcomes[index] for index in order]
    for turn, scored in work_through(chosen, make, request.jobs, _WarningsOnly(progress)):
        if isinstance(scored, DeadWorker):
            raise RuntimeError(f"scoring stopped: {scored.reason}")
        found[order[turn]] = scored
        progress.update(len(found))
    return [found[index] for index in range(len(outcomes))]


def gather(plan: EvalPlan, scored: Sequence[Scored]) -> Results:
    """Put items, tables and facts together."""
    request = plan.request
    items = tuple(item for one in scored for item in one.items)
    methods = tuple(_method(name) for name in request.suite.methods)
    methods += tuple(
        MethodRow(key=label, label=label, note=f"videos handed in from {folder}")
        for label, folder in request.external.items()
    )
    suite = request.suite
    keys = set(suite.metrics)
    references = tuple(row for row in suite.references if keys & set(row.scores))
    return Results(
        suite=suite.name,
        title=suite.title,
        made=_facts(plan),
        metrics=plan.columns,
        methods=methods,
        clips=_clips(scored),
        tasks=_tasks(request),
        items=items,
        table=table_rows(items, plan.columns, methods),
        references=references,
        notes=_notes(request, items),
    )


class _WarningsOnly(NullProgress):
    """Passes warnings on; the bar counts units, and a remark would come once a clip."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def warn(self, line: str) -> None:
        """Pass a warning on."""
        self._progress.warn(line)


def _generating(
    request: EvalRequest, devices: tuple[str, ...], number: int
) -> Work[Unit, UnitOutcome]:
    return partial(generate_unit, generation_context(request, devices[number % len(devices)]))


def _scoring(
    request: EvalRequest, devices: tuple[str, ...], number: int
) -> Work[UnitOutcome, Scored]:
    device = devices[number % len(devices)]
    # What was to be downloaded is here by now.
    encoders = Encoders(weights_dir=request.weights_dir, device=device, offline=True)
    return partial(score_unit, scoring_context(request, encoders))


def _place(outcome: UnitOutcome) -> tuple[int, tuple[str, ...]]:
    return outcome.unit.clip, tuple(task.key for task in outcome.unit.tasks)


def _method(key: str) -> MethodRow:
    if key == CEILING:
        note = "a reference: the truth after the model's autoencoder"
        return MethodRow(key=key, label="Ceiling", note=note, is_reference=True)
    method = METHODS[key]
    return MethodRow(
        key=key,
        label=method.label,
        note=f"{method.source}: {method.title}",
        is_reference=key in REFERENCES,
    )


def _clips(scored: Iterable[Scored]) -> tuple[ClipEntry, ...]:
    return tuple({one.clip.key: one.clip for one in scored}.values())


def _tasks(request: EvalRequest) -> tuple[TaskEntry, ...]:
    suite = request.suite
    if suite.kind == "compose":
        names = {"around": "the element around the subject", "lit": "lit by the element alone"}
        return tuple(TaskEntry(key=key, label=key, prompt=text) for key, text in names.items())
    return tuple(
        TaskEntry(
            key=task.key,
            label=task.label or task.key,
            prompt=task.prompt.replace("{subject}", DEFAULT_SUBJECT),
        )
        for task in suite.tasks
    )


def _facts(plan: EvalPlan) -> dict[str, str]:
    request = plan.request
    named = versions()
    made = {name: f"{value}" for name, value in named.items()}
    return {
        "date": now(),
        "model": request.model,
        "adapter": request.adapter,
        "device": ", ".join(dict.fromkeys(plan.devices)),
        "seeds": ", ".join(map(str, request.suite.seeds)),
        "clips": str(len(request.clips)),
        "options": ", ".join(f"--{name} from {one}" for name, one in request.origins.items()),
        **made,
    }


def _notes(request: EvalRequest, items: Sequence[Item]) -> tuple[str, ...]:
    """Return what a reader must know, a sentence each."""
    notes = []
    # The embedded model may have seen a clip in this container or another.
    stems = {Path(name).stem for name in TRAINING_CLIPS} if request.model == "mini" else set()
    if seen := [clip.key for clip in request.clips if clip.path.stem in stems]:
        notes.append(
            f"The model {request.model} saw {', '.join(seen)} in training: what it scores there "
            "says less."
        )
    if request.left_out:
        notes.append(f"Files that are no videos: {'; '.join(request.left_out)}.")
    if any(set(request.suite.metrics) & set(row.scores) for row in request.suite.references):
        notes.append(
            "Published rows are of other clips and another model: they are to be read beside the "
            "others, not compared with them."
        )
    without = sum(item.status != "done" for item in items)
    if without:
        notes.append(
            f"Results that are not there: {without} of {len(items)}; they count in no mean."
        )
    return tuple(notes)


RESULTS_NAME = "results.json"


def write_all(out: Path, results: Results) -> tuple[Path, ...]:
    """Write everything that a person or a program reads; return the files, the page first."""
    write_results(out / RESULTS_NAME, results)
    texts = {
        "table.md": markdown_table(results),
        "table.csv": csv_summary(results),
        "items.csv": csv_table(results),
    }
    for name, text in texts.items():
        write_whole(out / name, text)
    page = write_report(out, results)
    return (page, *(out / name for name in texts), out / RESULTS_NAME)
