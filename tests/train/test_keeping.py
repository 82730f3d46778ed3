"""Kept checkpoints, and going on from one when the newest is damaged."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from dcgrid.errors import OutputError, WeightsError
from dcgrid.train.checkpoint import STATE_NAME, DamagedCheckpoint, read_facts
from dcgrid.train.loop import LoopOptions, train
from dcgrid.train.resume import find_state, kept_states, read_step
from dcgrid.train.settings import LogSettings

_FILE = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_FILE)
_FILE.loader.exec_module(toy)


def run(folder, *, steps=12, resume=False, keep_every=3, keep_last=2, notes=None):
    options = LoopOptions(folder=folder, resume=resume, save_every_s=1e9, log_every=5)
    log = LogSettings(keep_every=keep_every, keep_last=keep_last, tensorboard=False)
    say = notes.append if notes is not None else lambda line: None
    return train(toy.ToyStage(), toy.toy_recipe(steps, log=log), options, lambda _: None, say)


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def test_the_last_few_are_kept(tmp_path):
    run(tmp_path, steps=11)
    assert [step for step, _ in kept_states(tmp_path)] == [9, 6]
    assert [read_facts(path)[0] for _, path in kept_states(tmp_path)] == [9, 6]
    assert read_step(tmp_path) == 11
    run(tmp_path / "none", keep_last=0)
    assert kept_states(tmp_path / "none") == []


def test_a_new_run_does_not_keep_those_of_another(tmp_path):
    run(tmp_path)
    run(tmp_path, steps=4, keep_every=4)
    assert [step for step, _ in kept_states(tmp_path)] == [4]


def test_a_checkpoint_cut_short_falls_back_and_says_so(tmp_path):
    whole = run(tmp_path / "whole")
    folder, notes = tmp_path / "run", []
    run(folder)
    cut(folder / STATE_NAME)
    assert find_state(folder)[1] == 12
    cut(folder / "state-12.safetensors")
    path, step, _, why = find_state(folder)
    assert (path.name, step) == ("state-9.safetensors", 9)
    assert "is damaged" in why
    resumed = run(folder, resume=True, notes=notes)
    assert toy.same(toy.weights_of(whole), toy.weights_of(resumed))
    (told,) = notes
    assert "state.safetensors is damaged" in told
    assert "going on from state-9.safetensors, 9 steps" in told
    assert read_step(folder) == 12
    # What was cut short was not left to be fallen back on.
    assert all(read_facts(path)[0] == step for step, path in kept_states(folder))


def test_a_lost_checkpoint_falls_back_as_well(tmp_path):
    run(tmp_path)
    (tmp_path / STATE_NAME).unlink()
    notes = []
    assert run(tmp_path, steps=13, resume=True, notes=notes).step == 13
    assert "going on from state-12.safetensors" in " ".join(notes)


def test_all_damaged_is_an_error_and_nothing_is_removed(tmp_path):
    run(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        cut(path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert len(before) == 3
    with pytest.raises(DamagedCheckpoint, match=r"state\.safetensors is damaged"):
        run(tmp_path, resume=True)
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}


def test_another_model_is_no_reason_to_fall_back(tmp_path, monkeypatch):
    run(tmp_path)
    stage = toy.ToyStage()
    stage.network.append(toy.nn.Conv3d(3, 3, 1))
    monkeypatch.setattr(toy, "ToyStage", lambda: stage)
    with pytest.raises(WeightsError, match="of another model"):
        run(tmp_path, resume=True)


def test_a_full_disk_while_keeping_leaves_the_newest(tmp_path, monkeypatch):
    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match=r"(?i)no space left"):
        run(tmp_path)
    assert read_step(tmp_path) == 3
    assert [p.name for p in tmp_path.glob("state*")] == [STATE_NAME]
    assert kept_states(tmp_path) == []
