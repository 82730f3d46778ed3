"""Rows of every form come to the same jobs, and every problem is named with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from dcgrid.batch.jobs import read_jobs
from dcgrid.errors import BatchError

CSV = """input,effect,seed,duration,contact-sheet,rank,guidance_scale
a.mp4,rain|fog,3,2,no,"motion,flicker",1.5

b.mp4,night,,,,,
"""
JSONL = """{"input": "a.mp4", "effects": ["rain", "fog"], "seed": 3, "duration": 2, \
"contact_sheet": false, "rank": ["motion", "flicker"], "guidance_scale": 1.5}
{"input": "b.mp4", "effect": "night"}
"""
TOML = """[[jobs]]
input = "a.mp4"
effects = ["rain", "fog"]
seed = 3
duration = 2
contact_sheet = false
rank = ["motion", "flicker"]
guidance_scale = 1.5

[[jobs]]
input = "b.mp4"
effects = ["night"]
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def messages(source: Path | str, **defaults: Any) -> list[str]:
    return read_jobs(source, defaults)[1]


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("jobs.csv", CSV, (2, 4)),
        ("jobs.csv", CSV.replace("\n", "\r\n"), (2, 4)),
        ("jobs.csv", "\ufeff" + CSV, (2, 4)),
        ("jobs.tsv", CSV.replace(",", "\t").replace('"motion\tflicker"', "motion,flicker"), (2, 4)),
        ("jobs.csv", CSV.replace(",", ";").replace('"motion;flicker"', "motion|flicker"), (2, 4)),
        ("jobs.jsonl", JSONL, (1, 2)),
        ("jobs.toml", TOML, (1, 10)),
    ],
)
def test_every_form_says_the_same(
    name: str, text: str, lines: tuple[int, int], tmp_path: Path
) -> None:
    path = written(tmp_path, name, text)
    rows, problems = read_jobs(path, {"model": "tiny"})
    assert problems == []
    first, second = (row.job for row in rows)
    assert first.input == tmp_path / "a.mp4"  # type: ignore[attr-defined]
    assert first.effects == ("rain", "fog")  # type: ignore[attr-defined]
    assert (first.seed, first.duration_s, first.contact_sheet) == (3, 2, False)
    assert (first.rank, first.guidance_scale) == (("motion", "flicker"), 1.5)
    assert second.effects == ("night",)  # type: ignore[attr-defined]
    assert (second.seed, second.contact_sheet, second.model) == (0, True, "tiny")
    assert [row.place for row in rows] == [f"{path}:{line}" for line in lines]


def test_standard_input_and_folders(clip: Path) -> None:
    for text in (CSV, JSONL):
        rows, problems = read_jobs(text, {})
        assert not problems
        assert [row.job.inputs[0] for row in rows] == [Path.cwd() / "a.mp4", Path.cwd() / "b.mp4"]
    (clip.parent / "notes.txt").write_text("no video")
    rows, problems = read_jobs(clip.parent, {"effects": ["rain"]})
    assert [(row.job.inputs, problems) for row in rows] == [((clip,), [])]
    with pytest.raises(BatchError, match="what is to be made of its clips"):
        read_jobs(clip.parent, {})


def test_compositions_and_stories_stand_beside_edits(tmp_path: Path) -> None:
    lines = [
        {"first": "a.mp4", "second": "b.mp4", "concept": "sparks", "prompts": ["lit, softly"]},
        {"first": "a.mp4", "concept": "fire"},
        {"source": "a.mp4", "scenes": ["rain", "in a wood, at dusk"]},
        {"command": "edit", "input": "a.mp4", "prompt": "made of glass"},
    ]
    path = written(tmp_path, "jobs.jsonl", "\n".join(map(json.dumps, lines)))
    rows, problems = read_jobs(path, {"effects": ["rain"], "seed": 7})
    assert problems == []
    assert [row.job.command for row in rows] == ["compose", "compose", "story", "edit"]
    assert {row.job.seed for row in rows} == {7}
    text = 'command,source,scenes\nstory,a.mp4,"rain|in a wood, at dusk"\n'
    (row,), _ = read_jobs(written(tmp_path, "jobs.csv", text), {})
    assert [scene.prompt for scene in row.job.scenes][1] == "in a wood, at dusk"  # type: ignore[attr-defined]


