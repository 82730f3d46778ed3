"""`dcgrid recipes` through Typer: results on stdout, problems raised for cli.main."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dcgrid import recipes
from dcgrid.cli.recipes import app
from dcgrid.errors import DcgridError, PromptError, RecipeError, UsageError


@pytest.fixture(autouse=True)
def _own_config(tmp_path, monkeypatch):
    monkeypatch.setenv("DCGRID_CONFIG_DIR", str(tmp_path / "config"))


def run(*arguments):
    """Return stdout, and the error that the command raised."""
    result = CliRunner().invoke(app, list(arguments))
    return result.stdout, result.exception


def run_json(*arguments):
    stdout, error = run(*arguments, "--format", "json")
    assert error is None
    return json.loads(stdout)


def own_effect(tmp_path, *changes):
    folder = tmp_path / "config" / "recipes" / "effects"
    folder.mkdir(parents=True)
    text = (recipes.shipped_dir() / "effects" / "rain.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "rain.toml").write_text(text)
    return folder / "rain.toml"


def test_list_names_every_recipe():
    listed = run_json("list")["recipes"]
    assert [one["name"] for one in listed] == [*recipes.effect_names(), *recipes.layout_names()]
    assert {one["from"] for one in listed} == {"shipped"}
    stdout, error = run("list")
    assert error is None
    assert all(name in stdout for name in recipes.effect_names())


def test_own_recipe_stands_in_for_the_shipped_one(tmp_path):
    path = own_effect(tmp_path, ("Heavy rain", "My rain"))
    (mine,) = [one for one in run_json("list")["recipes"] if one["name"] == "rain"]
    assert mine == {"name": "rain", "kind": "weather", "title": "My rain", "from": str(path)}
    assert run_json("show", "rain")["title"] == "My rain"


def test_a_broken_recipe_is_named_and_the_others_are_listed(tmp_path):
    path = own_effect(tmp_path, ("= false", '= "no"'))
    listed = run_json("list")
    names = [one["name"] for one in listed["recipes"]]
    assert names == [n for n in (*recipes.effect_names(), *recipes.layout_names()) if n != "rain"]
    (broken,) = listed["broken"]
    assert broken["name"] == "rain"
    assert broken["error"].startswith(f"{path}:4:1: key 'deterministic' must be true or false")
    stdout, error = run("list")
    assert error is None
    assert "snow" in stdout
    assert "rain is broken" in stdout


def test_which_recipes_stand_in_for_shipped_ones(tmp_path):
    path = own_effect(tmp_path, ("Heavy rain", "My rain"))
    other = path.with_name("mine.toml")
    files = [path, other, recipes.shipped_dir() / "effects" / "snow.toml"]
    (line,) = recipes.replaced_recipes(files)
    assert line == f"Your recipe {path} stands in for the shipped effect 'rain'."


def test_show_an_effect_and_a_layout():
    effect = run_json("show", "fog")
    assert effect["clause"] == recipes.load_effect("fog").clause
    assert effect["phrases"] == list(recipes.load_effect("fog").phrases)
    assert set(effect["sampler"].values()) == {None}
    layout = run_json("show", "composition-2x2")
    assert layout["given"] == ["TOP LEFT", "TOP RIGHT"]
    assert layout["slots"]["subject"] == "the subject"
    stdout, _ = run("show", "edit-2x2")
    # Square brackets of the template survive rich.
    assert "[{cell}]" in stdout


def test_show_takes_a_path():
    path = recipes.shipped_dir() / "effects" / "snow.toml"
    assert run_json("show", str(path))["name"] == "snow"


def test_unknown_name_has_the_nearest_one():
    _, error = run("show", "edit2x2")
    assert isinstance(error, RecipeError)
    assert "did you mean 'edit-2x2'?" in error.message


def test_check_finds_the_shipped_recipes_in_order():
    files = run_json("check")["files"]
    suites = list((recipes.shipped_dir() / "eval").glob("*.toml"))
    known = (recipes.effect_names(), recipes.layout_names(), suites)
    assert len(files) == sum(map(len, known))
    assert all(one["problems"] == [] for one in files)


def test_check_shows_all_problems_and_raises(tmp_path):
    good = recipes.shipped_dir() / "effects" / "snow.toml"
    bad = own_effect(tmp_path, ("title =", "titel ="))
    bad.write_text(bad.read_text() + "\n[sampler]\nnum_inference_steps = 0\n")
    stdout, error = run("check", str(good), str(bad))
    assert f"{good}: ok" in stdout
    assert "key 'titel' is unknown; did you mean 'title'?" in stdout
    assert "from 1 to 1000, not 0" in stdout
    assert "    ^^^^^" in stdout
    assert isinstance(error, RecipeError)
    assert error.message == "1 of 2 recipes has problems"
    assert error.exit_code == 3


def test_check_finds_template_problems_and_slots_without_value(tmp_path):
    text = (recipes.shipped_dir() / "layouts" / "edit-1x3.toml").read_text()
    path = tmp_path / "edit-1x3.toml"
    path.write_text(text.replace("{clause or scene | bare}", "{clause or scen | bar}"))
    result, error = run("check", str(path), "--format", "json")
    (found,) = json.loads(result)["files"]
    assert [p.split(": ")[1].split("\n")[0] for p in found["problems"]] == [
        "unknown slot 'scen'; did you mean 'scene'?",
        "unknown filter 'bar'; did you mean 'bare'?",
    ]
    assert isinstance(error, RecipeError)
    path.write_text(text.replace('motion = "motion"', 'motion = ""'))
    stdout, error = run("check", str(path))
    assert "slot 'motion' has no value" in stdout
    assert isinstance(error, RecipeError)


def test_check_of_an_empty_folder(tmp_path):
    _, error = run("check", str(tmp_path))
    assert isinstance(error, RecipeError)
    assert str(tmp_path) in error.message


def test_render_deals_effects_to_the_cells_to_fill():
    prompt = run_json(
        *("render", "edit-2x2", "--effect", "rain", "--prompt", "with [odd] {words}"),
        *("--slot", "subject=cat"),
    )
    words = {one["cell"]: prompt["text"][one["start"] : one["end"]] for one in prompt["segments"]}
    assert "of a cat performing" in words[None]
    assert "as in the original clip" in words[0]
    assert "in heavy rain" in words[1]
    assert words[2].endswith("with [odd] {words}.")
    assert "in heavy rain" in words[3]
    assert prompt["negative"] == recipes.load_effect("rain").negative
    stdout, error = run(
        *("render", "--effect", "rain", "--prompt", "with [odd] {words}", "--slot", "subject=cat")
    )
    assert error is None
    assert stdout == prompt["text"] + "\n"


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["--slot", "subjct=cat"], PromptError, "did you mean 'subject'?"),
        (["--slot", "subject"], UsageError, "NAME=VALUE"),
        (["--effect", "rian"], RecipeError, "did you mean 'rain'?"),
        (["--effect", "fog"] * 4, UsageError, "4 effects and prompts for 3 cells"),
        (["edit2x2"], RecipeError, "did you mean 'edit-2x2'?"),
    ],
)
def test_render_mistakes(arguments, kind, words):
    _, error = run("render", *arguments)
    assert isinstance(error, kind)
    assert isinstance(error, DcgridError)
    assert words in error.message
    assert error.hint


def test_loads_no_torch():
    code = "import sys, dcgrid.cli.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
