"""The loop: averages, interrupts, NaN, logs."""

import importlib.util
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from dcgrid.errors import DeviceError
from dcgrid.train.checkpoint import STATE_NAME
from dcgrid.train.loop import LoopOptions, train
from dcgrid.train.resume import read_step

_FILE = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_FILE)
_FILE.loader.exec_module(toy)


def run(
    folder, *, stage=None, steps=12, resume=False, accept=False, reports=None, notes=None, **more
):
    options = LoopOptions(
        folder=folder, resume=resume, save_every_s=1e9, log_every=5, accept_changes=accept
    )
    collect = reports.append if reports is not None else lambda progress: None
    say = notes.append if notes is not None else lambda line: None
    recipe = toy.toy_recipe(steps, **more)
    return train(stage or toy.ToyStage(), recipe, options, collect, say)


def test_same_seed_same_weights(tmp_path):
    assert toy.same(toy.weights_of(run(tmp_path / "one")), toy.weights_of(run(tmp_path / "two")))


def test_first_step_is_adamw_by_hand(tmp_path):
    stage = toy.ToyStage()
    before = {n: p.detach().clone() for n, p in stage.parameters().items()}
    generator = torch.Generator().manual_seed(4)
    loss, _ = stage.loss(toy.toy_recipe().phases[0], generator)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in stage.parameters().items()}
    norm = torch.sqrt(sum(g.square().sum() for g in gradients.values()))
    scale = min(1.0, 0.05 / float(norm))
    state = run(tmp_path, steps=1, warmup_steps=2, weight_decay=0.1, clip_norm=0.05, ema_decay=0.0)
    rate = 1e-2 / 2
    assert scale < 1
    assert state.ema == {}
    for name, parameter in state.parameters.items():
        clipped = gradients[name] * scale
        # After one step both moments are the gradient's own, so their ratio is its sign.
        moved = before[name] * (1 - rate * 0.1) - rate * clipped / (clipped.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), moved, rtol=1e-4, atol=1e-6)


def test_average_follows_its_recurrence(tmp_path):
    """Rebuild the average from the weights after each step, from its definition."""
    weights = []
    for steps in range(1, 6):
        state = run(tmp_path / str(steps), steps=5 if steps == 5 else steps, warmup_steps=0)
        weights.append({n: p.detach().clone() for n, p in state.parameters.items()})
    average = {n: p.detach().clone() for n, p in toy.ToyStage().parameters().items()}
    for step, now in enumerate(weights, start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        average = {n: decay * average[n] + (1 - decay) * now[n] for n in now}
    for name, tensor in state.ema.items():
        torch.testing.assert_close(tensor, average[name])


def test_log_holds_means_and_rates(tmp_path):
    reports = []
    run(tmp_path, reports=reports)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 12] == [r.step for r in reports]
    assert all(line["twice"] == pytest.approx(2 * line["loss"], rel=1e-5) for line in lines)
    assert all(report.steps == 12 and report.seconds_per_step > 0 for report in reports)
    assert reports[-1].figures["loss"] == lines[-1]["loss"]


def test_loss_goes_down(tmp_path):
    reports = []
    run(tmp_path, steps=120, reports=reports)
    assert reports[-1].figures["loss"] < 0.8 * reports[0].figures["loss"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_waits_for_the_step_and_resume_is_exact(tmp_path, number):
    whole = toy.weights_of(run(tmp_path / "whole"))
    stage, calls = toy.ToyStage(), []

    def interrupt():
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), number)

    stage.before_loss = interrupt
    earlier = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stage=stage)
    assert signal.getsignal(number) is earlier
    assert read_step(tmp_path / "stopped") == 7
    resumed = run(tmp_path / "stopped", resume=True)
    assert toy.same(whole, toy.weights_of(resumed))


def test_second_interrupt_does_not_wait(tmp_path):
    stage, passed = toy.ToyStage(), []

    def interrupt_twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        passed.append(1)

    stage.before_loss = interrupt_twice
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stage=stage)
    assert not passed
    assert not (tmp_path / STATE_NAME).exists()


def test_interrupt_from_a_progress_callback_saves_too(tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    options = LoopOptions(folder=tmp_path, log_every=3)
    with pytest.raises(KeyboardInterrupt):
        train(toy.ToyStage(), toy.toy_recipe(12), options, stop)
    assert read_step(tmp_path) == 3


def test_resume_of_a_finished_run_does_nothing(tmp_path):
    done = toy.weights_of(run(tmp_path))
    stage = toy.ToyStage()
    stage.before_loss = lambda: pytest.fail("no step is left to take")
    assert toy.same(done, toy.weights_of(run(tmp_path, stage=stage, resume=True)))


def test_nan_stops_and_leaves_the_last_checkpoint(tmp_path):
    run(tmp_path, steps=6)
    good = (tmp_path / STATE_NAME).read_bytes()
    stage = toy.ToyStage()

    def spoil():
        with torch.no_grad():
            next(iter(stage.parameters().values())).fill_(float("nan"))

    stage.before_loss = spoil
    with pytest.raises(DeviceError, match="loss is nan at step 6") as caught:
        run(tmp_path, stage=stage, resume=True)
    assert "learning_rate" in caught.value.hint
    assert (tmp_path / STATE_NAME).read_bytes() == good


def test_infinite_gradient_of_a_finite_loss_stops_before_the_step(tmp_path):
    class Steep(toy.ToyStage):
        def loss(self, phase, generator):
            first = next(iter(self.parameters().values()))
            # sqrt is 0 at 0 and its slope there is infinite.
            return (first - first.detach()).square().sum().sqrt(), {}

    stage = Steep()
    before = {n: p.detach().clone() for n, p in stage.parameters().items()}
    with pytest.raises(DeviceError, match="gradient's norm is nan at step 0"):
        run(tmp_path, stage=stage)
    assert all(torch.equal(before[n], p) for n, p in stage.parameters().items())
