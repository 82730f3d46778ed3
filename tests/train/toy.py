"""A stage small enough to reason about: a convolution and a line that learn from noise.

The convolution is channels last, as the autoencoder's are: a resumed run must not shuffle its
moments. Loaded by tests; as a script it kills runs of its own.
"""

import importlib
import os
import signal
import sys
import threading
from pathlib import Path

import torch
from torch import nn

from dcgrid.train.checkpoint import STATE_NAME
from dcgrid.train.loop import LoopOptions, train
from dcgrid.train.settings import LogSettings, OptimSettings, Phase, StageLoss, TrainRecipe

STEPS = 120


class ToyStage:
    """Learns to undo a fixed blur; data and targets are drawn from the run's generator."""

    def __init__(self):
        torch.manual_seed(1)
        self.network = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.GELU(), nn.Conv3d(4, 3, 1))
        self.network.to(memory_format=torch.channels_last_3d)
        self.before_loss = lambda: None

    def parameters(self):
        return dict(self.network.named_parameters())

    def loss(self, phase, generator):
        self.before_loss()
        sharp = torch.randn(phase.batch, 3, phase.frames, 6, 6, generator=generator)
        loss = (self.network(sharp) - sharp.roll(1, -1)).square().mean()
        return loss, {"twice": 2 * float(loss.detach())}


def toy_recipe(steps=STEPS, *, log=None, **optim):
    settings = {"learning_rate": 1e-2, "warmup_steps": 5, "ema_decay": 0.9, **optim}
    return TrainRecipe(
        stage="autoencoder",
        optim=OptimSettings(steps=steps, **settings),
        phases=(Phase(until=1.0, frames=2, sizes=((6, 6),), batch=2),),
        loss=StageLoss(),
        precision="fp32",
        seed=4,
        log=log or LogSettings(keep_last=0, tensorboard=False),
    )


def weights_of(state):
    trained = {n: p.detach().clone() for n, p in state.parameters.items()}
    return {**trained, **{f"ema.{n}": t.clone() for n, t in state.ema.items()}}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def die_after(seconds):
    """Kill this process without warning, as kill -9 does, wherever it is then."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def killed_run(folder, seconds):
    """Train with a checkpoint a step; die some seconds after the first step began."""
    resume = (folder / STATE_NAME).exists()
    options = LoopOptions(folder=folder, resume=resume, save_every_s=0.0, log_every=10)
    stage = ToyStage()

    def start_the_clock():
        stage.before_loss = lambda: None
        die_after(seconds)

    stage.before_loss = start_the_clock
    train(stage, toy_recipe(), options, lambda progress: None)


def main(folder, delays):
    """Fork a run for each delay, and a last one that may finish; print how many were killed.

    Forked, because importing torch takes longer than the run; safe, because this process has run
    nothing yet and so has no threads.
    """
    importlib.import_module("torch._dynamo")  # the first optimiser step would, in every fork
    torch.set_num_threads(1)
    killed = 0
    for delay in (*delays, 1e6):
        child = os.fork()
        if child == 0:
            killed_run(folder, delay)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        if not os.WIFSIGNALED(status):
            sys.exit("a run failed")
        killed += 1
    sys.stdout.write(f"{killed}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [float(word) for word in sys.argv[2:]])
