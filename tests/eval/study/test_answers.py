"""Answers: what fits a study is read, anything else is named with its place."""

import json
import re

import pytest

from dcgrid.errors import StudyError
from dcgrid.eval.study.answers import LARGEST, is_rater_name, parse_answers, read_answers
from tests.eval.study.conftest import answer_sheet, hand_in, right_file, wrong_file


@pytest.fixture
def sheet(shared_study):
    return answer_sheet(shared_study.key, "ada", lambda shown, _: right_file(shown))


def test_answers_are_read_as_they_were_given(shared_study, sheet, tmp_path):
    found, notes = read_answers([hand_in(tmp_path / "answers", sheet)], shared_study.key)
    assert notes == []
    (rater,) = found
    shown = {one.id: one for one in (*shared_study.key.pairs, *shared_study.key.checks)}
    assert [one.pair for one in rater.trials] == [one["pair"] for one in sheet["trials"]]
    for trial in rater.trials:
        assert dict(trial.chosen) == dict.fromkeys(
            ("ip", "mp", "ap", "op"), right_file(shown[trial.pair])
        )


def swap_sides(sheet):
    trial = sheet["trials"][2]
    trial["left"], trial["right"] = trial["right"], trial["left"]


def swap_trials(sheet):
    trials = sheet["trials"]
    trials[0], trials[1] = trials[1], trials[0]


DAMAGE = {
    "another study": (lambda s: s.update(study="0" * 16), "it answers another study"),
    "another format": (lambda s: s.update(format="x"), "'format' must be"),
    "another name": (lambda s: s.update(rater="bob"), "not that of rater bob"),
    "a bad name": (lambda s: s.update(rater="../etc"), "no rater name"),
    "no name": (lambda s: s.pop("rater"), "'rater' is missing"),
    "more keys": (lambda s: s.update(colour=1), "'colour' is unknown"),
    "a seed as text": (lambda s: s.update(seed="1"), "'seed' must be an integer, not '1'"),
    "no end": (lambda s: s.update(finished=""), "finished"),
    "trials no list": (
        lambda s: s.update(trials={}),
        "'trials' must be an array of tables",
    ),
    "a trial missing": (lambda s: s["trials"].pop(), "'trials' has 10 entries"),
    "a trial twice": (lambda s: s["trials"].append(s["trials"][0]), "'trials' has 12 entries"),
    "a trial no table": (
        lambda s: s["trials"].__setitem__(4, None),
        "trials.4' must be a table, not None",
    ),
    "an unknown pair": (lambda s: s["trials"][3].update(pair="x"), "3.pair' is 'x'"),
    "another file": (lambda s: s["trials"][3].update(left="x.mp4"), "3.left' is 'x.mp4'"),
    "sides turned": (swap_sides, "2.left' is"),
    "trials moved": (swap_trials, "0.pair' is"),
    "no answer": (lambda s: s["trials"][1]["answers"].pop("mp"), "1.answers.mp' has no answer"),
    "both": (
        lambda s: s["trials"][1]["answers"].update(mp="both"),
        "1.answers.mp' must be one of left, right, not 'both'",
    ),
    "a number": (
        lambda s: s["trials"][1]["answers"].update(mp=1),
        "1.answers.mp' must be one of left, right, not 1",
    ),
    "a list": (
        lambda s: s["trials"][1]["answers"].update(mp=["left"]),
        "1.answers.mp' must be one of left, right, not ['left']",
    ),
    "a fifth": (
        lambda s: s["trials"][1]["answers"].update(zz="left"),
        "1.answers.zz' is no question",
    ),
    "answers no table": (
        lambda s: s["trials"][1].update(answers=[]),
        "1.answers' must be a table, not []",
    ),
    "time runs back": (lambda s: s["trials"][1].update(ms=-1), "1.ms' must be an integer of 0 or"),
    "true for a time": (lambda s: s["trials"][1].update(ms=True), "1.ms' must be an integer"),
    "seen by halves": (
        lambda s: s["trials"][1]["seen"].update(left=0.5),
        "1.seen.left' must be true or false, not 0.5",
    ),
    "seen nothing": (lambda s: s["trials"][1].update(seen={}), "1.seen.left' is missing"),
    "lost elsewhere": (
        lambda s: s["trials"][1].update(failed=["up"]),
        "1.failed.0' must be one of orig",
    ),
    "lost a number": (
        lambda s: s["trials"][1].update(failed=[{}]),
        "1.failed.0' must be one of orig",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_file_edited_by_hand_is_named_with_the_place(shared_study, sheet, tmp_path, kind):
    change, word = DAMAGE[kind]
    change(sheet)
    path = hand_in(tmp_path / "answers", sheet, name="edited")
    with pytest.raises(StudyError) as caught:
        read_answers([path], shared_study.key)
    assert str(path) in caught.value.message
    assert word in caught.value.message


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "holds []"),
        (b"NaN", "holds nan"),
        (b" " * (LARGEST + 1), "larger"),
    ],
)
def test_what_is_no_answers_file_is_named(shared_study, tmp_path, content, word):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StudyError, match=re.escape(str(tmp_path / "a.json"))) as caught:
        read_answers([tmp_path], shared_study.key)
    assert word in caught.value.message


