"""What commands that fill grids do once their job is checked: plan, run, print."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from dcgrid.api import plan_job, prepare_job, run_planned
from dcgrid.cli.output import Output
from dcgrid.pipelines.job import GridJob
from dcgrid.runtime.processes import join_processes

if TYPE_CHECKING:
    from dcgrid.pipelines.baselines import Method
    from dcgrid.pipelines.plan import GenerationPlan
    from dcgrid.pipelines.prepared import Prepared
    from dcgrid.pipelines.run import RunResult
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
    """Check a job with the user's recipes at hand and run it."""

    def work(team: "Team | None", device: str) -> None:
        run_prepared(prepare_job(replace(job, device=device)), output, team, dry_run=dry_run)

    with sink as output:
        in_first_process(job.device, output, work)


def run_prepared(
    prepared: "Prepared", output: Output, team: "Team | None", *, dry_run: bool
) -> None:
    """Plan a checked job, run it unless it is a dry run, and print the result."""
    output.start("planning")
    planned = plan_job(prepared, 1 if team is None else team.processes.count)
    for line in planned.ranker.notes if planned.ranker else ():
        output.warn(line)
    if not _tell_plan(planned.plan, team, output, planned.method, dry_run=dry_run):
        return
    result = run_planned(planned, output, team)
    remark = planned.plan.prepared.names_remark
    lines = _result_lines(result, remark)
    if not result.already_there:
        lines.append(_cost_line(result))
    output.result(lines, {**result.as_json(), "names_remark": remark})


def _cost_line(result: "RunResult") -> str:
    """Return seconds and memory of a run."""
    manifest = result.manifest
    seed, memory = manifest.job.seed, manifest.peak_memory_bytes / 1e9
    return f"{result.seconds:.1f} s, {memory:.1f} GB at most, seed {seed}"


def _tell_plan(
    plan: "GenerationPlan",
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

        lines.append(check_team(plan.model, plan.grids, team.processes))
        value["processes"] = team.processes.count
    if dry_run:
        output.result(lines, {"dry_run": True, **value})
        return False
    for line in lines:
        output.note(line)
    output.expect(plan.stages, value["expected_s"])
    return True


def _result_lines(result: "RunResult", remark: str) -> list[str]:
    """Return the files of a run with what is to be known of them."""
    what = "already there, same settings:" if result.already_there else "wrote"
    lines = [*result.notes, *([f"{remark}."] if remark else [])]
    lines += [f"{what} {path}" for path in result.files]
    if result.same_pixels:
        noun = "story" if result.manifest.command == "story" else "run"
        lines.append(f"same pixels as the {noun} it repeats")
    if result.already_there:
        lines.append("nothing was generated; --force makes them again")
    return lines
