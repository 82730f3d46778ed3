"""What commands that fill grids do once their job is checked: plan, run, print."""

from typing import TYPE_CHECKING

from dcgrid import hub
from dcgrid.cli.output import Output
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.plan import prepare_run

if TYPE_CHECKING:
    from dcgrid.pipelines.plan import PreparedRun
    from dcgrid.pipelines.run import RunResult
    from dcgrid.pipelines.story_plan import PreparedStory


def check_and_carry_out(job: GridJob, sink: Output, *, dry_run: bool) -> None:
    """Check a job with the user's recipes at hand and carry it out."""
    with sink as output:
        carry_out(prepare_run(job, hub.config_dir() / "recipes"), output, dry_run=dry_run)


def carry_out(prepared: "PreparedRun", output: Output, *, dry_run: bool) -> None:
    """Plan a checked job, run it unless it is a dry run, and print the result."""
    if prepared.job.offline:
        hub.go_offline()
    from dcgrid.pipelines.plan import plan_run

    plan = plan_run(prepared)
    if dry_run:
        output.result(plan.lines(), {"dry_run": True, **plan.as_json()})
        return
    for line in plan.lines():
        output.note(line)
    from dcgrid.pipelines import run

    result = run.carry_out(plan, output)
    output.result(_lines(result), result.as_json())


def carry_out_story(prepared: "PreparedStory", output: Output, *, dry_run: bool) -> None:
    """Plan a checked story, tell it unless it is a dry run, and print the result."""
    if prepared.job.offline:
        hub.go_offline()
    from dcgrid.pipelines.story_plan import plan_story

    plan = plan_story(prepared)
    if dry_run:
        output.result(plan.lines(), {"dry_run": True, **plan.as_json()})
        return
    for line in plan.lines():
        output.note(line)
    from dcgrid.pipelines.story import tell_story

    result = tell_story(plan, output)
    lines = [*result.notes, *(f"wrote {path}" for path in result.files)]
    if result.same_pixels:
        lines.append("same pixels as the story it repeats")
    lines.append(f"{result.seconds:.1f} s, seed {prepared.job.seed}")
    output.result(lines, result.as_json())


def _lines(result: "RunResult") -> list[str]:
    manifest = result.manifest
    seconds = sum(manifest.timings_s.values())
    lines = [*result.notes, *(f"wrote {path}" for path in result.files)]
    if result.same_pixels:
        lines.append("same pixels as the run it repeats")
    memory = manifest.peak_memory_bytes / 1e9
    return [*lines, f"{seconds:.1f} s, {memory:.1f} GB at most, seed {manifest.job.seed}"]
