"""`dcgrid eval`: suites over clips, the report page, what can be measured, the user study.

`dcgrid eval CLIPS` is `dcgrid eval run CLIPS`: the first word is looked at only to see whether it
is a subcommand.
"""

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcgrid import hub
from dcgrid.cli import complete, study
from dcgrid.cli.help import App, Group
from dcgrid.cli.options import (
    DryRunOption,
    FormatOption,
    ModelOptions,
    QuietOption,
    how,
    main,
    what,
    where,
    with_options,
)
from dcgrid.cli.output import Format, Output

if TYPE_CHECKING:
    from dcgrid.eval.results import Results
    from dcgrid.eval.suites.suite import EvalRequest

INCOMPLETE = 3
"""Exit code where some results are not there."""
UNMEASURED = 4
"""Exit code where a metric that was asked for could not be measured."""


class _RunByDefault(Group):
    """Takes what is no subcommand for the arguments of `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - Typer's own
        """Put `run` in front where no subcommand is named."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = App(
    cls=_RunByDefault,
    help="Edit clips with every method, score the results, and show them side by side.",
    no_args_is_help=True,
)
app.add_typer(study.app, name="study")

_Clips = Annotated[
    list[Path] | None,
    typer.Argument(metavar="CLIPS", help="Video files, or folders of them.", show_default=False),
]
_Suite = Annotated[
    str,
    main(
        "--suite",
        "-s",
        autocompletion=complete.suites,
        metavar="SUITE",
        help="paper, truth, compose, story, or path of one.",
    ),
]
_Methods = Annotated[
    list[str] | None,
    main(
        "--method",
        autocompletion=complete.methods,
        metavar="METHOD",
        help="Method, in place of the suite's; see `dcgrid eval methods`. Repeat.",
    ),
]
_Metrics = Annotated[
    list[str] | None,
    main(
        "--metric",
        autocompletion=complete.metrics,
        metavar="METRIC",
        help="Metric, in place of the suite's; see `dcgrid eval metrics`. Repeat.",
    ),
]
_Out = Annotated[
    Path | None,
    main("--out", "-o", metavar="FOLDER", help="Folder of the results.", show_default="eval-SUITE"),
]
_Seeds = Annotated[
    list[int] | None,
    what(
        "--seed",
        min=0,
        metavar="N",
        help="Seed, in place of the suite's; each is one more result. Repeat.",
    ),
]
_Limit = Annotated[
    int | None, what("--limit", min=1, metavar="N", help="Take the first so many clips.")
]
_Duration = Annotated[
    float | None,
    what(
        "--duration",
        min=0,
        metavar="SECONDS",
        help="Seconds of each clip.",
        show_default="the model's",
    ),
]
_External = Annotated[
    list[str] | None,
    what(
        "--results",
        metavar="NAME=FOLDER",
        help="Videos of another program, FOLDER/CLIP.TASK.mp4, as one more method. Repeat.",
    ),
]
_Captions = Annotated[
    Path | None,
    what(
        "--captions",
        metavar="FILE",
        help="What clips show, in words (TOML).",
        show_default="captions.toml beside the clips",
    ),
]
_Masks = Annotated[
    Path | None,
    what(
        "--masks",
        metavar="FOLDER",
        help="Folder of videos or pictures, white where the subject is.",
        show_default="masks/ beside the clips",
    ),
]
_Weights = Annotated[
    Path | None,
    how(
        "--weights",
        metavar="FOLDER",
        help="Folder with weights of metrics, looked in before the cache; DCGRID_WEIGHTS, too.",
    ),
]
_Pull = Annotated[
    bool,
    how(
        "--pull",
        help="First download networks of metrics that are not here; about 2 GB for all. Those for "
        "non-commercial use need `dcgrid models pull`.",
    ),
]
_Jobs = Annotated[
    int,
    where(
        "--jobs",
        "-j",
        min=1,
        max=64,
        metavar="N",
        help="Processes side by side; on several GPUs one each.",
    ),
]


