"""A base in pieces: the same weights on any number of processes, and one checkpoint for all.

Each case is `dcgrid train --stage base --model paper-small` under torchrun, small clips, float32.
Bounds are those of test_scale.py: sums are rounded in another order, and where a gradient is nearly
zero AdamW makes a part of a step of that.
"""

import os
import shutil
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dcgrid.cli.main import main
from dcgrid.errors import UsageError
from dcgrid.models.base import CellText, TokenPlaces
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.config import PRESETS
from dcgrid.models.native.dit import DiT
from dcgrid.models.weights import save_weights
from dcgrid.recipes import shipped_dir
from dcgrid.runtime.processes import ALONE, Processes
from dcgrid.train.job import TrainJob
from dcgrid.train.plan import plan_stage
from dcgrid.train.scale import scale_native
from dcgrid.train.settings import ScaleSettings, load_train_recipe
from tests.t5_folder import make_t5_folder
from tests.torchrun import torchrun
from tests.train.test_scale import Started, assert_same_run, largest, step_of, weights_of

RATE = 1e-3
STEPS = 4
PRESET = PRESETS["paper-small"]
RECIPE = """
stage = "base"
precision = "fp32"
seed = 3
text_encoder = "{t5}"
[optim]
learning_rate = {rate}
steps = {steps}
clip_norm = 0.5
ema_decay = 0.9
[log]
eval_every = 2
eval_grids = 1
keep_last = 0
tensorboard = false
[[phases]]
until = 1.0
frames = 9
sizes = [[32, 64]]
batch = 1
image_share = 0.5
image_sizes = [[32, 32]]
image_batch = 2
[scale]
accumulate = 4
shard = "{shard}"
checkpointing = "{checkpointing}"
[loss]
{loss}
"""


@pytest.fixture(scope="session")
def t5(tmp_path_factory):
    return make_t5_folder(tmp_path_factory.mktemp("t5"), PRESET.dit.text_width)


@pytest.fixture(scope="session")
def words(tmp_path_factory, tiny_store, t5):
    """Return the command line of a run into a folder that has an autoencoder."""
    torch.manual_seed(7)
    tensors = Autoencoder(PRESET.autoencoder).state_dict()
    shipped = load_train_recipe(shipped_dir() / "train" / "base.toml", "paper").loss
    loss = "\n".join(f"{key} = {value}" for key, value in asdict(shipped).items())

    def make(out: Path, *more: object, shard="full", checkpointing="full", steps=STEPS):
        save_weights(out / "autoencoder.safetensors", tensors, {}, torch.float32)
        recipe = tmp_path_factory.mktemp("recipe") / "base.toml"
        named = {"shard": shard, "checkpointing": checkpointing, "steps": steps}
        recipe.write_text(RECIPE.format(t5=t5, rate=RATE, loss=loss, **named))
        fixed = ["--model", "paper-small", "--recipe", recipe, "--out", out, "--world", tiny_store]
        return ["train", "--stage", "base", *fixed, *more]

    return make


@pytest.fixture(scope="session")
def alone(tmp_path_factory, words):
    """Folder of the run that the others are compared with: one process, four batches a step."""
    out = tmp_path_factory.mktemp("alone")
    assert main([*map(str, words(out, "--quiet", checkpointing="none"))]) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "shard", "checkpointing"),
    [(2, "full", "full"), (4, "full", "attention"), (4, "hybrid", "none"), (2, "none", "none")],
)
def test_processes_train_the_base_that_one_does(
    tmp_path, words, alone, processes, shard, checkpointing
):
    run = torchrun(processes, *words(tmp_path, shard=shard, checkpointing=checkpointing))
    assert run.returncode == 0, run.stderr
    assert_same_run(tmp_path, alone, "base")
    # The file that `edit` reads holds what the checkpoint does, rounded.
    made = load_file(tmp_path / "dit.safetensors")
    averages = {
        n.removeprefix("ema.dit."): t for n, t in weights_of(tmp_path, "base").items() if "ema" in n
    }
    assert averages.keys() == made.keys()
    for name, tensor in averages.items():
        torch.testing.assert_close(made[name].float(), tensor, rtol=2**-8, atol=1e-30)
    assert (tmp_path / "config.json").is_file()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_run_goes_on_with_any_number_of_processes(tmp_path, words):
    """Killed with kill -9 on 2, gone on with on 4, then on 1, against one that never stopped."""
    line = words(tmp_path, steps=100_000)
    recipe = Path(str(line[line.index("--recipe") + 1]))
    kept = "keep_every = 1\nkeep_last = 1"
    recipe.write_text(recipe.read_text().replace("keep_last = 0", kept))
    job = Started(2, line, tmp_path, "base")
    job.until_steps_are_taken()
    os.kill(job.pids()[1], signal.SIGKILL)
    lines, _ = job.end()
    assert lines[0] == "error: another process of this job has ended, and with it the job"
    step = step_of(tmp_path, "base")
    run = torchrun(4, *line, "--resume", "--steps", step + 1)
    assert run.returncode == 0, run.stderr
    assert main([*map(str, line), "--resume", "--steps", str(step + 2), "--quiet"]) == 0
    whole = tmp_path / "whole"
    assert main([*map(str, words(whole, "--quiet", steps=step + 2))]) == 0
    assert largest(weights_of(tmp_path, "base"), weights_of(whole, "base")) < RATE / 50


