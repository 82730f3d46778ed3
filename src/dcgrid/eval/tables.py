"""Tables of an evaluation, laid out as the paper's Tables 1 and 2: Markdown, text, CSV. No torch.

    method     ID               C-T              TC
    dc-grid    0.5750 ± 0.0123 (11/12)   ...          own rows: best bold, second best underlined
    ------------------------------------------
    Table 2: Ours   0.5750   0.2194   0.9965          published rows: never marked, never ranked

A video that failed or is missing counts in the second figure of (11/12), so that a method cannot
gain by failing where it is hard.
"""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from dcgrid.eval.columns import METRICS
from dcgrid.eval.results import (
    Item,
    MethodRow,
    MetricColumn,
    ReferenceRow,
    Results,
    Spread,
    TableRow,
)

Mark = Literal["best", "second"]

REFERENCES = "Published rows: other data and other models, not to be ranked with the rows above"
"""What stands over the rows of a publication."""

UNEDITED = "unedited"
LOST_DETAIL = (
    "Unedited is the clip at the size that the model works at, enlarged as every result is, beside "
    "the clip at its own size. What it lacks to {best:g} is detail that no method is given."
)
"""Why the unedited clip is not as like its source as can be."""

_ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}


def table_rows(
    items: Iterable[Item], metrics: Sequence[MetricColumn], methods: Sequence[MethodRow]
) -> tuple[TableRow, ...]:
    """Bring items together, a row a method, in the order of the methods.

    Raises:
        ValueError: An item is of a method that is not among them: a caller's bug.
    """
    by_method: dict[str, list[Item]] = {method.key: [] for method in methods}
    for item in items:
        if item.method not in by_method:
            raise ValueError(f"item {item.key} is of the unknown method {item.method!r}")
        by_method[item.method].append(item)
    return tuple(_row(key, own, metrics) for key, own in by_method.items())


def _row(method: str, own: Sequence[Item], metrics: Sequence[MetricColumn]) -> TableRow:
    counts = Counter(item.status for item in own)
    return TableRow(
        method=method,
        scores={metric.key: spread(own, metric.key) for metric in metrics},
        done=counts["done"],
        failed=counts["failed"],
        missing=counts["missing"],
    )


def spread(items: Sequence[Item], metric: str) -> Spread:
    """Return mean and standard deviation of a metric; n - 1 clips divide the squares.

    A clip with many tasks or seeds weighs as much as one with few.
    """
    by_clip: dict[str, list[float]] = {}
    for item in items:
        score = item.scores.get(metric)
        if score is not None and score.value is not None:
            by_clip.setdefault(item.clip, []).append(score.value)
    # statistics computes in fractions: clips that are alike have a deviation of exactly 0.
    means = [statistics.mean(values) for values in by_clip.values()]
    return Spread(
        mean=statistics.mean(means) if means else None,
        std=statistics.stdev(means) if len(means) > 1 else None,
        measured=sum(len(values) for values in by_clip.values()),
        items=len(items),
    )


def marks(results: Results) -> dict[str, dict[str, Mark]]:
    """Return which cells are best and second best: metric key -> method key -> mark.

    A method of which fewer than half the videos could be measured is not ranked: it would be by its
    easy ones. Values that read the same at the column's digits are tied and share a mark. A column
    in which fewer than two methods have a value, or in which no way is better, has no marks.
    References such as the unedited clip have none.
    """
    bounds = {method.key for method in results.methods if method.is_reference}
    rows = [row for row in results.table if row.method not in bounds]
    return {metric.key: _column_marks(rows, metric) for metric in results.metrics}


def _column_marks(rows: Sequence[TableRow], metric: MetricColumn) -> dict[str, Mark]:
    shown = {
        row.method: round(mean, metric.digits)
        for row in rows
        if (mean := _mean(row, metric.key)) is not None
        and 2 * row.scores[metric.key].measured >= row.scores[metric.key].items
    }
    if metric.better == "neither" or len(shown) < 2:
        return {}
    ranked = sorted(set(shown.values()), reverse=metric.better == "higher")
    names: dict[float, Mark] = dict(zip(ranked, ("best", "second"), strict=False))
    return {method: names[value] for method, value in shown.items() if value in names}


