"""Checkpoints: round trip, damage, full disks, kills."""

import contextlib
import errno
import importlib.util
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dcgrid
from dcgrid.errors import OutputError, WeightsError
from dcgrid.io.atomic import remove_abandoned
from dcgrid.train import checkpoint
from dcgrid.train.checkpoint import (
    STATE_NAME,
    load_state,
    save_state,
    write_tensors,
)
from dcgrid.train.loop import LoopOptions, train
from dcgrid.train.resume import read_step

TOY = Path(__file__).with_name("toy.py")
_FILE = importlib.util.spec_from_file_location("toy", TOY)
toy = importlib.util.module_from_spec(_FILE)
_FILE.loader.exec_module(toy)


def trained(folder, steps=6):
    options = LoopOptions(folder=folder, save_every_s=1e9)
    return train(toy.ToyStage(), toy.toy_recipe(steps), options, lambda progress: None)


def fresh(folder, stage=None):
    """A state before any step, by way of a run that is stopped at once."""
    return train(
        stage or toy.ToyStage(), toy.toy_recipe(0), LoopOptions(folder=folder), lambda p: None
    )


def test_round_trip(tmp_path):
    state = trained(tmp_path / "run")
    other = fresh(tmp_path / "other")
    assert not toy.same(toy.weights_of(state), toy.weights_of(other))
    load_state(tmp_path / "run" / STATE_NAME, other)
    assert toy.same(toy.weights_of(state), toy.weights_of(other))
    assert other.step == 6 == read_step(tmp_path / "run")
    assert torch.equal(state.generator.get_state(), other.generator.get_state())
    for name, parameter in state.parameters.items():
        moments = state.optimizer.state[parameter]
        again = other.optimizer.state[other.parameters[name]]
        assert moments.keys() == again.keys()
        assert all(torch.equal(moments[key], again[key]) for key in moments)
        # The fused optimiser walks memory, so equal numbers in another order would not do.
        assert all(moments[key].stride() == again[key].stride() for key in moments)


def test_nothing_to_resume(tmp_path):
    state = trained(tmp_path / "run")
    assert read_step(tmp_path) is None
    with pytest.raises(WeightsError, match="no checkpoint") as caught:
        load_state(tmp_path / STATE_NAME, state)
    assert "--resume" in caught.value.hint


def test_another_model_is_refused_and_nothing_changes(tmp_path):
    trained(tmp_path / "run")
    stage = toy.ToyStage()
    stage.network.append(torch.nn.Conv3d(3, 3, 1))
    state = fresh(tmp_path / "other", stage)
    before = toy.weights_of(state)
    with pytest.raises(WeightsError, match="of another model"):
        load_state(tmp_path / "run" / STATE_NAME, state)
    assert toy.same(before, toy.weights_of(state))


def rewritten(path, change):
    with safe_open(path, "pt") as file:
        metadata, keys = file.metadata(), file.keys()
        tensors = {key: file.get_tensor(key) for key in keys}
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def _drop(key):
    return lambda tensors, metadata: tensors.pop(key)


def _put(key, value):
    return lambda tensors, metadata: tensors.update({key: value})


def _say(**facts):
    return lambda tensors, metadata: metadata.update(facts)


@pytest.mark.parametrize(
    "change",
    [
        _drop("rng"),
        _drop("model.0.weight"),
        _drop("ema.0.weight"),
        _put("rng", torch.zeros(3, dtype=torch.uint8)),
        _put("rng", torch.zeros(5056)),
        _put("rng_torch", torch.zeros(7, dtype=torch.uint8)),
        _put("model.0.bias", torch.zeros(9)),
        _put("model.0.bias", torch.full((4,), float("nan"))),
        _put("ema.0.bias", torch.zeros(2, 2)),
        _put("optim.exp_avg.0.bias", torch.zeros(2)),
        _put("optim.exp_avg.9.bias", torch.zeros(4)),
        _put("optim.step.0.bias", torch.zeros(4)),
        _put("optim.loose", torch.zeros(4)),
        _say(step="six"),
        _say(step="-1"),
        _say(facts="{"),
        _say(facts="[]"),
        _say(pending="[]"),
        _say(pending='{"loss": 3}'),
        _say(pending='{"loss": ["much"]}'),
        lambda tensors, metadata: metadata.clear(),
    ],
)
def test_wrong_contents_are_told_and_change_nothing(tmp_path, change):
    trained(tmp_path / "run")
    rewritten(tmp_path / "run" / STATE_NAME, change)
    state = fresh(tmp_path / "other")
    before, random_state = toy.weights_of(state), state.generator.get_state()
    with pytest.raises(WeightsError) as caught:
        load_state(tmp_path / "run" / STATE_NAME, state)
    assert caught.value.hint
    assert toy.same(before, toy.weights_of(state))
    assert torch.equal(random_state, state.generator.get_state())