@pytest.mark.slow
def test_each_process_holds_its_share_of_weights_and_moments(tmp_path):
    script = tmp_path / "pieces.py"
    script.write_text(PIECES)
    run = torchrun(4, script)
    assert run.returncode == 0, run.stderr
    rows = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    assert [rank for rank, _, _ in rows] == [0, 1, 2, 3]
    whole = rows[0][1]
    assert sum(held for _, _, held in rows) == 3 * whole
    assert max(held for _, _, held in rows) < 0.3 * 3 * whole


PIECES = """
import sys, torch
from dcgrid.models.native.config import PRESETS
from dcgrid.models.native.dit import DiT
from dcgrid.runtime.processes import join_processes
from dcgrid.train.scale import in_pieces, own
from dcgrid.train.scale import scale_native
from dcgrid.train.settings import ScaleSettings

def measured(processes):
    dit = DiT(PRESETS["paper-small"].dit)
    whole = sum(p.numel() for p in dit.parameters())
    scale_native(dit, ScaleSettings(shard="full"), processes, torch.float32)
    held = list(dit.parameters())
    optimizer = torch.optim.AdamW(held, fused=True)
    for parameter in held:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    held += [t for state in optimizer.state.values() for n, t in state.items() if n != "step"]
    assert all(map(in_pieces, held))
    return f"{processes.rank} {whole} {sum(own(t).numel() for t in held)}\\n"

with join_processes("cpu") as (processes, device):
    for one in processes.gather(measured(processes)):
        if processes.is_first:
            sys.stdout.write(one)
"""


def test_a_block_that_is_computed_again_gives_the_same_gradients():
    torch.manual_seed(2)
    dit = DiT(replace(PRESET.dit, blocks=2, text_width=16))
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    cells = torch.randn(1, 1, 32, 2, 4, 4)
    stands = torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(2))
    places = TokenPlaces(coordinates_S3=stands, position_S=torch.arange(8))
    text = CellText(
        tokens_BKLE=torch.randn(1, 1, 3, 16), valid_BKL=torch.ones(1, 1, 3, dtype=torch.bool)
    )
    found = []
    for checkpointing in ("none", "full", "attention"):
        scale_native(dit, ScaleSettings(checkpointing=checkpointing), ALONE, torch.float32)
        dit.zero_grad()
        dit(cells, torch.full((1, 1, 2), 0.5), text, places).square().sum().backward()
        found.append([p.grad.clone() for p in dit.parameters()])
    for again in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], again, strict=True))


def job_of(model: str, tmp_path: Path, processes: Processes, **scale: object) -> TrainJob:
    recipe = load_train_recipe(shipped_dir() / "train" / "base.toml", model)
    recipe = replace(recipe, scale=replace(recipe.scale, **scale))
    return TrainJob(
        recipe=recipe, model=model, out=tmp_path, store=tmp_path / "world", processes=processes
    )


def test_a_plan_tells_the_memory_of_many_gpus(tmp_path):
    plan = plan_stage(job_of("paper", tmp_path, ALONE))
    alone, of = plan.memory_bytes, plan.memory_of
    assert list(of) == [8, 64, 256]
    # 16 bytes a parameter: weight, gradient, two moments. Whole on one, cut up on more.
    state = 16 * plan.trained["dit"]
    assert alone > state
    assert of[8] - of[256] == pytest.approx(state / 8 - state / 256, rel=1e-6)
    assert of[8] < 80e9
    eight = Processes(rank=3, count=8, local_count=8)
    assert plan_stage(job_of("paper", tmp_path, eight)).memory_bytes == of[8]
    assert any("on each of 256 GPUs" in line for line in plan.lines())
    small = plan_stage(job_of("paper", tmp_path, eight, shard="none"))
    assert (small.memory_bytes, small.memory_of) == (alone, {})


def test_what_cannot_be_cut_up_is_refused(tmp_path):
    two = Processes(rank=0, count=2, local_count=2)
    with pytest.raises(UsageError, match="mini trains a text encoder of its own"):
        plan_stage(job_of("mini", tmp_path, two, shard="full", accumulate=2))
    three = Processes(rank=0, count=3, local_count=3)
    with pytest.raises(UsageError, match="256 batches a step"):
        plan_stage(job_of("paper", tmp_path, three))


@pytest.mark.slow
def test_an_adapter_learns_on_a_base_in_pieces(tmp_path, words, alone, tiny_store):
    """Stage `fill` on 2 processes that share the frozen base, against one that has it whole."""
    runs = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        shutil.copytree(alone, out, ignore=shutil.ignore_patterns("base"))
        recipe = tmp_path / f"fill-{processes}.toml"
        shipped = load_train_recipe(shipped_dir() / "train" / "fill.toml", "paper").loss
        loss = {**asdict(shipped), "sampled_share": 0.0, "dc_strength": 0.0, "dropout": 0.0}
        text = RECIPE.replace('stage = "base"', 'stage = "fill"').replace("text_encoder", "# no")
        text = text.replace("image_", "# image_").format(
            t5="", rate=RATE, steps=2, shard="full", checkpointing="full",
            loss="\n".join(f"{key} = {value}" for key, value in loss.items()),
        )  # fmt: skip
        recipe.write_text(text)
        named = ["--model", out, "--recipe", recipe, "--world", tiny_store, "--quiet"]
        line = ["train", "--stage", "fill", *named]
        if processes == 1:
            assert main([*map(str, line)]) == 0
        else:
            run = torchrun(processes, *line)
            assert run.returncode == 0, run.stderr
        runs.append(weights_of(out, "fill"))
    assert largest(*runs) < RATE / 50
    assert any(tensor.abs().max() > RATE for name, tensor in runs[0].items() if "lora_B" in name)
