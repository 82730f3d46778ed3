"""`dcgrid rerun`: make the results of a manifest again."""

from pathlib import Path
from typing import Annotated

import typer

from dcgrid.cli.options import DryRunOption, FormatOption, OfflineOption, OutOption, QuietOption
from dcgrid.cli.output import Format, Output
from dcgrid.cli.run_job import Helpers, in_first_process, run_prepared


def rerun(
    manifest: Annotated[
        Path, typer.Argument(help="The .json file that the run wrote beside its results.")
    ],
    input_: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            help="The input video, if it has moved; twice for both of `compose`.",
            show_default="where it was, or beside the manifest",
        ),
    ] = None,
    out: OutOption = None,
    device: Annotated[
        str,
        typer.Option(
            "--device", help="auto, cpu, cuda, cuda:N or mps.", show_default="the first run's"
        ),
    ] = "",
    dry_run: DryRunOption = False,
    offline: OfflineOption = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            "-f",
            help="Go on if input, weights or pixels differ, and replace existing results.",
        ),
    ] = False,
    format_: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Make the same pixels again from the manifest of an edit, a composition or a story.

    It checks that they are the same. Results are named like the first ones with .rerun in the
    name. Input and weights must be the very files of the first run.
    """
    from dcgrid.pipelines.rerun import RerunJob, prepare_rerun

    def work(helpers: Helpers | None, own_device: str) -> None:
        job = RerunJob(
            manifest=manifest,
            inputs=tuple(input_ or ()),
            out=out,
            # Each of several processes has a device of its own, whatever the first run's was.
            device=device if helpers is None else own_device,
            force=force,
            offline=offline,
        )
        output.start("comparing files with the manifest")
        prepared, first = prepare_rerun(job)
        version = first.versions.get("dcgrid", "?")
        named = {"edit": "an edit", "compose": "a composition"}.get(first.command, "a story")
        output.note(f"Repeats {named} of {first.created} by dcgrid {version}.")
        run_prepared(prepared, output, helpers, dry_run=dry_run)

    with Output(format_=format_, quiet=quiet) as output:
        in_first_process(device or "auto", output, work)
