"""What commands that fill grids do once their job is checked: plan, run, print."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from dcgrid import hub
from dcgrid.cli.output import Output
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.plan import prepare_run, refuse_downloads
from dcgrid.runtime.processes import join_processes

if TYPE_CHECKING:
    from dcgrid.eval.ranking import MetricRanker
    from dcgrid.pipelines.baselines import Method
    from dcgrid.pipelines.plan import RunPlan
    from dcgrid.pipelines.prepared import PreparedRun
    from dcgrid.pipelines.run import RunResult
    from dcgrid.pipelines.story import StoryResult
    from dcgrid.pipelines.story_plan import PreparedStory, StoryPlan
    from dcgrid.pipelines.team import Team

WithTeam: TypeAlias = Callable[["Team | None", str], None]
"""A command's work: gets the processes that generate together (None: this one alone) and its
device."""


def in_first_process(device: str, output: Output, work: WithTeam) -> None:
    """Do a command's work in the first of the processes that torchrun started; the others help.

    Args:
        device: What was asked; each process gets its own.
        output: Says nothing in the others.
        work: What the first one does.
    """
    with join_processes(device) as (processes, own):
        if processes.count == 1:
            work(None, own)
            return
        from dcgrid.pipelines.team import follow, leading

        if processes.is_first:
            with leading(processes) as team:
                work(team, own)
        else:
            output.mute()
            follow(processes, own)


def check_and_run(job: GridJob, sink: Output, *, dry_run: bool) -> None:
    """Check a job with the user's recipes at hand and carry it out."""

    def work(team: "Team | None", device: str) -> None:
        prepared = prepare_run(replace(job, device=device), hub.config_dir() / "recipes")
        run_job(prepared, output, team, dry_run=dry_run)

    with sink as output:
        in_first_process(job.device, output, work)


def run_job(prepared: "PreparedRun", output: Output, team: "Team | None", *, dry_run: bool) -> None:
    """Plan a checked job, run it unless it is a dry run, and print the result."""
    if prepared.job.offline:
        hub.go_offline()
    output.start("planning")
    from dcgrid.pipelines.plan import plan_run

    method = _baseline(prepared.job.generated_by)
    plan = plan_run(prepared)
    if method is not None:
        method.refuse(
            windows=len(plan.windows),
            longest_s=plan.spec.max_frames / plan.spec.fps,
            processes=1 if team is None else team.processes.count,
        )
    ranker = _ranker(prepared, plan.device)
    for line in ranker.notes if ranker else ():
        output.warn(line)
    if not _tell_plan(plan, team, output, method, dry_run=dry_run):
        return
    from dcgrid.pipelines import run

    result = run.run_job(
        plan,
        output,
        team,
        generate_fn=None if method is None else method.generate_fn(),
        ranker=ranker if ranker and ranker.keys else None,
    )
    lines = _result_lines(result, plan.prepared.names_remark)
    if not result.already_there:
        seconds = sum(result.manifest.timings_s.values())
        memory = result.manifest.peak_memory_bytes / 1e9
        lines.append(f"{seconds:.1f} s, {memory:.1f} GB at most, seed {prepared.job.seed}")
    output.result(lines, {**result.as_json(), "names_remark": plan.prepared.names_remark})


def _baseline(name: str) -> "Method | None":
    """Return a method by its name; None for the program's own.

    Raises:
        UsageError: There is none of that name.
    """
    if name == "grid":
        return None
    from dcgrid.pipelines.baselines import method_of

    return method_of(name)


def run_story(
    prepared: "PreparedStory", output: Output, team: "Team | None", *, dry_run: bool
) -> None:
    """Plan a checked story, tell it unless it is a dry run, and print the result."""
    if prepared.job.offline:
        hub.go_offline()
    output.start("planning")
    from dcgrid.pipelines.story_plan import plan_story

    plan = plan_story(prepared)
    if not _tell_plan(plan, team, output, dry_run=dry_run):
        return
    from dcgrid.pipelines.story import tell_story

    result = tell_story(plan, output, team)
    lines = _result_lines(result, plan.prepared.names_remark)
    if not result.already_there:
        lines.append(f"{result.seconds:.1f} s, seed {prepared.job.seed}")
    output.result(lines, {**result.as_json(), "names_remark": plan.prepared.names_remark})


def _tell_plan(
    plan: "RunPlan | StoryPlan",
    team: "Team | None",
    output: Output,
    method: "Method | None" = None,
    *,
    dry_run: bool,
) -> bool:
    """Show a plan and, of a baseline, what it does; True: it is to be carried out."""
    lines, value = plan.lines(), plan.as_json()
    if method is not None:
        lines.append(method.line)
    if team is not None:
        from dcgrid.pipelines.team import check_team

        lines.append(check_team(plan.prepared.job.model, plan.grids, team.processes))
        value["processes"] = team.processes.count
    if dry_run:
        output.result(lines, {"dry_run": True, **value})
        return False
    for line in lines:
        output.note(line)
    refuse_downloads(plan.downloads)
    return True


def _ranker(prepared: "PreparedRun", device: str) -> "MetricRanker | None":
    """Return what ranks candidates; None: the cheap scores do, or an earlier run has ranked.

    Raises:
        UsageError: No such metric, or one that needs more than the clip.
        WeightsError: Its weights are not here.
    """
    job = prepared.job
    if not job.rank or prepared.expected_frames:
        return None
    from dcgrid.eval.ranking import make_ranker

    folder = os.environ.get("DCGRID_WEIGHTS")
    return make_ranker(job.rank, device, weights_dir=Path(folder) if folder else None)


def _result_lines(result: "RunResult | StoryResult", remark: str) -> list[str]:
    """Return the files of a run with what is to be known of them."""
    what = "already there, same settings:" if result.already_there else "wrote"
    lines = [*result.notes, *([f"{remark}."] if remark else [])]
    lines += [f"{what} {path}" for path in result.files]
    if result.same_pixels:
        lines.append(f"same pixels as the {_noun(result.manifest.command)} it repeats")
    if result.already_there:
        lines.append("nothing was generated; --force makes them again")
    return lines


def _noun(command: str) -> str:
    return "story" if command == "story" else "run"
