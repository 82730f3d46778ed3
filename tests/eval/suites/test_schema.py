"""Suite recipes: the shipped ones are right, and what is wrong in one is named with its line."""

import re
from pathlib import Path

import pytest

from dcgrid.errors import RecipeError, UsageError
from dcgrid.eval.scoring import METRICS
from dcgrid.eval.suites.suite import CEILING, check_seeds, load_suite, read_suite
from dcgrid.pipelines.baselines import METHODS
from dcgrid.recipes import shipped_dir

PAPER = (Path(__file__).parents[3] / "recipes" / "eval" / "paper.toml").read_text()


def changed(tmp_path: Path, old: str, new: str) -> Path:
    assert old in PAPER
    path = tmp_path / "own.toml"
    path.write_text(PAPER.replace(old, new, 1))
    return path


SHIPPED = sorted(path.stem for path in (shipped_dir() / "eval").glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_suites_name_methods_and_metrics_that_exist(name):
    suite = load_suite(name)
    assert suite.name == name
    assert set(suite.methods) <= {*METHODS, CEILING}
    assert set(suite.metrics) <= set(METRICS)
    for row in suite.references:
        assert set(row.scores) <= set(suite.metrics)


def test_there_is_a_suite_of_each_kind():
    assert {load_suite(name).kind for name in SHIPPED} == {
        "edit",
        "truth",
        "compose",
        "story",
    }


def test_published_rows_are_those_of_the_paper():
    text = Path(__file__).parents[4] / "shared" / "paper" / "paper.txt"
    if not text.exists():
        pytest.skip("no ../shared/paper")
    found = {}
    for line in text.read_text().splitlines():
        if row := re.fullmatch(r"(.+?) (0\.\d{4}) (0\.\d{4}) (0\.\d{4})", line.strip()):
            found[row[1]] = {k: float(row[n]) for k, n in (("id", 2), ("ct", 3), ("tc", 4))}
    rows = {row.label: dict(row.scores) for row in load_suite("paper").references}
    assert rows == found
    assert len(rows) == 7


def test_the_users_suite_stands_in_for_the_shipped_one(tmp_path):
    folder = tmp_path / "eval"
    folder.mkdir()
    (folder / "paper.toml").write_text(PAPER.replace("seeds = [0]", "seeds = [3, 4]"))
    assert load_suite("paper", tmp_path).seeds == (3, 4)
    assert load_suite(str(folder / "paper.toml")).seeds == (3, 4)


def test_an_unknown_suite_is_told_with_the_nearest():
    with pytest.raises(RecipeError, match=r"did you mean 'paper'") as caught:
        load_suite("papr")
    assert "truth" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('kind = "edit"', 'kind = "edits"', r"own.toml:\d+:\d+: key 'kind'"),
        ("seeds = [0]", "seeds = [0, 0]", "key 'seeds' holds 0 twice"),
        ("seeds = [0]", "seeds = [0.5]", "'seeds.0' must be a whole number"),
        ("seeds = [0]", "seeds = []", "needs at least 1 entry"),
        ("seeds = [0]", "sedes = [0]", "did you mean 'seeds'"),
        ("{subject} under rain", "{person} under rain", "no other braces"),
        ('effect = "rain"', 'effect = "backlight"', "has 'backlight' twice"),
        ('effect = "rain"', 'element = "fire"', "'tasks.1.effect' is missing"),
        ("id = 0.5750", 'id = "much"', "must be a number"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, old, new, told):
    with pytest.raises(RecipeError, match=told):
        read_suite(changed(tmp_path, old, new))


def test_a_suite_without_tasks_is_refused(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "own"\ntitle = "t"\nkind = "edit"\nmethods = ["grid"]\nmetrics = ["id"]'
    )
    with pytest.raises(RecipeError, match="'tasks' is missing"):
        read_suite(path)


@pytest.mark.parametrize("seeds", [(-1,), (2**63,), (1, 1)])
def test_seeds_out_of_range_are_refused(seeds):
    with pytest.raises(UsageError):
        check_seeds(seeds)
