"""Every shipped recipe loads, is worded apart from the others, and renders."""

import itertools
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from dcgrid import prompts, recipes
from dcgrid.errors import RecipeError

EFFECTS = [
    *("backlight", "blue-light", "fire-glow", "fog", "golden-hour", "night", "noir"),
    *("purple-smoke", "rain", "red-light", "smoke", "snow", "sparks", "underwater"),
    *("violet-night", "water"),
]
DETERMINISTIC = {
    *("fog", "night", "violet-night", "backlight", "golden-hour", "blue-light", "red-light"),
    *("noir", "underwater"),
}
LAYOUTS = ["composition-1x3", "composition-2x2", "edit-1x3", "edit-2x2"]


def test_names():
    assert [effect.name for effect in recipes.list_effects()] == EFFECTS
    assert list(recipes.effect_names()) == EFFECTS
    assert [layout.name for layout in recipes.list_layouts()] == LAYOUTS
    assert list(recipes.layout_names()) == LAYOUTS
    assert {e.name for e in recipes.list_effects() if e.deterministic} == DETERMINISTIC


@pytest.mark.parametrize("name", EFFECTS)
def test_effect(name):
    effect = recipes.load_effect(name)
    assert len(effect.phrases) >= 8
    assert effect.negative
    # Steps and guidance are the model's, or an effect would fit one model only.
    assert effect.sampler == recipes.SamplerValues()
    clause = prompts.render_text(effect.clause, {}, place=effect.clause_place)
    assert clause == effect.clause
    assert not clause.endswith(".")
    assert clause[0].islower()
    # The place is where the clause stands, read without the reader under test.
    line = effect.file.read_text(encoding="utf-8").split("\n")[effect.clause_place.line - 1]
    assert line[effect.clause_place.column - 1 :].startswith(effect.clause)


def test_no_phrase_belongs_to_two_effects():
    effects = recipes.list_effects()
    for one, other in itertools.combinations(effects, 2):
        shared = {p.casefold() for p in one.phrases} & {p.casefold() for p in other.phrases}
        assert not shared, (one.name, other.name)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("effect", EFFECTS)
def test_every_layout_renders_every_effect(name, effect):
    layout = recipes.load_layout(name)
    assert prompts.grid_problems(layout) == []
    assert layout.cells == prompts.cell_names(layout.rows, layout.cols)
    clause = recipes.load_effect(effect).clause
    clauses = [None if k in layout.given else clause for k in range(len(layout.cells))]
    prompt = prompts.render_grid(layout, {}, clauses)
    assert [segment.cell for segment in prompt.segments] == [None, *range(len(layout.cells))]
    for segment in prompt.segments[1:]:
        assert (clause in prompt.segment_text(segment)) == (segment.cell not in layout.given)
    assert "{" not in prompt.text
    assert " ." not in prompt.text
    assert ".." not in prompt.text


def test_edit_prompt_reads_well_without_any_slot():
    layout = recipes.load_layout("edit-2x2")
    prompt = prompts.render_grid(layout, {}, [None, recipes.load_effect("blue-light").clause])
    assert prompt.text.startswith(
        "This 2\u00d72 grid illustrates consistent generation of the subject performing the exact "
        "same motion. [TOP LEFT] The subject performing the exact same motion as in the original "
        "clip. [TOP RIGHT] The subject performing the exact same motion under saturated blue light."
    )


def test_composition_prompt_shows_each_source_its_own_words_only():
    layout = recipes.load_layout("composition-2x2")
    assert layout.given == (0, 1)
    assert layout.visibility == "composition"
    prompt = prompts.render_grid(layout, {"look": "wearing a red hat", "effect": "a blue flame"})
    by_cell = {segment.cell: prompt.segment_text(segment) for segment in prompt.segments}
    assert "red hat" in by_cell[0]
    assert "blue flame" not in by_cell[0]
    assert "blue flame" in by_cell[1].lower()


def test_effects_may_use_the_slots_that_edit_layouts_have():
    for layout in recipes.list_layouts():
        if layout.mode == "edit":
            assert set(recipes.EFFECT_SLOTS) <= set(layout.slots)


def test_shipped_dir_is_the_checkout_or_the_wheel(monkeypatch, tmp_path):
    top = Path(__file__).parents[2]
    assert recipes.shipped_dir() in (
        top / "recipes",
        Path(recipes.__file__).parents[1] / "_recipes",
    )
    # As installed: the package folder holds _recipes, and nothing lies two folders up.
    package = tmp_path / "site-packages" / "lib" / "dcgrid"
    for kind in ("effects", "layouts"):
        (package / "_recipes" / kind).mkdir(parents=True)
    monkeypatch.setattr(resources, "files", lambda _: package)
    assert recipes.shipped_dir() == package / "_recipes"
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    with pytest.raises(RecipeError, match="shipped recipes are missing"):
        recipes.shipped_dir()


def test_neither_prompts_nor_recipes_load_torch():
    code = "import sys, dcgrid.prompts, dcgrid.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