@app.command("run")
@with_options
def run(
    clips: _Clips = None,
    suite: _Suite = "paper",
    method: _Methods = None,
    metric: _Metrics = None,
    out: _Out = None,
    seed: _Seeds = None,
    limit: _Limit = None,
    duration: _Duration = None,
    results: _External = None,
    captions: _Captions = None,
    masks: _Masks = None,
    weights: _Weights = None,
    pull: _Pull = False,
    jobs: _Jobs = 1,
    *,
    options: ModelOptions,
    dry_run: DryRunOption = False,
    format_: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Edit clips with every method of a suite and score the results (also without the word `run`).

    Writes report.html, table.md, table.csv, items.csv and results.json into --out. The same command
    goes on where it was stopped, and does only what is new. Exit code 3: some results are not
    there; 4: a metric that --metric names cannot be measured here.
    """
    with Output(format_=format_, quiet=quiet) as output:
        if options.offline:
            hub.go_offline()
        output.busy("planning")
        request = _request(
            clips or [],
            suite,
            {"methods": method, "metrics": metric, "seeds": seed},
            {"limit": limit, "captions": captions, "masks": masks},
            results or [],
            {
                **asdict(options),
                "duration_s": duration,
                "pull": pull,
                "jobs": jobs,
                "weights_dir": weights,
                **({"out": out} if out is not None else {}),
            },
        )
        _run_job(request, output, metric or (), dry_run=dry_run)


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of an evaluation.")],
    format_: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Write the page and the tables of an evaluation anew from its results.json."""
    from dcgrid.eval.results import read_results
    from dcgrid.eval.suites.eval_run import RESULTS_NAME, write_all

    with Output(format_=format_, quiet=quiet) as output:
        output.busy("writing the page")
        files = write_all(folder, read_results(folder / RESULTS_NAME))
        lines = [f"wrote {path}" for path in files]
        output.result(lines, {"files": files})


@app.command("world")
def world(
    grounds: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CLIPS",
            help="Real clips that subjects move over; none: photographs of the world.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the clips.")] = Path(
        "world-clips"
    ),
    count: Annotated[int, typer.Option("--count", help="How many clips.")] = 6,
    seed: Annotated[int, typer.Option("--seed", help="Seed of what is drawn.")] = 0,
    store: Annotated[
        Path | None,
        typer.Option(
            "--world", help="Folder of the world's pictures.", show_default="in the cache folder"
        ),
    ] = None,
    format_: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Draw clips of the procedural world, with masks of their subjects and captions.

    The world's pictures come from `dcgrid train --fetch-world`.
    """
    from dcgrid.eval.suites.world import WorldJob, draw_clips

    with Output(format_=format_, quiet=quiet) as output:
        output.busy("drawing clips")
        folder = store or hub.cache_dir() / "world"
        job = WorldJob(store=folder, out=out, count=count, seed=seed, grounds=tuple(grounds or ()))
        paths = draw_clips(job)
        lines = [f"wrote {path}" for path in paths]
        output.result(lines, {"clips": paths})


@app.command("metrics")
def metrics(weights: _Weights = None, format_: FormatOption = Format.TEXT) -> None:
    """List what can be measured, with which network, and why not where it cannot."""
    with Output(format_=format_) as output:
        output.busy("looking for networks")
        from dcgrid.eval.scoring import METRICS, Encoders

        columns = Encoders(weights_dir=weights).columns(tuple(METRICS))
        lines = []
        for one in columns:
            where = f" [{one.encoder}]" if one.encoder else ""
            state = f"\n{'':18}not here: {one.unavailable}" if one.unavailable else ""
            lines.append(f"{one.key:17} {one.title}{where}{state}")
        values = [
            {
                "key": one.key,
                "label": one.label,
                "title": one.title,
                "better": one.better,
                "encoder": one.encoder,
                "unavailable": one.unavailable,
            }
            for one in columns
        ]
        output.result(lines, {"metrics": values})


@app.command("methods")
def methods(format_: FormatOption = Format.TEXT) -> None:
    """List the methods that `dcgrid edit --method` and suites know, with their sources."""
    from dcgrid.pipelines.baselines import METHODS

    with Output(format_=format_) as output:
        lines = [
            f"{key:17} {one.label}: {one.title}{' (trains on the clip)' * one.trains}. {one.source}"
            for key, one in METHODS.items()
        ]
        values = [
            {
                "key": key,
                "label": one.label,
                "title": one.title,
                "source": one.source,
                "trains": one.trains,
            }
            for key, one in METHODS.items()
        ]
        output.result(lines, {"methods": values})


def _request(
    clips: list[Path],
    suite_name: str,
    instead: dict[str, Any],
    finding: dict[str, Any],
    external: list[str],
    fields: dict[str, Any],
) -> "EvalRequest":
    """Return what is asked, the suite with the options of the command line in it."""
    from dcgrid.eval.suites.eval_clips import find_clips, unused_files
    from dcgrid.eval.suites.external import parse_external
    from dcgrid.eval.suites.suite import EvalRequest, load_suite

    suite = load_suite(suite_name, hub.config_dir() / "recipes")
    chosen: dict[str, Any] = {name: tuple(value) for name, value in instead.items() if value}
    suite = replace(suite, **chosen)
    fields = {"out": Path(f"eval-{suite.name}"), **fields}
    return EvalRequest(
        suite=suite,
        clips=find_clips(clips, **finding),
        left_out=unused_files(clips),
        external=parse_external(external, suite.methods),
        **fields,
    )


def _run_job(
    request: "EvalRequest", output: Output, required: Collection[str], *, dry_run: bool
) -> None:
    """Plan an evaluation, do it unless it is a dry run, print the table, and set the exit code."""
    from dcgrid.eval.suites.eval_plan import plan_eval

    if request.pull and not dry_run:
        output.start("downloading what metrics lack")
    plan = plan_eval(request, dry_run=dry_run)
    if dry_run:
        output.result(plan.lines(), {"dry_run": True, **plan.as_json()})
        return
    for line in plan.lines():
        output.note(line)
    from dcgrid.eval.results import as_json
    from dcgrid.eval.suites.eval_run import EVAL_STAGES, run_job
    from dcgrid.eval.tables import text_table

    output.expect(EVAL_STAGES)
    done = run_job(plan, output)
    lines = [*text_table(done.results).splitlines(), *(f"wrote {path}" for path in done.files)]
    output.result(lines, as_json(done.results))
    code = _exit_code(done.results, required)
    if code:
        raise typer.Exit(code)


def _exit_code(results: "Results", required: Collection[str]) -> int:
    """Return what a script should know: results that are not there weigh more than columns.

    A metric of the suite that cannot be measured here is a blank column, one that --metric names
    was asked for.
    """
    if any(item.status != "done" for item in results.items):
        return INCOMPLETE
    lacking = (one.key for one in results.metrics if one.unavailable)
    return UNMEASURED if any(key in required for key in lacking) else 0
