"""results.json: what is written is read again, and what somebody changed is named."""

import json
import math

import pytest

from dcgrid.errors import InputVideoError
from dcgrid.eval.results import (
    ClipEntry,
    Item,
    MethodRow,
    MetricColumn,
    ReferenceRow,
    Results,
    Score,
    Spread,
    TableRow,
    TaskEntry,
    read_results,
    write_results,
)

RESULTS = Results(
    suite="paper",
    title="A test",
    made={"date": "today"},
    metrics=(MetricColumn(key="id", label="ID", title="t", better="higher", digits=4),),
    methods=(MethodRow(key="grid", label="Grid"),),
    clips=(ClipEntry(key="a", label="a", video="media/a.mp4", frames=3, fps=12.0),),
    tasks=(TaskEntry(key="rain", label="rain", prompt="in rain"),),
    items=(
        Item(
            key="a--rain--grid--0",
            clip="a",
            task="rain",
            method="grid",
            seed=0,
            status="done",
            scores={"id": Score(value=0.5, series=(0.5, None), frames=(0, 1))},
        ),
        Item(
            key="a--rain--grid--1",
            clip="a",
            task="rain",
            method="grid",
            seed=1,
            status="failed",
            error="no",
            scores={},
        ),
    ),
    table=(
        TableRow(
            method="grid",
            scores={"id": Spread(mean=0.5, std=None, measured=1, items=2)},
            done=1,
            failed=1,
            missing=0,
        ),
    ),
    references=(ReferenceRow(table="Table 2", label="Ours", scores={"id": 0.575}),),
)


def test_what_is_written_is_read(tmp_path):
    write_results(tmp_path / "results.json", RESULTS)
    assert read_results(tmp_path / "results.json") == RESULTS
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v: v.pop("format"), "is not of the format dcgrid-eval-1"),
        (lambda v: v.update(extra=1), "damaged results: key 'extra' is unknown"),
        (lambda v: v.pop("table"), "damaged results: key 'table' is missing"),
        (
            lambda v: v["items"][0].update(status="great"),
            "failed, missing, not 'great'",
        ),
        (
            lambda v: v["items"][0]["scores"]["id"].update(value="high"),
            "must be a number, not 'high'",
        ),
        (lambda v: v["items"][0]["scores"]["id"].update(value=None), "needs a reason"),
        (lambda v: v["items"][0]["scores"]["id"].update(frames=[0]), "2 values at 1 frames"),
        (lambda v: v.update(items=5), "damaged results"),
        (
            lambda v: v["items"][0].update(scores=[1]),
            r"0\.scores' must be a table, not \[1",
        ),
        (lambda v: v["items"][0]["scores"].update(id=[1]), r"scores\.id' must be a table, not \[1"),
        (
            lambda v: v["clips"][0].update(fps=10**400),
            r"fps' must be a number, not 1000",
        ),
        (lambda v: v["clips"][0].update(frames=1.5), "must be an integer, not 1.5"),
    ],
)
def test_what_somebody_changed_is_named(tmp_path, change, told):
    path = tmp_path / "results.json"
    write_results(path, RESULTS)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(InputVideoError, match=told) as caught:
        read_results(path)
    assert "dcgrid eval --out" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "NaN", '"x"'])
def test_what_is_no_results_file_is_refused(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(InputVideoError):
        read_results(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputVideoError, match="no such file"):
        read_results(tmp_path / "results.json")


def test_nan_never_becomes_a_score():
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="a score of"):
            Score(value=value)


def test_nan_in_a_file_is_refused(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, RESULTS)
    path.write_text(path.read_text().replace('"value": 0.5', '"value": NaN'))
    with pytest.raises(InputVideoError, match=r"scores\.id\.value' must be a number, not nan"):
        read_results(path)