def gaps(results: Results) -> dict[str, dict[str, str]]:
    """Return why values are lacking: metric key -> method key -> a sentence; whole cells: none."""
    by_method: dict[str, list[Item]] = {row.method: [] for row in results.table}
    for item in results.items:
        by_method.setdefault(item.method, []).append(item)
    return {
        metric.key: {
            method: reason
            for method, own in by_method.items()
            if (reason := metric.unavailable or _gap(own, metric.key))
        }
        for metric in results.metrics
    }


def remarks(results: Results) -> dict[str, dict[str, str]]:
    """Return what a reader would ask of a value: metric key -> method key -> a sentence.

    The unedited clip does not reach the value of a result that is its source.
    """
    found: dict[str, dict[str, str]] = {}
    for metric in results.metrics:
        known = METRICS.get(metric.key)
        best = known.of_source if known else None
        means = [_mean(row, metric.key) for row in results.table if row.method == UNEDITED]
        for mean in means:
            if best is not None and mean is not None and round(mean - best, metric.digits):
                found[metric.key] = {UNEDITED: LOST_DETAIL.format(best=best)}
    return found


def _gap(own: Sequence[Item], metric: str) -> str:
    """Say how many of a method's items lack a metric, and why, the most common reason first."""
    reasons: Counter[str] = Counter()
    for item in own:
        score = item.scores.get(metric)
        if score is None:
            reasons["not measured" if item.status == "done" else f"video {item.status}"] += 1
        elif score.value is None:
            reasons[score.reason] += 1
    if not own:
        return "no items"
    return "; ".join(f"{reason} ({n} of {len(own)})" for reason, n in reasons.most_common())


def cell_text(score: Spread | None, digits: int) -> str:
    """Return e.g. "0.5750 ± 0.0123 (11/12)"; where all items are measured "0.5750 ± 0.0123"."""
    if score is None or score.mean is None:
        return "-"
    between = "" if score.std is None else f" ± {score.std:.{digits}f}"
    count = "" if score.measured == score.items else f" ({score.measured}/{score.items})"
    return f"{score.mean:.{digits}f}{between}{count}"


def markdown_table(results: Results) -> str:
    """Return the table for GitHub: ** is best, <u> second best; footnotes for blank cells."""
    notes = _Footnotes(results)
    wrap = {"best": ("**", "**"), "second": ("<u>", "</u>"), None: ("", "")}

    def cell(text: str, mark: Mark | None, note: int | None) -> str:
        before, behind = wrap[mark]
        return f"{before}{text}{behind}" + (f"<sup>{note}</sup>" if note else "")

    head = [_md(text) for text in _head(results)]
    rows = [[_md(row[0]), *row[1:]] for row in _own_rows(results, notes, cell)]
    lines = [_md_line(head), _md_line(["---", *["---:"] * (len(head) - 1)])]
    lines += [_md_line(row) for row in rows]
    if results.references:
        lines.append(_md_line([f"*{REFERENCES}*", *[""] * (len(head) - 1)]))
        lines += [_md_line([f"*{_md(row[0])}*", *row[1:]]) for row in _reference_rows(results)]
    lines += [f"\n<sup>{number}</sup> {_md(reason)}" for reason, number in notes.numbers.items()]
    return "\n".join(lines) + "\n"


def text_table(results: Results) -> str:
    """Return the table for a terminal: * is best, _ second best; footnotes for blank cells."""
    notes = _Footnotes(results)
    sign = {"best": " *", "second": " _", None: "  "}

    def cell(text: str, mark: Mark | None, note: int | None) -> str:
        return text + (f" [{note}]" if note else sign[mark])

    head = _head(results)
    own = [[_plain(text) for text in row] for row in _own_rows(results, notes, cell)]
    published = [[_plain(row[0]), *(f"{t}  " for t in row[1:])] for row in _reference_rows(results)]
    widths = [max(map(len, column)) for column in zip(head, *own, *published, strict=True)]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [_text_line(head, widths), rule, *(_text_line(row, widths) for row in own)]
    if published:
        lines += [rule, REFERENCES, *(_text_line(row, widths) for row in published)]
    lines += [rule] if notes.numbers or _any_mark(results) else []
    lines += ["* best  _ second best"] if _any_mark(results) else []
    lines += [f"[{number}] {_plain(reason)}" for reason, number in notes.numbers.items()]
    return "\n".join(lines) + "\n"