def test_cut_and_mutated_files(tmp_path):
    trained(tmp_path / "run")
    path = tmp_path / "run" / STATE_NAME
    content, chance, refused = path.read_bytes(), random.Random(8), 0
    header = int.from_bytes(content[:8], "little") + 8
    state = fresh(tmp_path / "other")
    for number in range(200):
        mutated = bytearray(content)
        if number % 4 == 0:
            del mutated[chance.randrange(len(mutated)) :]
        else:
            # Most damage goes into the header: in the numbers it may pass for other weights.
            for _ in range(chance.randint(1, 3)):
                mutated[chance.randrange(header)] = chance.randrange(256)
        path.write_bytes(mutated)
        try:
            load_state(tmp_path / "run" / STATE_NAME, state)
        except WeightsError as error:
            refused += 1
            assert str(path) in error.message
        with contextlib.suppress(WeightsError):
            read_step(tmp_path / "run")
    assert refused > 150


def test_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    state = trained(tmp_path)
    good = (tmp_path / STATE_NAME).read_bytes()

    def full(path, tensors, metadata):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(OutputError, match=r"(?i)no space left") as caught:
        save_state(tmp_path, state, {})
    assert "--resume" in caught.value.hint
    assert (tmp_path / STATE_NAME).read_bytes() == good
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", STATE_NAME]


def test_a_file_of_ours_is_what_safetensors_reads(tmp_path):
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "wide": torch.randn(2, 3, dtype=torch.float64),
        "half": torch.randn(5, 3).bfloat16().T,
        "one": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
        "yes": torch.tensor([True, False]),
    }
    write_tensors(tmp_path / "a.safetensors", tensors, {"step": "3", "sign": "\N{SNOWMAN}"})
    read = load_file(tmp_path / "a.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"step": "3", "sign": "\N{SNOWMAN}"}
    write_tensors(None, tensors, {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_folder_that_cannot_be_written(tmp_path):
    state = trained(tmp_path / "run")
    with pytest.raises(OutputError):
        save_state(tmp_path / "nowhere", state, {})


def killed_until_done(folder, delays):
    """Start runs that die after so many seconds each, then one that may finish; count the dead."""
    source = str(Path(dcgrid.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    command = [sys.executable, str(TOY), str(folder), *map(str, delays)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


def check_kills(tmp_path, count, seed):
    chance = random.Random(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.monotonic()
        options = LoopOptions(folder=tmp_path / "whole", save_every_s=0.0)
        whole = train(toy.ToyStage(), toy.toy_recipe(), options, lambda progress: None)
        seconds = time.monotonic() - started
        delays = [chance.uniform(0.0, 1.5 * seconds / max(count, 1)) for _ in range(count)]
        killed = killed_until_done(tmp_path / "killed", delays)
    finally:
        torch.set_num_threads(threads)
    assert killed > 0
    resumed = fresh(tmp_path / "other")
    load_state(tmp_path / "killed" / STATE_NAME, resumed)
    assert resumed.step == toy.STEPS
    assert toy.same(toy.weights_of(whole), toy.weights_of(resumed))
    remove_abandoned(tmp_path / "killed", 0)
    left = {p.name for p in (tmp_path / "killed").iterdir()}
    assert left == {"log.jsonl", STATE_NAME}


def test_kill_9_and_resume_give_the_same_weights(tmp_path):
    check_kills(tmp_path, 6, seed=1)


@pytest.mark.slow
def test_kill_9_thirty_times(tmp_path):
    check_kills(tmp_path, 30, seed=2)
