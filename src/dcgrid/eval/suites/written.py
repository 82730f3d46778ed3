"""The files of an evaluation, all made from its results."""

from pathlib import Path

from dcgrid.eval.report import write_report
from dcgrid.eval.results import Results, write_results
from dcgrid.eval.tables import csv_summary, csv_table, markdown_table
from dcgrid.io.atomic import write_whole

RESULTS_NAME = "results.json"


def write_all(out: Path, results: Results) -> tuple[Path, ...]:
    """Write everything that a person or a program reads; return the files, the page first."""
    write_results(out / RESULTS_NAME, results)
    texts = {
        "table.md": markdown_table(results),
        "table.csv": csv_summary(results),
        "items.csv": csv_table(results),
    }
    for name, text in texts.items():
        write_whole(out / name, text)
    page = write_report(out, results)
    return (page, *(out / name for name in texts), out / RESULTS_NAME)