def csv_table(results: Results) -> str:
    """Return a line an item: what it is, how it went, a value and a reason for every metric."""
    fixed = ["clip", "task", "method", "seed", "status", "error", "video", "truth", "seconds"]
    keys = [metric.key for metric in results.metrics]
    rows = [[*fixed, *(name for key in keys for name in (key, f"{key}_reason"))]]
    for item in results.items:
        row = [_number(value) for value in (getattr(item, name) for name in fixed)]
        for key in keys:
            score = item.scores.get(key)
            row += ["", ""] if score is None else [_number(score.value), score.reason]
        rows.append(row)
    return _csv(rows)


def csv_summary(results: Results) -> str:
    """Return a line a method, then a line a published row; `kind` tells them apart."""
    parts = ("mean", "std", "measured", "items")
    keys = [metric.key for metric in results.metrics]
    rows = [["kind", "method", "label", "done", "failed", "missing"]]
    rows[0] += [f"{key}_{part}" for key in keys for part in parts]
    labels = {method.key: method.label for method in results.methods}
    for own in results.table:
        row = ["own", own.method, labels.get(own.method, own.method)]
        row += [str(own.done), str(own.failed), str(own.missing)]
        for key in keys:
            score = own.scores.get(key)
            row += ["" if score is None else _number(getattr(score, part)) for part in parts]
        rows.append(row)
    for ref in results.references:
        row = ["published", "", _reference_label(ref), "", "", ""]
        rows.append(row + [t for key in keys for t in (_number(ref.scores.get(key)), "", "", "")])
    return _csv(rows)


class _Footnotes:
    """Numbers reasons for blank cells in the order in which they are met.

    Args:
        results: Whose cells are blank.
    """

    def __init__(self, results: Results) -> None:
        self._gaps = gaps(results)
        self.numbers: dict[str, int] = {}

    def number(self, metric: MetricColumn, method: str) -> int:
        """Return the number of a blank cell's note; cells of one reason share it."""
        reason = self._gaps[metric.key].get(method) or "not measured"
        note = f"{metric.label}: {reason}"
        return self.numbers.setdefault(note, len(self.numbers) + 1)


def _own_rows(
    results: Results, notes: _Footnotes, cell: Callable[[str, Mark | None, int | None], str]
) -> list[list[str]]:
    """Return label, cells and counts of every method."""
    labels = {method.key: method.label for method in results.methods}
    marked = marks(results)
    rows = []
    for row in results.table:
        cells = []
        for metric in results.metrics:
            text = cell_text(row.scores.get(metric.key), metric.digits)
            blank = _mean(row, metric.key) is None
            note = notes.number(metric, row.method) if blank else None
            cells.append(cell(text, marked[metric.key].get(row.method), note))
        counts = [str(row.done), str(row.failed), str(row.missing)]
        rows.append([labels.get(row.method, row.method), *cells, *counts])
    return rows


def _reference_rows(results: Results) -> list[list[str]]:
    """Return label and cells of every published row; what it does not give is blank."""
    rows = []
    for ref in results.references:
        cells = [
            f"{ref.scores[metric.key]:.{metric.digits}f}" if metric.key in ref.scores else ""
            for metric in results.metrics
        ]
        rows.append([_reference_label(ref), *cells, "", "", ""])
    return rows


def _reference_label(ref: ReferenceRow) -> str:
    return f"{ref.table}: {ref.label}"


def _head(results: Results) -> list[str]:
    labels = [f"{metric.label}{_ARROWS[metric.better]}" for metric in results.metrics]
    return ["Method", *labels, "done", "failed", "missing"]


def _mean(row: TableRow, metric: str) -> float | None:
    score = row.scores.get(metric)
    return None if score is None else score.mean


def _any_mark(results: Results) -> bool:
    return any(marks(results).values())


def _plain(text: str) -> str:
    """Return a text that keeps to its line."""
    return " ".join(text.splitlines())


def _md(text: str) -> str:
    """Return a text that Markdown shows as it is, also in a table: labels are not ours."""
    escaped = "".join(f"\\{sign}" if sign in "\\`*_[]|~" else sign for sign in _plain(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def _md_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    line = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
    return "  ".join(line).rstrip()


def _number(value: object) -> str:
    return "" if value is None else str(value)


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
