"""`dcgrid compose`: put the subject of one video together with what another one shows."""

from pathlib import Path
from typing import Annotated

import typer

from dcgrid.cli import complete
from dcgrid.cli.options import (
    DryRunOption,
    EditOptions,
    FormatOption,
    QuietOption,
    main,
    what,
    with_options,
)
from dcgrid.cli.output import Format, Output
from dcgrid.pipelines.elements import ELEMENT_CLIPS, element_clip
from dcgrid.pipelines.job import ComposeJob

_First = Annotated[Path, typer.Argument(metavar="A", help="The video of the subject.")]
_Second = Annotated[
    Path | None,
    typer.Argument(
        metavar="B",
        help="The video of what is put with it: fire, water, sparks.",
        show_default="the program's own clip of --concept",
    ),
]
_Subject = Annotated[
    str, main("--subject", metavar="TEXT", help='Who or what A shows, e.g. "a man".')
]
_Concept = Annotated[
    str,
    main(
        "--concept",
        autocompletion=complete.elements,
        metavar="TEXT",
        help='What B shows, e.g. "a shower of sparks". Without B one of '
        f"{', '.join(ELEMENT_CLIPS)}.",
    ),
]
_Prompts = Annotated[
    list[str] | None,
    main("--prompt", "-p", metavar="TEXT", help="How a fusion is to look; up to twice."),
]
_Motion = Annotated[
    str, what("--motion", metavar="TEXT", help='What the subject does, e.g. "dance".')
]
_ConceptMotion = Annotated[
    str, what("--concept-motion", metavar="TEXT", help='What that does, e.g. "spark motion".')
]
_ConceptStart = Annotated[
    float | None,
    what(
        "--concept-start",
        min=0,
        metavar="SECONDS",
        help="Seconds into B to begin at.",
        show_default="0",
    ),
]
_Layout = Annotated[
    str,
    what(
        "--layout",
        autocompletion=complete.layouts,
        metavar="LAYOUT",
        help="composition-2x2, composition-1x3, or a recipe of yours.",
    ),
]


@with_options
def compose(
    first: _First,
    second: _Second = None,
    concept: _Concept = "",
    subject: _Subject = "",
    prompt: _Prompts = None,
    motion: _Motion = "",
    concept_motion: _ConceptMotion = "",
    concept_start: _ConceptStart = None,
    layout: _Layout = "composition-2x2",
    *,
    options: EditOptions,
    dry_run: DryRunOption = False,
    format_: FormatOption = Format.TEXT,
    quiet: QuietOption = False,
) -> None:
    """Compose two videos: the subject of A with the fire, the sparks, the light of B.

    B takes the size of A, and both are cut to the shorter. Two fusions go beside A, named after
    both (a.b.fusion.mp4, a.b.fusion-2.mp4), with a contact sheet and a manifest for `dcgrid rerun`.
    Without B, --concept names a clip that comes with the program: --concept sparks.
    """
    from dcgrid.cli.run_job import check_and_run

    if second is None:
        element = element_clip(concept)
        second, concept = element.path, element.phrase
        concept_motion = concept_motion or element.motion
    job = ComposeJob(
        first=first,
        second=second,
        subject=subject,
        motion=motion,
        concept=concept,
        concept_motion=concept_motion,
        prompts=tuple(text for text in prompt or () if text.strip()),
        layout=layout,
        concept_start_s=concept_start,
        **options.job_fields(),
    )
    check_and_run(job, Output(format_=format_, quiet=quiet), dry_run=dry_run)
