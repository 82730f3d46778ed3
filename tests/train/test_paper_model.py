"""Every shipped training recipe, started; then `edit` with what was trained.

The numbers are the recipes' own for `paper`, the network is that of `paper-small`, whose code is
the same; clips are small and steps are one.
"""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcgrid.adapters.attach import find_targets
from dcgrid.cli.main import main
from dcgrid.errors import RecipeError, WeightsError
from dcgrid.models.native.config import PRESETS
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.folder import CONFIG_NAME, read_native_folder
from dcgrid.models.registry import find_model
from dcgrid.recipes import shipped_dir
from dcgrid.train.facts import train_facts
from dcgrid.train.job import Reporter, TrainJob
from dcgrid.train.plan import plan_stage
from dcgrid.train.run_stage import run_stage
from dcgrid.train.settings import TrainRecipe, load_train_recipe
from dcgrid.train.stages.generate import GenerateJob, load_generate_recipe
from dcgrid.train.stages.samplers import run_sampling
from tests.t5_folder import make_t5_folder

RECIPES = shipped_dir() / "train"
BEFORE = {
    "autoencoder": (),
    "base": ("autoencoder",),
    "dc": ("base",),
    "cells": ("dc",),
    "cells-composition": ("dc",),
    "grid": ("cells",),
    "grid-composition": ("cells-composition",),
    "sample": ("grid",),
    "sample-composition": ("grid-composition",),
    "fill": ("sample",),
    "fill-composition": ("sample-composition",),
    "upsampler": ("fill",),
}
"""What each recipe, as shipped, needs before it."""
QUICK = ("autoencoder", "base")


def shrunk(recipe: TrainRecipe, t5: Path) -> TrainRecipe:
    """Return a recipe for one step on small clips, all other numbers as they are."""
    phases = tuple(
        replace(
            phase,
            frames=min(phase.frames, 9),
            sizes=((32, 32),),
            batch=1,
            image_sizes=((32, 64),) if phase.image_share else (),
            image_batch=2,
        )
        for phase in recipe.phases
    )
    few = {"autoencoder": {"fit_batches": 2.0}, "dc": {"prior_share": 0.0}}.get(recipe.stage, {})
    return replace(
        recipe,
        optim=replace(recipe.optim, steps=1),
        phases=phases,
        loss=replace(recipe.loss, **few),
        log=replace(recipe.log, eval_every=0, validate_every=0, tensorboard=False),
        scale=replace(recipe.scale, accumulate=min(recipe.scale.accumulate, 2)),
        text_encoder=str(t5) if recipe.stage == "base" else "",
    )


class Folder:
    """A folder in which stages run once, each after those that it needs."""

    def __init__(self, out: Path, store: Path, t5: Path) -> None:
        self.out, self.store, self.t5 = out, store, t5
        self._made: dict[str, Path] = {}

    def stage(self, name: str) -> Path:
        """Return what a recipe's stage made."""
        if name not in self._made:
            for earlier in BEFORE[name]:
                self.stage(earlier)
            generating = name.startswith(("cells", "sample"))
            self._made[name] = self._generate(name) if generating else self._train(name)
        return self._made[name]

    def job(self, name: str) -> TrainJob:
        """Return the run of a stage, with the numbers that its recipe has for `paper`."""
        recipe = shrunk(load_train_recipe(RECIPES / f"{name}.toml", "paper"), self.t5)
        return TrainJob(recipe=recipe, model="paper-small", out=self.out, store=self.store)

    def _train(self, name: str) -> Path:
        job = self.job(name)
        plan = plan_stage(job)
        assert plan.missing == ()
        return run_stage(job, Reporter(say=lambda line: None, progress=lambda report: None))

    def _generate(self, name: str) -> Path:
        small = {"grids": 1, "num_inference_steps": 1, "frames": 9, "sizes": ((32, 32),)}
        named = {"model": "paper-small", "out": self.out}
        mode = "composition" if name.endswith("composition") else "consistent"
        if name.startswith("cells"):
            cells = replace(load_generate_recipe(RECIPES / "cells.toml", "paper", "cells"), **small)
            job = GenerateJob(recipe=cells, mode=mode, **named)
        else:
            sampled = replace(
                load_generate_recipe(RECIPES / "sample.toml", "paper", "sample"), **small
            )
            job = GenerateJob(recipe=sampled, mode=mode, store=self.store, **named)
        (path,) = run_sampling(job, lambda line: None, lambda done, total: None)
        return path


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return make_t5_folder(tmp_path_factory.mktemp("t5"), PRESETS["paper-small"].dit.text_width)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_store, t5):
    torch.manual_seed(0)
    return Folder(tmp_path_factory.mktemp("paper"), tiny_store, t5)


def test_every_shipped_recipe_is_started():
    names = {path.stem for path in RECIPES.glob("*.toml")}
    assert names == {n for n in BEFORE if n not in ("cells-composition", "sample-composition")}


# What is slow: eleven concepts are rendered for `dc`, and the last stages need all before them.
@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in BEFORE],
)
def test_a_recipe_starts(trained, name):
    assert trained.stage(name).is_file()


