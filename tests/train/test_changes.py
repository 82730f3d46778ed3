"""Resuming with another recipe: told key by key, refused unless asked for."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from dcgrid.errors import RecipeError
from dcgrid.train.checkpoint import STATE_NAME, read_facts
from dcgrid.train.loop import LoopOptions, train
from dcgrid.train.resume import SHOWN_CHANGES, changed_keys, check_changes, facts_of_run
from dcgrid.train.settings import LogSettings, load_train_recipe, with_steps

_FILE = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_FILE)
_FILE.loader.exec_module(toy)


def run(folder, recipe, *, resume=True, accept=False):
    notes = []
    options = LoopOptions(folder=folder, resume=resume, accept_changes=accept, model="toy")
    state = train(toy.ToyStage(), recipe, options, lambda _: None, notes.append)
    return state, notes


def changed(**optim):
    return toy.toy_recipe(8, **optim)


def test_facts_hold_the_whole_recipe(tmp_path):
    recipe = changed()
    run(tmp_path, recipe, resume=False)
    _, facts = read_facts(tmp_path / STATE_NAME)
    assert (facts["stage"], facts["model"]) == ("autoencoder", "toy")
    kept = json.loads(facts["recipe"])
    assert kept["optim"]["learning_rate"] == 1e-2
    assert kept["phases"][0]["sizes"] == [[6, 6]]
    assert changed_keys(facts, facts_of_run(recipe, "toy")) == {}


def test_a_change_is_named_refused_and_accepted(tmp_path):
    run(tmp_path, changed(), resume=False)
    before = (tmp_path / STATE_NAME).read_bytes()
    other = replace(changed(learning_rate=3e-3), seed=9)
    with pytest.raises(RecipeError) as caught:
        run(tmp_path, other)
    assert "optim.learning_rate: 0.01 -> 0.003" in caught.value.message
    assert "seed: 4 -> 9" in caught.value.message
    assert "--accept-changes" in caught.value.hint
    assert (tmp_path / STATE_NAME).read_bytes() == before
    _, notes = run(tmp_path, with_steps(other, 9), accept=True)
    assert any("going on with changes" in line and "seed: 4 -> 9" in line for line in notes)
    # From now on this is the run's recipe.
    assert run(tmp_path, with_steps(other, 9))[1] == []


def test_more_steps_and_another_log_are_no_change(tmp_path):
    run(tmp_path, changed(), resume=False)
    longer = replace(with_steps(changed(), 10), log=LogSettings(keep_last=3, tensorboard=False))
    state, notes = run(tmp_path, longer)
    assert (state.step, notes) == (10, [])


def test_more_steps_that_move_the_schedule_are_told(tmp_path):
    run(tmp_path, changed(cooldown=0.5), resume=False)
    _, notes = run(tmp_path, with_steps(changed(cooldown=0.5), 10))
    assert len(notes) == 1
    assert notes[0].startswith("optim.steps: 8 -> 10; cooldown")


def test_a_checkpoint_without_its_recipe_goes_on_with_a_note(tmp_path):
    run(tmp_path, changed(), resume=False)
    path = tmp_path / STATE_NAME
    with safe_open(path, "pt") as file:
        metadata, names = file.metadata(), file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    metadata = {"step": metadata["step"], "facts": json.dumps({"stage": "autoencoder"})}
    save_file(tensors, path, metadata)
    _, notes = run(tmp_path, changed(learning_rate=1e-3))
    assert len(notes) == 1
    assert "older" in notes[0]


def test_model_phases_and_many_changes(tmp_path):
    from dcgrid.recipes import shipped_dir

    fill = load_train_recipe(shipped_dir() / "train" / "fill.toml", "mini")
    facts, notes = facts_of_run(fill, "mini"), []
    phases = (replace(fill.phases[0], batch=9), *fill.phases[1:])
    odd = changed_keys(facts, facts_of_run(replace(fill, phases=phases), "tiny"))
    assert odd == {"model": "mini -> tiny", "phases[0].batch": "4 -> 9"}
    paper = load_train_recipe(shipped_dir() / "train" / "fill.toml", "paper")
    count = len(changed_keys(facts, facts_of_run(paper, "paper")))
    assert count > SHOWN_CHANGES + 1
    with pytest.raises(RecipeError) as caught:
        check_changes(facts, paper, "paper", notes.append, accept=False)
    message = caught.value.message
    assert message.count(" -> ") == SHOWN_CHANGES
    assert f"and {count - 1 - SHOWN_CHANGES} more" in message  # steps are told apart
    assert notes == []  # the paper's schedule has no cooldown and one phase


def test_facts_that_hold_no_recipe_are_a_change():
    facts = facts_of_run(toy.toy_recipe(), "toy")
    for odd in ("{", "3", None):
        assert "seed" in changed_keys({**facts, "recipe": odd}, facts)


def test_a_key_that_a_checkpoint_is_too_old_for_is_no_change_at_its_default():
    facts = facts_of_run(toy.toy_recipe(), "toy")
    recipe = json.loads(facts["recipe"])
    for key in ("given_first", "given"):
        del recipe[key]
    old = {**facts, "recipe": json.dumps(recipe)}
    assert changed_keys(old, facts) == {}
    other = facts_of_run(replace(toy.toy_recipe(), given="replace"), "toy")
    assert changed_keys(old, other) == {"given": '"clean" -> "replace"'}


def test_a_loss_without_multi_dc_was_one_at_strength_0():
    from dcgrid.recipes import shipped_dir

    fill = load_train_recipe(shipped_dir() / "train" / "fill.toml", "mini")
    now = facts_of_run(fill, "mini")
    recipe = json.loads(now["recipe"])
    del recipe["loss"]["dc_strength"]
    old = {**now, "recipe": json.dumps(recipe)}
    assert changed_keys(old, now) == {}
    on_multi_dc = facts_of_run(replace(fill, loss=replace(fill.loss, dc_strength=1.0)), "mini")
    assert changed_keys(old, on_multi_dc) == {"loss.dc_strength": "0.0 -> 1.0"}
    base = facts_of_run(load_train_recipe(shipped_dir() / "train" / "base.toml", "mini"), "mini")
    assert changed_keys(base, base) == {}
