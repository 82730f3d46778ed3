"""What commands that fill grids do once their job is checked: plan, run, print."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from dcgrid import hub
from dcgrid.api import plan_job, prepare_job, run_planned
from dcgrid.cli.output import Output
from dcgrid.errors import DcgridError
from dcgrid.io.progress import NullProgress, Progress
from dcgrid.pipelines.job import GridJob
from dcgrid.runtime.processes import Processes, join_processes

if TYPE_CHECKING:
    from dcgrid.pipelines.baselines import Method
    from dcgrid.pipelines.loading import LoadedModel, ModelRequest
    from dcgrid.pipelines.plan import GenerationPlan
    from dcgrid.pipelines.prepared import Prepared
    from dcgrid.pipelines.run import RunResult

WithHelpers: TypeAlias = Callable[["Helpers | None", str], None]
"""A command's work: gets the other processes that generate with it (None: this one is alone) and
its device."""


class Helpers:
    """The other processes, for the first one: they load what it loads and compute with it."""

    def __init__(self, processes: Processes) -> None:
        from dcgrid.models.wan.group import Group

        self.count = processes.count
        self.group = Group(processes)

    def load(self, request: "ModelRequest", progress: Progress) -> "LoadedModel":
        """Load a model in every process; see `pipelines.loading.load_model`."""
        import torch

        from dcgrid.pipelines.loading import load_model

        # The folder of the model may be another one on another machine, so its name is sent. CPU
        # threads, since pixels may depend on them.
        names = ("job", "mode", "stage", "dtype", "offload")
        told = {name: getattr(request, name) for name in names}
        self.group.processes.tell((told, torch.get_num_threads()))
        loaded = load_model(request, progress)
        return replace(self._joined(loaded), processes=self.count)

    def follow(self, device: str) -> None:
        """Do what the first process does, until it lets this one go.

        Raises:
            UsageError: The model cannot be computed so.
            WeightsError: Weights are missing or damaged on this machine.
        """
        import torch

        from dcgrid.models.registry import find_model
        from dcgrid.pipelines.loading import ModelRequest, load_model

        place = torch.device(device)
        while (order := self.group.serve(place)) is not None:
            told, threads = order
            if told["job"].offline:
                hub.go_offline()
            torch.set_num_threads(threads)
            model = find_model(told["job"].model)
            request = ModelRequest(model=model, device=place, **told)
            self._joined(load_model(request, NullProgress()))

    def _joined(self, loaded: "LoadedModel") -> "LoadedModel":
        from dcgrid.models.wan.backbone import WanBackbone

        if not isinstance(loaded.backbone, WanBackbone):
            raise ValueError("only Wan models are computed by several processes")
        self.group.join(loaded.backbone)
        return loaded


def in_first_process(device: str, output: Output, work: WithHelpers) -> None:
    """Do a command's work in the first of the processes that torchrun started; the others help.

    After an error in the middle of a call, or one that nobody foresaw, torchrun ends the others.

    Args:
        device: What was asked; each process gets its own.
        output: Says nothing in the others.
        work: What the first one does.
    """
    with join_processes(device) as (processes, own):
        if processes.count == 1:
            work(None, own)
            return
        helpers = Helpers(processes)
        try:
            if not processes.is_first:
                output.mute()
                helpers.follow(own)
                return
            try:
                work(helpers, own)
            except DcgridError:
                with suppress(RuntimeError):  # they have gone already
                    helpers.group.dismiss()
                raise
            helpers.group.dismiss()
        finally:
            helpers.group.leave()


def check_and_run(job: GridJob, sink: Output, *, dry_run: bool) -> None:
    """Check a job with the user's recipes at hand and run it."""

    def work(helpers: "Helpers | None", device: str) -> None:
        run_prepared(prepare_job(replace(job, device=device)), output, helpers, dry_run=dry_run)

    with sink as output:
        in_first_process(job.device, output, work)


def run_prepared(
    prepared: "Prepared", output: Output, helpers: "Helpers | None", *, dry_run: bool
) -> None:
    """Plan a checked job, run it unless it is a dry run, and print the result."""
    output.start("planning")
    planned = plan_job(prepared, 1 if helpers is None else helpers.count)
    for line in planned.ranker.notes if planned.ranker else ():
        output.warn(line)
    if not _tell_plan(planned.plan, helpers, output, planned.method, dry_run=dry_run):
        return
    result = run_planned(planned, output, None if helpers is None else helpers.load)
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
    helpers: "Helpers | None",
    output: Output,
    method: "Method | None" = None,
    *,
    dry_run: bool,
) -> bool:
    """Show a plan and, of a baseline, what it does; True: it is to be carried out."""
    lines, value = plan.lines(), plan.as_json()
    if method is not None:
        lines.append(method.line)
    if helpers is not None:
        texts = [grid.texts for grid in plan.grids]
        lines.append(plan.model.check_processes(helpers.count, texts))
        value["processes"] = helpers.count
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
