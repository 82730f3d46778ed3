"""Effect and layout recipes: what is refused, where recipes are found, and mutated files."""

import random

import pytest

from dcgrid import prompts, recipes
from dcgrid.errors import DcgridError, PromptError, RecipeError

EFFECT = recipes.shipped_dir() / "effects" / "rain.toml"
LAYOUT = recipes.shipped_dir() / "layouts" / "edit-2x2.toml"


def write(folder, source, *changes):
    text = source.read_text(encoding="utf-8")
    if source == EFFECT:
        text += "\n[sampler]\nguidance_scale = 1.0\nnum_inference_steps = 1\n"
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / source.name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('name = "rain"', 'name = "storm"', 1, "must be the file's name 'rain', not 'storm'"),
        ('name = "rain"', 'name = "Rain!"', 1, "small letters, digits and single hyphens"),
        ('name = "rain"', "name = 3", 1, "must be a string, not 3"),
        ("title =", "titel =", 2, "key 'titel' is unknown; did you mean 'title'?"),
        ("title =", "titel =", None, "key 'title' is missing"),
        ('"weather"', '"wether"', 3, "did you mean 'weather'?"),
        ('"Heavy rain"', '"Heavy \\u001b[31m rain"', 2, "control character U+001B"),
        ('"in the rain"', '"in \\u0000 rain"', 9, "control character U+0000"),
        ('kind = "weather"', "", None, "must be one of tone, light, weather, element"),
        ("= false", '= "no"', 4, "must be true or false, not 'no'"),
        ('clause = "in', 'clause = " " # "in', 6, "must not be blank"),
        ('"in the rain"', '"a downpour"', 9, "holds 'a downpour' twice"),
        ('"in the rain"', "7", 9, "must be a string, not 7"),
        ("guidance_scale = 1.0", "guidance_scale = 99", 25, "from 0 to 30, not 99"),
        ("guidance_scale = 1.0", "guidance_scale = inf", 25, "from 0 to 30, not inf"),
        ("num_inference_steps = 1", "num_inference_steps = 1.5", 26, "integer from 1 to 1000"),
        ("[sampler]", "[sampler]\nnoise_scale = 0", 25, "from 0.1 to 10, not 0"),
        ("[sampler]", "[smapler]", 24, "key 'smapler' is unknown; did you mean 'sampler'?"),
        ("[sampler]", "sampler = 3\n[other]", 24, "key 'sampler' must be a table"),
    ],
)
def test_wrong_effect(tmp_path, old, new, line, words):
    path = write(tmp_path, EFFECT, (old, new))
    with pytest.raises(RecipeError) as raised:
        recipes.load_effect(path)
    start = f"{path}:{line}:" if line else f"{path}: "
    heads = [one for one in raised.value.message.split("\n") if one.startswith(start)]
    assert any(words in one for one in heads), raised.value.message
    assert str(path) in raised.value.hint


def test_too_few_phrases(tmp_path):
    text = EFFECT.read_text(encoding="utf-8")
    start = text.index("phrases")
    path = tmp_path / "rain.toml"
    path.write_text(text[:start] + 'phrases = ["a"]\n')
    with pytest.raises(RecipeError, match="needs at least 8 entries, has 1"):
        recipes.load_effect(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rows = 2", "rows = 3", "names 4 cells; rows x cols makes 6"),
        ("rows = 2", "rows = 0", "must be an integer from 1 to 8, not 0"),
        ('"edit"', '"compose"', "must be one of edit, composition"),
        ('given = ["TOP LEFT"]', 'given = ["TOP"]', "names no cell 'TOP'"),
        ('given = ["TOP LEFT"]', "given = []", "needs at least 1 entry"),
        ('given = ["TOP LEFT"]', 'given = ["BOTTOM LEFT", "TOP LEFT", "TOP RIGHT", '
         '"BOTTOM RIGHT"]', "nothing is left to fill"),
        ('mode = "edit"', 'mode = "composition"', "must name the two sources"),
        ('visibility = "all"', 'visibility = "every"', "must be one of all, composition"),
        ('scene = "as', 'scene = 4 # "as', "key 'slots.scene' must be a string, not 4"),
        ('scene = "as', '"a b" = "as', "has the slot 'a b'"),
    ],
)  # fmt: skip
def test_wrong_layout(tmp_path, old, new, words):
    with pytest.raises(RecipeError) as raised:
        recipes.load_layout(write(tmp_path, LAYOUT, (old, new)))
    assert words in raised.value.message
    # One mistake is one problem: a wrong count of rows does not also make the cells wrong.
    assert raised.value.message.count("key '") == 1