def test_missing_files_and_empty_folders_are_named(shared_study, tmp_path):
    with pytest.raises(StudyError, match="cannot read"):
        read_answers([tmp_path / "none.json"], shared_study.key)
    with pytest.raises(StudyError, match="holds no answers"):
        read_answers([tmp_path], shared_study.key)


def test_all_bad_files_are_named_at_once(shared_study, sheet, tmp_path):
    for number in range(12):
        hand_in(tmp_path / "answers", {**sheet, "study": "x"}, name=f"f{number:02}")
    with pytest.raises(StudyError, match="and 2 more") as caught:
        read_answers([tmp_path / "answers"], shared_study.key)
    assert all(f"f{number:02}.json" in caught.value.message for number in range(10))


def test_the_same_file_twice_is_counted_once_and_told(shared_study, sheet, tmp_path):
    folder = tmp_path / "answers"
    first = hand_in(folder, sheet)
    second = hand_in(folder, dict(reversed(sheet.items())), name="copy")
    found, notes = read_answers([folder], shared_study.key)
    assert len(found) == 1
    assert len(notes) == 1
    assert str(first) in notes[0]
    assert str(second) in notes[0]
    # Named twice on the command line is no copy.
    assert read_answers([first, folder / "ada.json"], shared_study.key)[1] == []


def test_two_files_of_a_rater_that_differ_are_refused(shared_study, sheet, tmp_path):
    folder = tmp_path / "answers"
    hand_in(folder, sheet)
    other = answer_sheet(shared_study.key, "ada", lambda shown, _: wrong_file(shown))
    hand_in(folder, other, name="later")
    with pytest.raises(StudyError, match="rater ada has other answers"):
        read_answers([folder], shared_study.key)


def test_a_video_that_was_lost_excuses_missing_answers(shared_study, sheet):
    sheet["trials"][0].update(failed=["left"], answers={})
    sheet["trials"][1].update(failed=["original"])
    trials = parse_answers(json.dumps(sheet).encode(), shared_study.key).trials
    assert trials[0].chosen == {}
    assert trials[1].chosen == {}
    assert trials[2].chosen


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a" * 41, "a.json", "\u0661", None, 3])
def test_names_that_would_be_no_safe_file_names_are_none(name):
    assert not is_rater_name(name)


def test_changing_any_one_byte_never_passes_as_another_rater_or_crashes(shared_study, sheet):
    """Digits and sides may change into other possible ones; anything else is refused in words."""
    text = json.dumps(sheet)
    for place in range(0, len(text), 37):
        changed = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        try:
            found = parse_answers(changed.encode(), shared_study.key)
        except StudyError as error:
            assert error.message
            continue
        assert found.rater == "ada"
        assert [one.pair for one in found.trials] == [one["pair"] for one in sheet["trials"]]
