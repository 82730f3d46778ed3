"""Eval losses: comparable between runs, and without a trace in the training."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from dcgrid.models.weights import read_weights
from dcgrid.train.evaluation import EVAL_TIMES, at_rest, averaged_weights, eval_losses
from dcgrid.train.loop import LoopOptions, train
from dcgrid.train.settings import LogSettings
from dcgrid.train.stages import base
from dcgrid.train.stages.grids import GridStage

_FILE = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_FILE)
_FILE.loader.exec_module(toy)

ON = "eval_every = 2\neval_grids = 2\ntensorboard = false\n"
OFF = "eval_every = 0\ntensorboard = false\n"
KEYS = {*(f"eval_{time}" for time in EVAL_TIMES), "eval"}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class Watching(toy.ToyStage):
    """A toy whose eval loss is a figure of its weights, and which uses chance for nothing."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def evaluate(self, grids):
        assert not torch.is_grad_enabled()
        torch.rand(5)  # must not be felt by the run
        first = next(iter(self.parameters().values()))
        self.seen.append(first.detach().clone())
        return {time: time * grids for time in EVAL_TIMES}


def toy_run(folder, stage, every, reports=None):
    log = LogSettings(eval_every=every, eval_grids=3, keep_last=0, tensorboard=False)
    collect = reports.append if reports is not None else lambda _: None
    return train(stage, toy.toy_recipe(10, log=log), LoopOptions(folder=folder), collect)


def test_lines_progress_and_the_averaged_weights(tmp_path):
    stage, reports = Watching(), []
    state = toy_run(tmp_path, stage, 4, reports)
    lines = [line for line in lines_of(tmp_path) if "eval" in line]
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert all(line.keys() == {"step", *KEYS} for line in lines)
    assert lines[0]["eval_0.3"] == pytest.approx(0.9)
    assert lines[0]["eval"] == pytest.approx(1.5)
    assert reports[-1].figures["eval"] == pytest.approx(1.5)
    name = next(iter(state.ema))
    assert torch.equal(stage.seen[-1], state.ema[name])
    assert not torch.equal(stage.seen[-1], state.parameters[name])


def test_a_toy_ends_the_same_with_and_without(tmp_path):
    torch.manual_seed(3)
    one = toy.weights_of(toy_run(tmp_path / "on", Watching(), 1))
    after = torch.get_rng_state()
    torch.manual_seed(3)
    two = toy.weights_of(toy_run(tmp_path / "off", toy.ToyStage(), 0))
    assert toy.same(one, two)
    assert torch.equal(after, torch.get_rng_state())


def test_weights_come_back_after_an_error(tmp_path):
    state = toy_run(tmp_path, toy.ToyStage(), 0)
    before = toy.weights_of(state)
    with pytest.raises(ZeroDivisionError), averaged_weights(state):
        raise ZeroDivisionError
    assert toy.same(before, toy.weights_of(state))


def test_at_rest_gives_each_module_its_mode_back():
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2))
    network[1].eval()
    with at_rest(network):
        assert not any(module.training for module in network.modules())
    assert (network.training, network[0].training, network[1].training) == (True, True, False)


@pytest.mark.parametrize("stage", ["base", "fill", "fill-composition"])
def test_training_is_the_same_bit_for_bit_with_eval_on(run_tiny, tmp_path, stage):
    """Dropout, noise and the stock of variants included."""
    folder = tmp_path / "on"
    run_tiny("autoencoder", folder)
    if stage != "base":
        run_tiny("base", folder)
    shutil.copytree(folder, tmp_path / "off")
    run_tiny(stage, folder, steps=6, log=ON)
    run_tiny(stage, tmp_path / "off", steps=6, log=OFF)
    part = "dit" if stage == "base" else stage
    one, two = (read_weights(f / f"{part}.safetensors")[0] for f in (folder, tmp_path / "off"))
    assert toy.same(one, two)
    lines = [line for line in lines_of(folder / stage) if "eval" in line]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all(0 < line[key] < 100 for line in lines for key in KEYS)
    assert lines[0]["eval"] != lines[-1]["eval"]
    assert not any("eval" in line for line in lines_of(tmp_path / "off" / stage))


def test_fixed_grids_do_not_depend_on_the_run(run_tiny, tmp_path, monkeypatch):
    """Two stages that have drawn different batches are measured on the same grids and noise."""
    run_tiny("autoencoder", tmp_path)
    drawn = []

    class Watched(GridStage):
        def evaluate(self, grids):
            losses = super().evaluate(grids)
            again = super().evaluate(grids)
            assert losses == again
            assert self.dit.training
            drawn.append(self._fixed)
            return losses

    monkeypatch.setattr(base, "GridStage", Watched)
    run_tiny("base", tmp_path, steps=2, log=ON)
    run_tiny("base", tmp_path, steps=5, log=ON, rate="1e-3")
    first, *others = drawn
    assert len(others) == 3
    assert len(first) == 2
    for fixed in others:
        for (one, noise), (other, other_noise) in zip(first, fixed, strict=True):
            assert torch.equal(noise, other_noise)
            assert torch.equal(one.cells_BKCFYX, other.cells_BKCFYX)
            assert one.rows == other.rows
    assert not torch.equal(first[0][1], first[1][1])


def test_eval_losses_names_what_it_measures(tmp_path):
    state = toy_run(tmp_path, toy.ToyStage(), 0)
    assert eval_losses(Watching(), state, 2).keys() == KEYS
