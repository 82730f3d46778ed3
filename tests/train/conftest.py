"""A world of a few small pictures, and recipes that train the `tiny` preset in seconds."""

import pytest

from benchmarks.small_world import write_small_recipe
from dcgrid.train.job import Reporter, TrainJob
from dcgrid.train.run_stage import run_stage
from dcgrid.train.settings import load_train_recipe


@pytest.fixture(scope="session")
def base_folder(tiny_store, tmp_path_factory):
    """Folder with an autoencoder, a text encoder and a transformer of `tiny`."""
    folder = tmp_path_factory.mktemp("base")
    # A base that learnt nothing has gates of zero before all that an adapter could change.
    for stage, steps in (("autoencoder", 4), ("base", 80)):
        path = write_small_recipe(folder, stage, steps=steps, rate="5e-3")
        recipe = load_train_recipe(path, "tiny")
        job = TrainJob(recipe=recipe, model="tiny", out=folder, store=tiny_store)
        run_stage(job, Reporter(say=lambda line: None, progress=lambda progress: None))
    return folder


@pytest.fixture
def recipe_of(tmp_path):
    """Write a small recipe of a stage (or "fill-composition") and return its path."""
    return lambda name, **knobs: write_small_recipe(tmp_path, name, **knobs)


@pytest.fixture
def run_tiny(tiny_store, recipe_of):
    """Train a stage of `tiny` into a folder; returns the weight file and the reports."""

    def run(
        stage,
        out,
        *,
        resume=False,
        accept_changes=False,
        decoder_only=False,
        generate=None,
        say=lambda line: None,
        **knobs,
    ):
        job = TrainJob(
            recipe=load_train_recipe(recipe_of(stage, **knobs), "tiny"),
            model="tiny",
            out=out,
            store=tiny_store,
            resume=resume,
            accept_changes=accept_changes,
            decoder_only=decoder_only,
        )
        reports = []
        path = run_stage(job, Reporter(say=say, progress=reports.append, generate=generate))
        return path, reports

    return run
