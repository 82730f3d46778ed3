"""`dcgrid edit`: up to three edits of a video in one pass."""

from pathlib import Path
from typing import Annotated

import typer

from dcgrid.cli import complete
from dcgrid.cli.options import (
    DryRunOption,
    EditOptions,
    FormatOption,
    QuietOption,
    how,
    main,
    what,
    where,
    with_options,
)
from dcgrid.cli.output import Format, Output
from dcgrid.pipelines.job import EditJob, Keep

_Input = Annotated[Path, typer.Argument(metavar="INPUT", help="The video to edit.")]
_Effects = Annotated[
    list[str] | None,
    main(
        "--effect",
        "-e",
        autocompletion=complete.effects,
        metavar="EFFECT",
        help="See `dcgrid recipes list`; up to three times.",
    ),
]
_Prompt = Annotated[
    str,
    main("--prompt", "-p", metavar="TEXT", help="The edit in your own words; counts as one."),
]
_Subject = Annotated[
    str, main("--subject", metavar="TEXT", help='Who or what the video shows, e.g. "a cat".')
]
_Motion = Annotated[
    str, what("--motion", metavar="TEXT", help='What the subject does, e.g. "jump".')
]
_Layout = Annotated[
    str,
    what(
        "--layout",
        autocompletion=complete.layouts,
        metavar="LAYOUT",
        help="Grid layout: name or path of a recipe.",
    ),
]
_Keep = Annotated[Keep, where("--keep", help="Spare cells repeat an edit: write the best, or all.")]
_Method = Annotated[
    str,
    how(
        "--method",
        autocompletion=complete.methods,
        metavar="METHOD",
        help="What generates: grid, or a baseline for comparisons: inpaint, sdedit, flowedit; "
        "dreambooth, dreammix, set-and-sequence (train on the clip first); unedited, codec.",
    ),
]


@with_options
def edit(
    input_: _Input,
    effect: _Effects = None,
    prompt: _Prompt = "",
    subject: _Subject = "",
    motion: _Motion = "",
    layout: _Layout = "edit-2x2",
    method: _Method = "grid",
    keep: _Keep = "best",
    *,
    options: EditOptions,
    dry_run: DryRunOption = False,
    format_: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Edit a video: the same clip in the rain, at night, in your words.

    Up to three edits are made in one pass. Results go beside the input and are named after it and
    the edit (input.rain.mp4), with a contact sheet (.png) and a manifest (.json) from which
    `dcgrid rerun` makes the same pixels again.
    """
    from dcgrid.cli.run_job import check_and_run

    job = EditJob(
        input=input_,
        effects=tuple(effect or ()),
        prompt=prompt,
        subject=subject,
        motion=motion,
        layout=layout,
        method=method,
        keep=keep,
        **options.job_fields(),
    )
    check_and_run(job, Output(format_=format_, quiet=quiet), dry_run=dry_run)