def test_edit_fills_a_grid_with_what_was_trained(trained, clip, tmp_path, capsys):
    """The adapter of stage `fill`, on grids of the world: without what stage `sample` generates."""
    trained.stage("base")
    job = trained.job("fill")
    loss = replace(job.recipe.loss, sampled_share=0.0, dc_strength=0.0)
    run_stage(
        replace(job, recipe=replace(job.recipe, loss=loss)),
        Reporter(say=lambda line: None, progress=lambda report: None),
    )
    out = tmp_path / "edited"
    out.mkdir()
    words = ["--model", trained.out, "--effect", "rain", "--out", out]
    assert main(["edit", *map(str, (clip, *words)), "--format", "json"]) == 0
    json.loads(capsys.readouterr().out)
    assert list(out.rglob("*.mp4"))
    (manifest,) = out.rglob("*.json")
    assert str(trained.out / "fill.safetensors") in manifest.read_text()


def test_a_trained_folder_says_what_the_model_is(trained, t5):
    trained.stage("base")
    spec, told = find_model(str(trained.out)).spec, read_native_folder(trained.out)
    assert (spec.name, spec.stride_T, spec.stride_HW, spec.fps) == ("paper-small", 8, 16, 24.0)
    assert told.config == PRESETS["paper-small"]
    assert told.text_encoder == str(t5)
    assert {"autoencoder", "dit"} <= find_model(str(trained.out)).digests().keys()


@pytest.mark.parametrize(
    ("was", "is_", "said"),
    [
        ('"version": 1', '"version": 2', "version 2, this program reads 1"),
        ('"paper-small"', '"paper-smal"', "preset, sizes or text_encoder"),
        ('"width": 128', '"width": "128"', "sizes.dit.width = '128'"),
        ('"width"', '"breadth"', "missing or unknown keys, first breadth"),
        ('"text_encoder": "', '"text_encoder": "", "_": "', "text_encoder = ''"),
        ("}", "", "is damaged"),
    ],
)
def test_a_damaged_folder_is_refused(trained, tmp_path, was, is_, said):
    trained.stage("base")
    text = (trained.out / CONFIG_NAME).read_text()
    assert was in text
    (tmp_path / CONFIG_NAME).write_text(text.replace(was, is_))
    with pytest.raises(WeightsError, match=re.escape(said)):
        read_native_folder(tmp_path)


def test_presets_without_weights_say_how_to_train_them(clip, capsys):
    assert main(["edit", str(clip), "--effect", "rain", "--model", "paper"]) == 2
    err = capsys.readouterr().err
    assert "paper has no weights of its own" in err
    assert "--model runs/paper" in err


def test_a_t5_of_another_width_is_refused(trained, tmp_path):
    trained.stage("autoencoder")
    job = trained.job("base")
    narrow = make_t5_folder(tmp_path / "t5", 16)
    job = replace(job, recipe=replace(job.recipe, text_encoder=str(narrow)))
    with pytest.raises(WeightsError, match="embeddings of 16 channels, the transformer reads 512"):
        run_stage(job, Reporter(say=lambda line: None, progress=lambda report: None))


def test_a_t5_belongs_to_models_that_read_with_one(trained, t5):
    job = trained.job("base")
    with pytest.raises(RecipeError, match="paper-small reads text with T5, but the recipe names"):
        plan_stage(replace(job, recipe=replace(job.recipe, text_encoder="")))
    mini = load_train_recipe(RECIPES / "base.toml", "mini")
    with pytest.raises(RecipeError, match="mini trains a text encoder of its own"):
        plan_stage(replace(job, model="mini", recipe=replace(mini, text_encoder=str(t5))))
    missing = plan_stage(replace(job, recipe=replace(job.recipe, text_encoder="nowhere"))).missing
    assert [line.split(" of ")[0] for line in missing if "nowhere" in line] == [
        "config.json", "tokenizer.json", "model.safetensors",
    ]  # fmt: skip


def test_a_trained_folder_is_trained_where_it_is(trained, capsys):
    trained.stage("base")
    words = ["train", "--stage", "fill", "--model", str(trained.out), "--dry-run"]
    world = ["--world", str(trained.store)]
    assert main([*words, *world]) == 0
    out = capsys.readouterr().out
    assert "fill of paper-small" in out
    assert "from stage base" not in out
    assert "from stage autoencoder" not in out
    assert main([*words, *world, "--out", "elsewhere"]) == 2
    assert "trained in its own folder" in capsys.readouterr().err


def test_adapters_sit_on_attention_and_mlp():
    facts = train_facts("paper")
    with torch.device("meta"):
        dit = DiT(replace(PRESETS["paper"].dit, blocks=2))
    for targets, count in ((facts.targets.all, 10), (facts.targets.dc, 10)):
        assert len(find_targets(dit, targets)) == 2 * count
    assert len(find_targets(dit, facts.targets.routed)) == 2 * 2


def test_images_are_mixed_in_at_even_distances():
    phase = load_train_recipe(RECIPES / "base.toml", "paper").phases[0]
    kinds = [phase.of_batch(number) for number in range(1000)]
    images = [number for number, kind in enumerate(kinds) if kind.frames == 1]
    assert len(images) == 300
    assert {b - a for a, b in itertools.pairwise(images)} <= {3, 4}
    assert {kind.sizes for kind in kinds if kind.frames > 1} == {phase.sizes}
    assert kinds[images[0]].sizes == phase.image_sizes
    assert phase.of_batch(0) is phase
