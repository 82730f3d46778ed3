"""Training recipes: the shipped ones hold the paper's numbers, wrong ones end in RecipeError."""

import random
import re
import tomllib

import pytest

from dcgrid.errors import RecipeError, UsageError
from dcgrid.recipes import shipped_dir
from dcgrid.train.loop import learning_rate, phase_at
from dcgrid.train.settings import STAGES, OptimSettings, load_train_recipe, with_steps

FOLDER = shipped_dir() / "train"


@pytest.mark.parametrize("name", [*STAGES, "fill-composition"])
@pytest.mark.parametrize("model", ["mini", "paper"])
def test_every_shipped_recipe_loads(name, model):
    recipe = load_train_recipe(FOLDER / f"{name}.toml", model)
    assert recipe.run_name == name
    assert recipe.phases[-1].until == 1.0
    assert recipe.optim.steps > 0


def test_base_has_the_numbers_of_the_paper():
    recipe = load_train_recipe(FOLDER / "base.toml", "paper")
    optim = recipe.optim
    assert (optim.learning_rate, optim.betas) == (1e-4, (0.9, 0.99))
    assert (optim.weight_decay, optim.eps) == (0.01, 1e-8)
    assert (optim.warmup_steps, optim.steps, optim.cooldown) == (10_000, 822_000, 0.0)
    assert recipe.precision == "bf16"
    frames = [phase.frames for phase in recipe.phases]
    assert (frames[0], frames[-1]) == (17, 121)
    assert frames == sorted(frames)
    wide, tall, square = (9, 16), (16, 9), (1, 1)
    for phase in recipe.phases:
        for sizes, shapes in (
            (phase.sizes, (wide, tall)),
            (phase.image_sizes, (wide, tall, square)),
        ):
            sides = {tuple(side * long // max(shape) for side in shape)
                     for shape in shapes for long in (512, 1024)}  # fmt: skip
            assert set(sizes) == sides
        # Images of a batch have about the tokens of its clips.
        assert phase.image_batch == phase.batch * ((phase.frames - 1) // 8 + 1)
        assert 0 < phase.image_share < 1
    assert (recipe.scale.shard, recipe.scale.accumulate) == ("full", 256)
    assert recipe.loss.single_share == 1.0


def test_fill_has_the_numbers_of_the_paper():
    recipe = load_train_recipe(FOLDER / "fill.toml", "paper")
    optim = recipe.optim
    assert (optim.learning_rate, optim.betas, optim.weight_decay) == (1e-4, (0.9, 0.99), 0.01)
    assert (optim.clip_norm, optim.steps) == (0.05, 3900)
    assert (optim.warmup_steps, optim.cooldown) == (0, 0.0)
    loss = recipe.loss
    assert (loss.rank, loss.dropout) == (8, 0.5)
    assert (loss.noise_scale, loss.text_masking) == (1.9, 0.6)
    assert loss.dc_strength == 1.0
    assert (recipe.sampled_noise_scale, recipe.sampled_time_shift) == (1.8, loss.time_shift)
    for other in ("fill", "fill-composition", "grid", "grid-composition", "dc", "base"):
        mini = load_train_recipe(FOLDER / f"{other}.toml", "mini").loss
        assert (mini.text_masking, mini.caption_dropout) == (0.0, 0.1)


def test_composition_has_the_numbers_of_the_paper():
    recipe = load_train_recipe(FOLDER / "fill-composition.toml", "paper")
    assert (recipe.stage, recipe.mode, recipe.optim.steps) == ("fill", "composition", 3500)
    assert (recipe.loss.noise_scale, recipe.loss.dc_strength) == (1.75, 1.0)
    assert recipe.sampled_noise_scale == 1.7
    consistent = load_train_recipe(FOLDER / "fill.toml", "paper")
    assert recipe.optim == with_steps(consistent, 3500).optim


def test_self_conditioning_is_the_backbones_and_none_of_grid_fill():
    """Table 5 says 0.9; section 8 disables it for Grid-Fill."""
    for name, share in (("base", 0.9), ("dc", 0.9), ("grid", 0.9), ("fill", 0.0)):
        for mode in ("", "-composition") if name in ("grid", "fill") else ("",):
            path = FOLDER / f"{name}{mode}.toml"
            assert load_train_recipe(path, "paper").loss.self_conditioning == share
            assert load_train_recipe(path, "mini").loss.self_conditioning == 0


@pytest.mark.parametrize("name", ["base", "grid", "grid-composition", "fill", "fill-composition"])
def test_mini_is_sampled_as_it_was(name):
    """Whatever it is trained with: its spec says 1 and 3, as the shipped adapters were made."""
    recipe = load_train_recipe(FOLDER / f"{name}.toml", "mini")
    assert (recipe.sampled_noise_scale, recipe.sampled_time_shift) == (1.0, 3.0)


def test_concepts_have_the_numbers_of_the_paper():
    recipe = load_train_recipe(FOLDER / "dc.toml", "paper")
    optim, loss = recipe.optim, recipe.loss
    assert (optim.learning_rate, optim.betas, optim.weight_decay) == (1e-4, (0.9, 0.99), 0.01)
    assert (optim.clip_norm, optim.warmup_steps, optim.cooldown) == (0.05, 0, 0.0)
    assert (loss.rank, loss.self_conditioning) == (8, 0.9)
    assert [phase.frames for phase in recipe.phases] == [1, 121]
    mini = load_train_recipe(FOLDER / "dc.toml", "mini")
    assert mini.loss.self_conditioning == 0
    assert [phase.frames for phase in mini.phases] == [1, 17, 33]


def test_a_model_overrides_single_keys_only():
    shared = tomllib.loads((FOLDER / "base.toml").read_text())
    recipe = load_train_recipe(FOLDER / "base.toml", "mini")
    assert recipe.optim.learning_rate == shared["mini"]["optim"]["learning_rate"]
    assert recipe.optim.betas == tuple(shared["optim"]["betas"])
    assert recipe.loss.noise_scale == shared["loss"]["noise_scale"]
    assert recipe.loss.time_shift == shared["mini"]["loss"]["time_shift"]


def test_with_steps_changes_nothing_else():
    recipe = load_train_recipe(FOLDER / "fill.toml", "mini")
    assert with_steps(recipe, None) is recipe
    assert with_steps(recipe, 7).optim.steps == 7
    assert with_steps(recipe, 7).optim.learning_rate == recipe.optim.learning_rate


WRONG = [
    ("learning_rate = 1e-4", 'learning_rate = "fast"', "optim.learning_rate"),
    ("learning_rate = 1e-4", "learning_rate = 0", "optim.learning_rate"),
    ("learning_rate = 1e-4", "learning_rate = nan", "optim.learning_rate"),
    ("learning_rate = 1e-4", "learning_rte = 1e-4", "'learning_rate'?"),
    ("steps = 3900", "steps = 1.5", "optim.steps"),
    ("steps = 3900", "steps = true", "optim.steps"),
    ("steps = 3900", "", "'optim.steps' is missing; it must be a whole number above 0"),
    ("betas = [0.9, 0.99]", "betas = [0.9]", "optim.betas"),
    ("clip_norm = 0.05", "clip_norm = [1]", "optim.clip_norm"),
    ("until = 1.0", "until = 0.5", "end at 1.0"),
    ("batch = 1", "batch = 0", "phases.0.batch"),
    (
        "sizes = [[288, 512], [512, 288]]",
        "sizes = [288, 512]",
        "'phases.0.sizes' must be a list of [he",
    ),
    ("rank = 8", "rank = 8\nrnak = 8", "'rank'?"),
    ("rank = 8", "", "'loss.rank' is missing"),
    ("text_masking = 0.6", "text_masking = 1.5", "'loss.text_masking' must be a number from 0"),
    ("caption_dropout = 0.1", "", "'loss.caption_dropout' is missing"),
    ("caption_dropout = 0.1", "", "rename your text_masking to caption_dropout"),
    ("rank = 8", 'rank = "8"', "loss.rank"),
    ('precision = "bf16"', 'precision = "fp8"', "5:1: key 'precision' must be one of bf16, fp32"),
    ("[mini.loss]", "[minni.loss]", "'mini'?"),
    ('stage = "fill"', 'stage = "full"', "did you mean 'fill'?"),
    ('stage = "fill"', "", "'stage' is missing"),
    ('stage = "fill"', 'stage = "fill"\ngiven_first = 1', "'given_first' must be true or false"),
    ('stage = "fill"', 'stage = "fill"\ngiven = "noised"', "'given' must be one of clean, replace"),
    ('stage = "fill"', 'stage = "fill"\ngiven = "replace"\ngiven_first = true', 'given = "clean"'),
    ("validate_every = 500", "eval_evry = 5", "'eval_every'?"),
    ("validate_every = 500", "eval_every = -1", "log.eval_every"),
    ("validate_every = 500", "eval_grids = 0", "log.eval_grids"),
    ("validate_every = 500", "validate_every = -1", "log.validate_every"),
    ("validate_every = 500", "keep_every = 0", "log.keep_every"),
    ("validate_every = 500", "keep_last = 1.5", "log.keep_last"),
    ("validate_every = 500", "tensorboard = 1", "log.tensorboard"),
    ("[inference]\nnoise_scale = 1.8", "[inference]\nnoise_scale = 0", "inference.noise_scale"),
    ("[inference]\nnoise_scale = 1.8", "[inference]\nsigma = 1.8", "inference.sigma"),
    ("[log]", "[[log]]", "'log' must be a table"),
]


@pytest.mark.parametrize(("old", "new", "told"), WRONG)
def test_a_wrong_recipe_names_the_place(tmp_path, old, new, told):
    text = (FOLDER / "fill.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RecipeError) as caught:
        load_train_recipe(path, "paper")
    assert told in f"{caught.value.message} {caught.value.hint}"
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("stage", "loss", "expected"),
    [
        (
            "dc",
            {"motion_dropout": 1.0},
            "motion_dropout' must be a number from 0 to below 1, not 1.0",
        ),
        ("dc", {"prior_share": 1.5}, "prior_share' must be a number from 0 to 1, not 1.5"),
        ("dc", {"rank": 1.5}, "rank' must be a whole number above 0, not 1.5"),
        ("fill", {"rank": 0}, "rank' must be a whole number above 0, not 0"),
        ("grid", {"noise_scale": 0}, "noise_scale' must be a number above 0, not 0"),
        ("base", {"reader_steps": 2.5}, "reader_steps' must be a whole number of 0 or more"),
        ("base", {"self_conditioning": 1.1}, "self_conditioning' must be a number from 0 to 1"),
        ("autoencoder", {"fit_batches": 1}, "fit_batches' must be a whole number above 1, not 1"),
        ("upsampler", {"look_share": 2}, "look_share' must be a number from 0 to 1, not 2"),
        ("upsampler", {"edit_shre": 0.5}, "edit_shre' is unknown; did you mean 'edit_share'?"),
    ],
)
def test_a_loss_that_cannot_be_is_refused(recipe_of, stage, loss, expected):
    with pytest.raises(RecipeError, match=re.escape(expected)):
        load_train_recipe(recipe_of(stage, loss=loss), "tiny")


@pytest.mark.parametrize("line", ["given_first = true", 'given = "replace"'])
@pytest.mark.parametrize("stage", ["base", "dc", "grid"])
def test_keys_of_given_cells_are_for_stage_fill(tmp_path, stage, line):
    path = tmp_path / "mine.toml"
    path.write_text(f"{line}\n{(FOLDER / f'{stage}.toml').read_text()}")
    with pytest.raises(RecipeError, match=f"key '{line.split()[0]}' is for stage fill"):
        load_train_recipe(path, "mini")


@pytest.mark.parametrize(
    ("name", "key", "told"),
    [
        ("fill-composition", "moved_share", "is for mode consistent, not composition"),
        ("fill", "single_share", "must be 0 in stage fill, which has whole grids"),
        ("grid", "single_share", "must be 0 in stage grid, which has whole grids"),
    ],
)
def test_shares_are_refused_where_there_is_nothing_to_share(recipe_of, name, key, told):
    path = recipe_of(name, loss={key: 0.5})
    with pytest.raises(RecipeError, match=told):
        load_train_recipe(path, "tiny")


def test_missing_unreadable_and_foreign_files(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge.toml").write_bytes(b"#" * 300_000)
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5000)
    for name in ("nowhere.toml", "binary.toml", "huge.toml", "deep.toml", "."):
        with pytest.raises(RecipeError):
            load_train_recipe(tmp_path / name, "mini")
    with pytest.raises(UsageError, match="minni"):
        load_train_recipe(FOLDER / "base.toml", "minni")


@pytest.mark.parametrize("stage", STAGES)
def test_mutated_recipes_load_or_raise_a_recipe_error(tmp_path, stage):
    content = (FOLDER / f"{stage}.toml").read_bytes()
    chance, path, refused = random.Random(stage), tmp_path / "mutated.toml", 0
    for _ in range(150):
        mutated = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(mutated))
            if chance.random() < 0.3:
                del mutated[place : place + chance.randint(1, 30)]
            else:
                mutated[place] = chance.choice(b'0123456789-."[]{}=ab\n\x00\xff')
        path.write_bytes(mutated)
        try:
            load_train_recipe(path, chance.choice(["mini", "paper"]))
        except RecipeError as error:
            refused += 1
            assert str(path) in error.message
    assert refused > 30


def test_learning_rate_warms_up_stays_and_cools_down():
    optim = OptimSettings(learning_rate=1.0, steps=100, warmup_steps=10, cooldown=0.2)
    rates = [learning_rate(optim, step) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:81] == [1.0] * 71
    assert rates[80:] == pytest.approx([(100 - i) / 20 for i in range(80, 100)])
    assert rates[-1] > 0


def test_learning_rate_of_the_paper_is_constant_after_warm_up():
    optim = load_train_recipe(FOLDER / "base.toml", "paper").optim
    assert learning_rate(optim, 0) == pytest.approx(1e-8)
    assert learning_rate(optim, 4_999) == pytest.approx(0.5e-4)
    assert learning_rate(optim, 9_999) == learning_rate(optim, 821_999) == 1e-4


def test_phases_follow_one_another():
    recipe = with_steps(load_train_recipe(FOLDER / "base.toml", "paper"), 100)
    frames = [phase_at(recipe, step).frames for step in range(100)]
    assert frames == [17] * 40 + [33] * 20 + [65] * 20 + [121] * 20
    assert phase_at(recipe, 100).frames == 121
