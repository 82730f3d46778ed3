"""Means, deviations, marks and reasons of tables, for every way a run can go wrong."""

import csv
import io
import math
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcgrid.eval.results import (
    Better,
    Item,
    MethodRow,
    MetricColumn,
    ReferenceRow,
    Results,
    Score,
    Status,
)
from dcgrid.eval.tables import (
    REFERENCES,
    cell_text,
    csv_summary,
    csv_table,
    gaps,
    markdown_table,
    marks,
    table_rows,
    text_table,
)

PAPER = {
    "DreamVideo": (0.4477, 0.2133, 0.9868),
    "NewMove": (0.5280, 0.1943, 0.9960),
    "DreamMix": (0.5542, 0.1904, 0.9983),
    "DB-LoRA": (0.5967, 0.1906, 0.9981),
    "Ours": (0.5750, 0.2194, 0.9965),
}
"""Table 2 of the paper: ID, C-T, TC."""


def column(
    key: str = "id", better: Better = "higher", digits: int = 4, unavailable: str = ""
) -> MetricColumn:
    return MetricColumn(
        key=key,
        label=key.upper(),
        title=f"what {key} is",
        better=better,
        digits=digits,
        unavailable=unavailable,
    )


def item(
    clip: str,
    method: str,
    value: float | None = None,
    *,
    task: str = "rain",
    status: Status = "done",
    reason: str = "no face",
) -> Item:
    scores = {"id": Score(value=value, reason="" if value is not None else reason)}
    return Item(
        key=f"{clip}--{task}--{method}--0",
        clip=clip,
        task=task,
        method=method,
        seed=0,
        status=status,
        error="out of memory" if status == "failed" else "",
        scores=scores if status == "done" else {},
    )


def results(
    items: list[Item],
    *,
    metrics: tuple[MetricColumn, ...] = (column(),),
    references: tuple[ReferenceRow, ...] = (),
    label: str = "{}",
) -> Results:
    keys = list(dict.fromkeys(one.method for one in items))
    methods = tuple(MethodRow(key=key, label=label.format(key)) for key in keys)
    return Results(
        suite="paper",
        title="A test",
        made={},
        metrics=metrics,
        methods=methods,
        clips=(),
        tasks=(),
        items=tuple(items),
        table=table_rows(items, metrics, methods),
        references=references,
    )