def test_template_mistake_names_the_line_of_the_file(tmp_path):
    path = write(tmp_path, LAYOUT, ("[{cell}] {subject |", "[{cell}] {subjct |"))
    layout = recipes.load_layout(path)
    lines = path.read_text(encoding="utf-8").split("\n")
    line = next(n for n, content in enumerate(lines, 1) if "{subjct" in content)
    column = lines[line - 1].index("subjct") + 1
    (problem,) = prompts.grid_problems(layout)
    assert problem.message.startswith(f"{path}:{line}:{column}: unknown slot 'subjct'; did you")


def test_clause_mistake_names_the_line_of_the_file(tmp_path):
    path = write(tmp_path, EFFECT, ("in heavy rain, wet", "in {heavy rain, wet"))
    effect = recipes.load_effect(path)
    with pytest.raises(PromptError) as raised:
        prompts.render_text(effect.clause, {}, place=effect.clause_place)
    assert raised.value.message.startswith(f"{path}:6:")


def test_lookup_order(tmp_path):
    user, elsewhere = tmp_path / "user", tmp_path / "elsewhere"
    (user / "effects").mkdir(parents=True)
    elsewhere.mkdir()
    mine = write(user / "effects", EFFECT, ("Heavy rain", "My rain"))
    path = write(elsewhere, EFFECT, ("Heavy rain", "Other rain"))
    assert recipes.load_effect("rain").title == "Heavy rain"
    assert recipes.load_effect("rain", user).title == "My rain"
    assert recipes.load_effect("rain", user).file == mine
    assert recipes.load_effect(path, user).title == "Other rain"
    assert recipes.load_effect(str(path), user).title == "Other rain"
    assert recipes.load_effect("snow", user) == recipes.load_effect("snow")
    titles = {effect.name: effect.title for effect in recipes.list_effects(user)}
    assert len(titles) == 16
    assert titles["rain"] == "My rain"
    assert recipes.effect_names(tmp_path / "absent") == recipes.effect_names()


@pytest.mark.parametrize(
    ("name", "near"),
    [("rian", "rain"), ("purple_smoke", "purple-smoke"), ("FOG", "fog"), ("zzzzz", None)],
)
def test_unknown_name(name, near):
    with pytest.raises(RecipeError) as raised:
        recipes.load_effect(name)
    assert f"'{name}'" in raised.value.message
    assert ("did you mean" in raised.value.message) == (near is not None)
    assert near is None or f"'{near}'" in raised.value.message
    assert raised.value.hint == "dcgrid recipes list"


@pytest.mark.parametrize("name", ["", "..", "../rain", "a/b", "rain.toml", "\0", "\x1b[31m", "\n"])
def test_odd_names_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for load in (recipes.load_effect, recipes.load_layout):
        with pytest.raises(RecipeError) as raised:
            load(name)
        assert raised.value.message.isprintable()


def test_read_recipe_tells_the_kinds_apart(tmp_path):
    assert isinstance(recipes.read_recipe(EFFECT), recipes.EffectRecipe)
    assert isinstance(recipes.read_recipe(LAYOUT), recipes.LayoutRecipe)
    (tmp_path / "other.toml").write_text("stage = 1\n")
    with pytest.raises(RecipeError, match="neither an effect recipe"):
        recipes.read_recipe(tmp_path / "other.toml")


def mutated(content, rng):
    """Return a file's bytes with a few random edits of the kinds that people and disks make."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(data)), rng.randrange(6)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randint(1, 30)]
        elif kind == 2:
            data[at:at] = rng.choice([b"{", b"}", b'"', b"[", b"]", b"\n", b"=", b"'''", b"{if a}"])
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            other = rng.randrange(len(data))
            data[at:at] = data[other : other + rng.randint(1, 40)]
        else:
            data[at:at] = rng.choice([b"nan", b"-1", b"9" * 400, b"true", b"\x00", b"\xff\xfe"])
        if not data:
            return b""
    return bytes(data)


@pytest.mark.parametrize("source", [EFFECT, LAYOUT, LAYOUT.with_name("composition-2x2.toml")])
def test_mutated_recipes_never_raise_anything_else(source, tmp_path):
    rng, content = random.Random(7), source.read_bytes()
    path = tmp_path / source.name
    messages = []
    for _ in range(300):
        path.write_bytes(mutated(content, rng))
        try:
            recipe = recipes.read_recipe(path)
            if isinstance(recipe, recipes.EffectRecipe):
                prompts.render_text(recipe.clause, {}, place=recipe.clause_place)
            else:
                prompts.render_grid(recipe, {})
        except DcgridError as error:
            messages.append(error.message)
    assert len(messages) > 150
    assert all(str(path) in message for message in messages)
