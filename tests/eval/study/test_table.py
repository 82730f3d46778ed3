"""From answers to numbers: counted by hand, raters left out by the rule, files written whole."""

import csv
import io
import json

import pytest

from dcgrid.errors import OutputError, StudyError
from dcgrid.eval.study.answers import parse_answers
from dcgrid.eval.study.preferences import PAPER, binomial_test, holm, make_table, wilson
from dcgrid.eval.study.showing import table_csv, table_lines, table_markdown, write_table
from tests.eval.study.conftest import FAR, NEAR, answer_sheet, right_file, wrong_file


def answers(key, rater, choose):
    return parse_answers(json.dumps(answer_sheet(key, rater, choose)).encode(), key)


def always_ours(shown, _):
    return right_file(shown)


def never_ours_but_attentive(shown, _):
    return wrong_file(shown) if hasattr(shown, "ours") else right_file(shown)


def fails(count, key):
    """A rater for our method who gets so many checks wrong, each by one question."""
    wrong = {check.id for check in key.checks[:count]}

    def choose(shown, question):
        return wrong_file(shown) if shown.id in wrong and question == "mp" else right_file(shown)

    return choose


def cell(table, method, question):
    row = next(row for row in table.rows if row.against == method)
    return next(one for one in row.cells if one.question == question)


def test_a_table_by_hand(shared_study):
    key = shared_study.key

    def mixed(shown, question):
        """For us on motion alone against one, on all but motion against the other."""
        if not hasattr(shown, "ours"):
            return right_file(shown)
        wants = (question == "mp") == (shown.against == NEAR)
        return right_file(shown) if wants else wrong_file(shown)

    raters = [answers(key, "ada", always_ours), answers(key, "bo", mixed)]
    table = make_table(key, raters)
    # 2 clips x 2 tasks a comparison, both raters saw all.
    assert (cell(table, NEAR, "mp").ours, cell(table, NEAR, "mp").answers) == (8, 8)
    assert (cell(table, NEAR, "ip").ours, cell(table, NEAR, "ip").answers) == (4, 8)
    assert (cell(table, FAR, "mp").ours, cell(table, FAR, "ap").ours) == (4, 8)
    one = cell(table, NEAR, "mp")
    assert (one.low, one.high) == wilson(8, 8)
    assert one.p == binomial_test(8, 8) == 2 / 256
    # 4 cells of 8 of 8, 4 of 4 of 8: Holm multiplies the smallest by all 8 tests.
    assert one.p_holm == pytest.approx(8 * 2 / 256)
    every = [one.p for row in table.rows for one in row.cells]
    assert [one.p_holm for row in table.rows for one in row.cells] == holm(every)
    assert (cell(table, NEAR, "ip").rater_low, cell(table, NEAR, "ip").rater_high) == (0.0, 1.0)
    assert one.raters == 2


def test_each_choice_counts_for_the_method_whatever_its_side(shared_study):
    key = shared_study.key
    for number in range(20):
        table = make_table(key, [answers(key, f"r{number}", always_ours)])
        assert all(one.share == 1.0 for row in table.rows for one in row.cells)
        table = make_table(key, [answers(key, f"r{number}", never_ours_but_attentive)])
        assert all(one.share == 0.0 for row in table.rows for one in row.cells)


def test_raters_who_fail_more_than_a_third_of_the_checks_are_left_out(shared_study):
    key = shared_study.key
    raters = [answers(key, f"failed-{count}", fails(count, key)) for count in range(4)]
    table = make_table(key, raters)
    assert [one.is_counted for one in table.raters] == [True, True, False, False]
    assert [one.failed_checks for one in table.raters] == [0, 1, 2, 3]
    assert cell(table, NEAR, "ip").answers == 8
    assert any("failed-2 (2 of 3), failed-3 (3 of 3)" in note for note in table.notes)
    with pytest.raises(StudyError, match="of 2 raters none passed"):
        make_table(key, raters[2:])


