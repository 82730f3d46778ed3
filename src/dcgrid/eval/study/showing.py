"""The table as text, Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcgrid.errors import OutputError
from dcgrid.eval.study.design import QUESTIONS
from dcgrid.eval.study.preferences import PAPER, Preference, StudyTable
from dcgrid.io.atomic import StagedFiles, refused

FORMAT = "dcgrid-study-table-1"
NAMES = ("table.md", "table.csv", "table.json")
"""What `write_table` writes."""

_LEGEND = (
    "Share of answers for the method in question, [95% Wilson interval], "
    "{95% interval over raters}, answers for it of all; p: exact binomial test against one half, "
    "two-sided, adjusted after Holm over the whole table."
)
_PAPER_HEAD = (
    "From the paper's Table 3 (10 participants; other clips and models, not to be compared)"
)


def table_value(table: StudyTable) -> dict[str, Any]:
    """Return the table for programs."""
    columns = [{"key": one.key, "column": one.column, "text": one.text} for one in QUESTIONS]
    paper = [asdict(row) for row in PAPER]
    return {"format": FORMAT, **asdict(table), "questions": columns, "paper": paper}


def table_lines(table: StudyTable) -> list[str]:
    """Return the table for a terminal."""
    head = ["", *(one.column for one in QUESTIONS)]
    body: list[list[str]] = []
    for row in table.rows:
        cells = [_parts(cell) for cell in row.cells]
        name = f"{table.ours_label} vs. {row.label}"
        body += [
            [name if not line else "", *column]
            for line, column in enumerate(zip(*cells, strict=True))
        ]
        body.append([])
    paper = [[one.label, *(f"{share:.2f}" for share in one.shares)] for one in PAPER]
    widths = [
        max(len(line[place]) for line in [head, *body, *paper] if line)
        for place in range(len(head))
    ]
    return [
        *_summary(table),
        "",
        _aligned(head, widths),
        *(_aligned(line, widths) for line in body),
        _LEGEND,
        "",
        f"{_PAPER_HEAD}:",
        *(_aligned(line, widths) for line in paper),
        "",
        *table.notes,
    ]


def table_markdown(table: StudyTable) -> str:
    """Return the table as Markdown."""
    columns = [one.column for one in QUESTIONS]
    lines = [f"# {_plain(table.title)}", "", *_summary(table), ""]
    lines += [f"| Comparison | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in table.rows:
        cells = ["<br>".join(part for part in _parts(cell) if part) for cell in row.cells]
        lines.append(
            f"| {_plain(table.ours_label)} vs. {_plain(row.label)} | {' | '.join(cells)} |"
        )
    lines += ["", _LEGEND, ""]
    lines += [f"- **{one.column}** {one.topic}: {one.text}" for one in QUESTIONS]
    lines += ["", f"{_PAPER_HEAD}:", ""]
    lines += [f"| Comparison | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [
        f"| {one.label} | {' | '.join(f'{share:.2f}' for share in one.shares)} |" for one in PAPER
    ]
    lines += ["", *(f"- {_plain(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def table_csv(table: StudyTable) -> str:
    """Return the table as CSV, a line a cell; the paper's cells have a share alone."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    names = [name for name in Preference.__dataclass_fields__ if name != "question"]
    writer.writerow(["source", "method", "against", "question", *names])
    for row in table.rows:
        for cell in row.cells:
            values: Mapping[str, object] = asdict(cell)
            writer.writerow(
                ["study", table.ours, row.against, cell.question, *(values[name] for name in names)]
            )
    for paper in PAPER:
        other = paper.label.partition(" vs. ")[2]
        for question, share in zip(QUESTIONS, paper.shares, strict=True):
            line = [share if name == "share" else "" for name in names]
            writer.writerow(["paper", "Ours", other, question.key, *line])
    return sink.getvalue()


def write_table(folder: Path, table: StudyTable, *, force: bool = False) -> list[Path]:
    """Write table.md, table.csv and table.json; all of them or none.

    Raises:
        OutputError: One is there already and `force` is not set, or they cannot be written.
    """
    value = json.dumps(table_value(table), indent=1, ensure_ascii=False, allow_nan=False)
    texts = (table_markdown(table), table_csv(table), f"{value}\n")
    paths = [folder / name for name in NAMES]
    for path in paths:
        if path.exists() and not force:
            raise OutputError(f"{path} exists already", hint="add --force to replace it")
    try:
        folder.mkdir(exist_ok=True)
        with StagedFiles() as staged:
            for path, text in zip(paths, texts, strict=True):
                staged.stage(path).write_text(text, encoding="utf-8")
            staged.commit()
    except OSError as error:
        raise refused(folder, error) from error
    return paths


def _summary(table: StudyTable) -> list[str]:
    counted = [one for one in table.raters if one.is_counted]
    answers = sum(cell.answers for row in table.rows for cell in row.cells)
    side = "" if table.left_share is None else f", {table.left_share:.0%} of them A"
    return [f"Raters counted: {len(counted)} of {len(table.raters)}; answers: {answers}{side}."]


def _parts(cell: Preference) -> tuple[str, ...]:
    """Return the lines of a cell: share, both intervals, counts, p."""
    if cell.share is None:
        return ("-", "", "", "", "")
    p = cell.p_holm or 0.0
    over = "" if cell.rater_low is None else f"{{{cell.rater_low:.2f}, {cell.rater_high:.2f}}}"
    return (
        f"{cell.share:.2f}",
        f"[{cell.low:.2f}, {cell.high:.2f}]",
        over,
        f"{cell.ours} of {cell.answers}",
        "p < 0.001" if p < 0.001 else f"p = {p:.3f}",
    )


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(one.ljust(width) for one, width in zip(line, widths, strict=False)).rstrip()


def _plain(text: str) -> str:
    """Keep text from ending a cell of a table or beginning a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