def test_neither_tables_nor_the_page_load_torch() -> None:
    code = (
        "import sys, dcgrid.eval.tables, dcgrid.eval.report;"
        "sys.exit(bool({'torch', 'numpy', 'av'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_clip_with_many_items_weighs_as_much_as_one_with_few() -> None:
    items = [item("a", "m", value, task=str(value)) for value in (0.0, 0.0, 0.3)]
    found = results([*items, item("b", "m", 0.5)]).table[0].scores["id"]
    assert found.mean == pytest.approx((0.1 + 0.5) / 2)
    assert found.std == pytest.approx(statistics.stdev([0.1, 0.5]))
    assert (found.measured, found.items) == (4, 4)


def test_failed_and_missing_items_count() -> None:
    row = results(
        [
            item("a", "m", 0.5),
            item("b", "m", status="failed"),
            item("c", "m", status="missing"),
            item("d", "m", None),
        ]
    ).table[0]
    assert (row.done, row.failed, row.missing) == (2, 1, 1)
    assert (row.scores["id"].measured, row.scores["id"].items) == (1, 4)


def test_one_clip_has_no_deviation() -> None:
    found = results([item("a", "m", 0.5), item("a", "m", 0.7, task="night")]).table[0].scores["id"]
    assert found.std is None
    assert cell_text(found, 4) == "0.6000"


def test_cells_read_as_in_the_issue() -> None:
    values = [item(str(n), "m", 0.5627 if n % 2 else 0.5873) for n in range(11)]
    found = results([*values, item("z", "m", status="failed")]).table[0].scores["id"]
    assert cell_text(found, 4) == f"{found.mean:.4f} ± {found.std:.4f} (11/12)"
    assert cell_text(None, 4) == "-"


def test_an_unknown_method_is_a_bug() -> None:
    with pytest.raises(ValueError, match="unknown method 'x'"):
        table_rows([item("a", "x", 0.1)], (column(),), ())


def test_marks_of_the_papers_table_are_the_papers() -> None:
    metrics = (column("id"), column("ct"), column("tc"))
    items = [
        Item(
            key=name,
            clip="a",
            task="t",
            method=name,
            seed=0,
            status="done",
            scores={
                key: Score(value=value)
                for key, value in zip(("id", "ct", "tc"), values, strict=True)
            },
        )
        for name, values in PAPER.items()
    ]
    found = marks(results(items, metrics=metrics))
    assert found["id"] == {"DB-LoRA": "best", "Ours": "second"}
    assert found["ct"] == {"Ours": "best", "DreamVideo": "second"}
    assert found["tc"] == {"DreamMix": "best", "DB-LoRA": "second"}


def test_ties_share_a_mark_as_they_are_read() -> None:
    items = [
        item("a", "x", 0.50004),
        item("a", "y", 0.50001),
        item("a", "z", 0.4),
        item("a", "w", 0.3),
    ]
    assert marks(results(items))["id"] == {"x": "best", "y": "best", "z": "second"}
    lower = results(items, metrics=(column(better="lower"),))
    assert marks(lower)["id"] == {"w": "best", "z": "second"}
    assert marks(results(items, metrics=(column(better="neither"),)))["id"] == {}
    assert marks(results(items[:1]))["id"] == {}


def test_markdown_marks_notes_and_references() -> None:
    references = (ReferenceRow(table="Table 2", label="Ours", scores={"id": 0.9}),)
    items = [item("a", "x", 0.5), item("a", "y", 0.4), item("a", "z", None)]
    text = markdown_table(results(items, references=references))
    lines = text.splitlines()
    assert lines[0] == "| Method | ID ↑ | done | failed | missing |"
    assert "**0.5000**" in lines[2]
    assert "<u>0.4000</u>" in lines[3]
    assert "| -<sup>1</sup> |" in lines[4]
    assert REFERENCES in lines[5]
    assert lines[6] == "| *Table 2: Ours* | 0.9000 |  |  |  |"
    assert lines[-1] == "<sup>1</sup> ID: no face (1 of 1)"


def test_a_column_without_weights_says_so_once() -> None:
    metrics = (column(unavailable="its weights are not here"),)
    items = [
        item("a", "x", None, reason="no weights"),
        item("a", "y", status="failed"),
    ]
    text = text_table(results(items, metrics=metrics))
    assert text.count("its weights are not here") == 1
    assert text.count("[1]") == 3  # two cells and the note
    assert "best" not in text


def test_all_failed_and_nothing_at_all() -> None:
    failed = results([item("a", "m", status="failed"), item("b", "m", status="missing")])
    assert gaps(failed)["id"]["m"] == "video failed (1 of 2); video missing (1 of 2)"
    assert "ID: video failed (1 of 2)" in text_table(failed)
    for empty in (results([]), results([], metrics=())):
        assert markdown_table(empty).startswith("| Method |")
        assert text_table(empty).startswith("Method")
        assert csv_table(empty).startswith("clip,task,method,seed,status")
        assert csv_summary(empty).startswith("kind,method")


def test_text_columns_stand_under_each_other() -> None:
    items = [item("a", "x", 0.5), item("a", "a long name", 0.25), item("a", "none", None)]
    lines = text_table(results(items)).splitlines()
    places = {line.index("0.") for line in lines[2:4]}
    assert len(places) == 1
    assert lines[2][places.pop() :].startswith("0.5000 *")
    assert "0.2500 _" in lines[3]


def test_hostile_names_keep_tables_whole() -> None:
    label = '{}|`<script>*_"\n,é'
    found = results([item("a", "x", 0.5), item("b", "x", None)], label=label)
    lines = markdown_table(found).splitlines()
    assert len(lines) == 3
    assert lines[2].replace("\\|", "").count("|") == 6
    assert "<script>" not in lines[2]
    assert len({len(row) for row in csv.reader(io.StringIO(csv_summary(found)))}) == 1


def test_csv_holds_every_item_with_reasons() -> None:
    items = [item("a,b", "m", 1 / 3), item("c", "m", None), item("d", "m", status="failed")]
    rows = list(csv.DictReader(io.StringIO(csv_table(results(items)))))
    assert [row["clip"] for row in rows] == ["a,b", "c", "d"]
    assert float(rows[0]["id"]) == 1 / 3
    assert (rows[1]["id"], rows[1]["id_reason"]) == ("", "no face")
    assert (rows[2]["status"], rows[2]["error"], rows[2]["id"]) == ("failed", "out of memory", "")


def test_csv_of_methods_tells_published_rows_apart() -> None:
    references = (ReferenceRow(table="Table 1", label="Ours", scores={"id": 0.575}),)
    text = csv_summary(results([item("a", "m", 0.5)], references=references))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["kind"], row["label"], row["id_mean"]) for row in rows] == [
        ("own", "m", "0.5"),
        ("published", "Table 1: Ours", "0.575"),
    ]
    assert (rows[0]["id_std"], rows[0]["id_measured"], rows[0]["id_items"]) == ("", "1", "1")


ITEMS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from("mn"),
        st.sampled_from(["done", "failed", "missing"]),
        st.none() | st.floats(-1e9, 1e9),
    ),
    max_size=12,
)


@given(ITEMS)
def test_nothing_vanishes_and_nothing_is_nan(
    drawn: list[tuple[str, str, Status, float | None]],
) -> None:
    items = [item(clip, method, value, status=status) for clip, method, status, value in drawn]
    found = results(items)
    assert sum(row.done + row.failed + row.missing for row in found.table) == len(items)
    for row in found.table:
        score = row.scores["id"]
        own = [one for one in items if one.method == row.method]
        assert score.items == len(own) == row.done + row.failed + row.missing
        assert score.measured <= row.done
        assert (score.mean is None) == (score.measured == 0)
        assert all(math.isfinite(value) for value in (score.mean or 0, score.std or 0))
        # A gap is named exactly where a value is lacking.
        assert (row.method in gaps(found)["id"]) == (score.measured < score.items)
    for text in (markdown_table(found), text_table(found), csv_table(found), csv_summary(found)):
        assert "nan" not in text.lower()
        assert "inf" not in text.lower()


def test_references_are_never_the_best() -> None:
    items = [item("a", "x", 0.5), item("a", "y", 0.4), item("a", "unedited", 1.0)]
    found = results(items)
    assert marks(found)["id"] == {"unedited": "best", "x": "second"}
    methods = tuple(replace(one, is_reference=one.key == "unedited") for one in found.methods)
    assert marks(replace(found, methods=methods))["id"] == {"x": "best", "y": "second"}


def test_a_method_that_was_hardly_measured_is_not_ranked() -> None:
    rare = [item("a", "rare", 0.9), *(item(str(n), "rare", None) for n in range(2))]
    often = [item("a", "often", 0.5), item("b", "often", None)]
    full = [item(name, "full", 0.4) for name in "ab"]
    assert marks(results([*rare, *often, *full]))["id"] == {"often": "best", "full": "second"}
