"""`dcgrid eval study`: a blinded user study as a web page, and its table.

Only `make` loads torch, for the videos.
"""

from pathlib import Path
from typing import Annotated

import typer

from dcgrid.cli.help import App
from dcgrid.cli.interrupts import until_interrupted
from dcgrid.cli.options import ForceOption, FormatOption, QuietOption
from dcgrid.cli.output import Format, Output
from dcgrid.eval.study.make import CHECKS, DEFAULT_TITLE, PAIRS, MadeStudy
from dcgrid.io.progress import counted

app = App(
    help="Ask people which of two edits is better: make a page, collect answers, count them.",
    no_args_is_help=True,
)

StudyArgument = Annotated[
    Path, typer.Argument(metavar="STUDY", help="Folder that `study make` made.")
]


@app.command("make")
def make(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Folder or results.json of `dcgrid eval`.")
    ],
    ours: Annotated[str, typer.Option("--ours", help="The method in question, by its key.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the study.")],
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="A method to compare with; may be given again. None: all."),
    ] = None,
    pairs: Annotated[
        int, typer.Option("--pairs", help="Pairs that a rater gets, at most.")
    ] = PAIRS,
    checks: Annotated[
        int, typer.Option("--checks", help="Attention checks that a rater gets beside them.")
    ] = CHECKS,
    seed: Annotated[int, typer.Option("--seed", help="Names of files are drawn with it.")] = 0,
    title: Annotated[str, typer.Option("--title", help="Head of the page.")] = DEFAULT_TITLE,
    contact: Annotated[
        str, typer.Option("--contact", help="Whom raters can ask and hand their file to.")
    ] = "",
    outside: Annotated[
        bool,
        typer.Option("--outside", help="Take videos outside of the results' folder, too."),
    ] = False,
    force: ForceOption = False,
    quiet: QuietOption = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Make a study: a page to hand out, and the key that says who made which video.

    Raters see two edits of a clip side by side, without names, and answer the four questions of the
    paper's Table 3. Hand out STUDY/page; keep STUDY/key.json to yourself.
    """
    from dcgrid.eval.study.make import StudyConfig, make_study

    config = StudyConfig(
        ours=ours,
        against=tuple(against or ()),
        pairs=pairs,
        checks=checks,
        seed=seed,
        title=title,
        contact=contact,
        outside=outside,
    )
    with Output(format_=format_, quiet=quiet) as output:
        output.start("writing videos")
        made = make_study(results, out, config, force=force, on_video=output.update)
        output.result(_made_lines(made), _made_value(made))


@app.command("serve")
def serve(
    study: StudyArgument,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8765,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Address to listen at; 0.0.0.0 lets other machines in, without a lock."
        ),
    ] = "127.0.0.1",
    quiet: QuietOption = False,
) -> None:
    """Serve a study's page and collect answers in STUDY/answers, until Ctrl-C.

    It is not needed: the page works as a file and from any web server, and raters then download
    their answers.
    """
    from dcgrid.eval.study.serve import make_server

    with Output(quiet=quiet) as output:
        server = make_server(study, host, port, lambda name: output.note(f"answers: {name}"))
        output.result([f"http://{host}:{server.server_port}/"], {})
        output.note(f"answers go to {study / 'answers'}; Ctrl-C ends it")
        with server, until_interrupted():
            server.serve_forever()


@app.command("table")
def table(
    study: StudyArgument,
    answers: Annotated[
        list[Path],
        typer.Argument(metavar="ANSWERS...", help="Files of raters, or folders that hold them."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for table.md, table.csv and table.json, too."),
    ] = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Count answers: the paper's Table 3, with intervals and tests.

    A file that does not fit the study is named and nothing is counted. Raters who fail more than a
    third of the attention checks are left out, and the table says so.
    """
    from dcgrid.eval.study.answers import read_answers
    from dcgrid.eval.study.design import read_key
    from dcgrid.eval.study.preferences import make_table
    from dcgrid.eval.study.showing import table_lines, table_value, write_table

    with Output(format_=format_, quiet=quiet) as output:
        output.busy("reading answers")
        key = read_key(study)
        found, notes = read_answers(answers, key)
        made = make_table(key, found, notes)
        files = [] if out is None else write_table(out, made, force=force)
        lines = [*table_lines(made), *(f"wrote {path}" for path in files)]
        output.result(lines, {**table_value(made), "files": files})


def _made_lines(made: MadeStudy) -> list[str]:
    key = made.key
    lines = [
        f"{counted(len(key.pairs), 'pair')} of {key.labels[key.ours]} against "
        f"{', '.join(key.labels[name] for name in key.against)}; a rater gets {key.per_rater} "
        f"and {len(key.checks)} attention checks",
    ]
    if made.left_out:
        lines.append(
            f"{counted(made.left_out, 'pair')} left out: one of the two videos is not there"
        )
    if made.unlike:
        lines.append(f"pairs of another size or length, which raters can see: {made.unlike}")
    return [
        *lines,
        f"hand out {made.folder / 'page'}: it works as a file and from any web server",
        f"keep {made.folder / 'key.json'} to yourself: it says who made which video",
        f"then: dcgrid eval study table {made.folder} ANSWERS...",
    ]


def _made_value(made: MadeStudy) -> dict[str, object]:
    key = made.key
    return {
        "study": key.id,
        "folder": made.folder,
        "page": made.folder / "page" / "index.html",
        "key": made.folder / "key.json",
        "pairs": len(key.pairs),
        "pairs_per_rater": key.per_rater,
        "checks": len(key.checks),
        "left_out": made.left_out,
        "unlike": made.unlike,
    }