def test_the_text_question_of_a_check_has_no_wrong_answer(shared_study):
    key = shared_study.key

    def choose(shown, question):
        is_check = not hasattr(shown, "ours")
        return wrong_file(shown) if is_check and question == "ap" else right_file(shown)

    assert make_table(key, [answers(key, "ada", choose)]).raters[0].failed_checks == 0


def test_lost_and_unseen_trials_are_told(shared_study):
    key = shared_study.key
    sheet = answer_sheet(key, "ada", always_ours)
    pairs = [one for one in sheet["trials"] if one["pair"] in {pair.id for pair in key.pairs}]
    pairs[0].update(failed=["right"])
    pairs[1]["seen"]["left"] = False
    table = make_table(key, [parse_answers(json.dumps(sheet).encode(), key)])
    assert sum(one.answers for row in table.rows for one in row.cells) == 4 * 7
    notes = " ".join(table.notes)
    assert "1 trials are not counted" in notes
    assert "1 trials were answered before" in notes


def test_who_clicks_one_side_is_seen(shared_study):
    key = shared_study.key
    sheet = answer_sheet(key, "ada", always_ours)
    shown = {pair.id for pair in key.pairs}
    for trial in sheet["trials"]:
        if trial["pair"] in shown:
            trial["answers"] = dict.fromkeys(trial["answers"], "left")
    assert make_table(key, [parse_answers(json.dumps(sheet).encode(), key)]).left_share == 1.0


def test_a_comparison_without_answers_has_none(shared_study):
    key = shared_study.key
    sheet = answer_sheet(key, "ada", always_ours)
    far = {pair.id for pair in key.pairs if pair.against == FAR}
    for trial in sheet["trials"]:
        if trial["pair"] in far:
            trial.update(failed=["left"])
    table = make_table(key, [parse_answers(json.dumps(sheet).encode(), key)])
    empty = cell(table, FAR, "op")
    assert (empty.answers, empty.share, empty.p, empty.p_holm) == (0, None, None, None)
    assert cell(table, NEAR, "op").p_holm == pytest.approx(min(1.0, 4 * 2 / 16))
    assert any(line.strip().endswith("-") for line in table_lines(table))


def test_the_papers_rows_are_its_table_3():
    assert [(row.label, *row.shares) for row in PAPER] == [
        ("Ours vs. DreamMix", 0.32, 0.59, 0.98, 0.72),
        ("Ours vs. DB-LoRA", 0.51, 0.58, 0.96, 0.74),
        ("Ours vs. NewMove", 0.98, 0.95, 1.00, 1.00),
        ("Ours vs. DreamVideo", 0.97, 0.99, 1.00, 0.99),
    ]


def test_written_tables_say_the_same(shared_study, tmp_path):
    table = make_table(shared_study.key, [answers(shared_study.key, "ada", always_ours)])
    paths = write_table(tmp_path / "out", table)
    assert [path.name for path in paths] == ["table.md", "table.csv", "table.json"]
    value = json.loads(paths[2].read_text())
    rows = list(csv.DictReader(io.StringIO(paths[1].read_text())))
    assert len([row for row in rows if row["source"] == "study"]) == 8
    assert len([row for row in rows if row["source"] == "paper"]) == 16
    for row, one in zip(rows, [one for r in value["rows"] for one in r["cells"]], strict=False):
        assert (row["question"], float(row["share"])) == (one["question"], one["share"])
        assert float(row["p_holm"]) == one["p_holm"]
        assert row["rater_low"] == ""
    text = paths[0].read_text()
    assert "| Grid method vs. Rival method | 1.00<br>" in text
    assert "Ours vs. DreamMix | 0.32 | 0.59 | 0.98 | 0.72" in text
    with pytest.raises(OutputError, match="exists already"):
        write_table(tmp_path / "out", table)
    write_table(tmp_path / "out", table, force=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "table.csv",
        "table.json",
        "table.md",
    ]
    with pytest.raises(OutputError, match="cannot write"):
        write_table(tmp_path / "no" / "where", table)
    head = table_csv(table).splitlines()[0].split(",")
    assert len(set(head)) == len(head)
    assert table_markdown(table) == text