BAD = [
    ("input,efects\na.mp4,rain\n", ":1: column 'efects' is unknown; did you mean 'effects'?"),
    ("input,effects,effect\na.mp4,rain,fog\n", ":1: column 'effects' is there twice"),
    ("input,,effects\na.mp4,,rain\n", ":1: column 2 has no name"),
    ("input,effects\na.mp4,rain,4\n", ":2: 3 cells; the header names 2"),
    ("input,effects\na.mp4\n", ":2: 1 cell; the header names 2"),
    ("input,effects,seed\na.mp4,rain,x\n", ":2: key 'seed' must be an integer of 0 or more"),
    ("input,effects,seed\na.mp4,rain,-4\n", "not -4"),
    ("input,effects,seed\na.mp4,rain,1.5\n", "not '1.5'"),
    ("input,effects,force\n,rain,\n", ":2: key 'input' is missing"),
    ("input,effects,dtype\na.mp4,rain,bf15\n", "did you mean 'bf16'?"),
    ("input,effects,contact_sheet\na.mp4,rain,maybe\n", "must be true or false, not 'maybe'"),
    ("input,effects,size\na.mp4,rain,large\n", "must be of the form WIDTHxHEIGHT"),
    ("input,effects,out\na.mp4,rain,x.mp4\n", "results of a batch go to --out"),
    ("input,effects,name\na.mp4,rain,x\na.mp4,fog,x\n", ":3: the name 'x' is that of "),
    ("command,input,effects\nedits,a.mp4,rain\n", "must be one of edit, compose, story"),
    ('input,effects\n"a.mp4,rain\n', "not CSV"),
    ("input,prompt\na.mp4,a\x07b\n", "control character U+0007"),
    ("first,concept\na.mp4,lava\n", ":2: no clip of 'lava' comes with dcgrid"),
]


@pytest.mark.parametrize(("text", "part"), BAD)
def test_what_is_wrong_is_named_with_its_line(text: str, part: str, tmp_path: Path) -> None:
    path = written(tmp_path, "jobs.csv", text)
    found = messages(path)
    assert [one for one in found if part in one], found
    assert all(one.startswith(f"{path}:") for one in found)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("jobs.jsonl", '{"input": "a.mp4"}\n{"input": }\n', ":2: not JSON"),
        ("jobs.jsonl", '["a.mp4"]\n', ":1: must be a JSON object, not ['a.mp4']"),
        ("jobs.jsonl", '\n{"input": "a.mp4", "effects": "rain", "sed": 1}\n', ":2: key 'sed' is"),
        ("jobs.toml", '[[jobs]]\ninput = "a.mp4"\n\n[[jobs]]\nimput = "b.mp4"\n', ":4: key 'imp"),
    ],
)
def test_so_it_is_in_other_forms(name: str, text: str, part: str, tmp_path: Path) -> None:
    found = messages(written(tmp_path, name, text))
    assert [one for one in found if part in one], found


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("jobs.csv", "", "holds no job"),
        ("jobs.csv", "input,effects\n", "holds no job"),
        ("jobs.toml", 'input = "a.mp4"\n', r"jobs stand in \[\[jobs\]\]"),
        ("jobs.toml", "[[jobs\n", "not TOML"),
        ("jobs.toml", "jobs = 3\n", "must be an array of tables"),
        ("clip.mp4", "", "no file of jobs"),
    ],
)
def test_files_that_hold_no_rows_are_refused(
    name: str, text: str, part: str, tmp_path: Path
) -> None:
    with pytest.raises(BatchError, match=part):
        messages(written(tmp_path, name, text))
    with pytest.raises(BatchError, match=r"gone.csv \(no such file"):
        messages(tmp_path / "gone.csv")


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = "input,effects,seed,colour\na.mp4,rain,x,\nb.mp4,rain,-1,red\nc.mp4,rain,3\n"
    found = messages(written(tmp_path, "jobs.csv", text))
    assert [one.split(":")[1] for one in found] == ["1", "4", "2", "3"]
