"""Training on several processes, and in less memory: the same numbers, whoever computes them.

Each case is a run of `dcgrid train` under torchrun on a small Wan checkout. What is compared are
float32 weights after four steps of AdamW. Processes add up gradients in another order, so runs
differ by rounding; where a gradient is nearly zero AdamW turns that into a part of a step of the
learning rate, which is the bound here.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.small_world import write_small_recipe
from dcgrid.cli.main import main
from dcgrid.errors import UsageError
from dcgrid.models.base import CellText, TokenPlaces
from dcgrid.models.wan.checkpoint import read_checkout
from dcgrid.models.wan.trunk import load_trunk
from dcgrid.runtime.processes import ALONE, Processes
from dcgrid.train.checkpoint import STATE_NAME
from dcgrid.train.job import TrainJob
from dcgrid.train.plan import plan_stage
from dcgrid.train.scale import scale_transformer
from dcgrid.train.settings import ScaleSettings, load_train_recipe
from tests.torchrun import child_env, told, torchrun, torchrun_words

RATE = 1e-3
WEIGHT_BOUND = RATE / 50
LOSS_BOUND = 1e-6
LOG = "eval_every = 2\nvalidate_every = {validate}\ntensorboard = false\nkeep_last = 0\n"
LOSS = {"pixel_weight": 0.0, "offset_share": 0.0, "noise_share": 0.0, "sampled_share": 0.0}


@pytest.fixture(scope="session")
def words(tmp_path_factory, wan_folder, tiny_store):
    """Return the command line of a run into a folder."""

    def make(
        out: Path,
        *more: object,
        shard: str = "none",
        checkpointing: str = "none",
        accumulate: int = 4,
        steps: int = 4,
        validate: int = 0,
    ) -> list[object]:
        folder = tmp_path_factory.mktemp("recipe")
        recipe = write_small_recipe(
            folder,
            "fill",
            steps=steps,
            rate=str(RATE),
            log=LOG.format(validate=validate),
            loss=LOSS,
        )
        scale = f'\n[scale]\nshard = "{shard}"\ncheckpointing = "{checkpointing}"\n'
        recipe.write_text(recipe.read_text() + f"{scale}accumulate = {accumulate}\n")
        fixed = ["--model", wan_folder, "--recipe", recipe, "--out", out, "--world", tiny_store]
        return ["train", "--stage", "fill", *fixed, *more]

    return make


def weights_of(out: Path, stage: str = "fill") -> dict[str, torch.Tensor]:
    tensors = load_file(out / stage / STATE_NAME)
    return {n: t for n, t in tensors.items() if n.startswith(("model.", "ema."))}


def losses_of(out: Path, stage: str = "fill") -> list[dict[str, float]]:
    lines = map(json.loads, (out / stage / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "s_per_step"} for line in lines]


def largest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[n] - other[n]).abs().max()) for n in one)


def assert_same_run(out: Path, alone: Path, stage: str = "fill") -> None:
    assert largest(weights_of(out, stage), weights_of(alone, stage)) < WEIGHT_BOUND
    found, expected = losses_of(out, stage), losses_of(alone, stage)
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for line, known in zip(found, expected, strict=True):
        assert line == pytest.approx(known, abs=LOSS_BOUND, rel=1e-4)


@pytest.fixture(scope="session")
def alone(tmp_path_factory, words):
    """Folder of the run that the others are compared with: one process, four batches a step."""
    out = tmp_path_factory.mktemp("alone")
    assert main([str(word) for word in words(out, "--quiet")]) == 0
    # It did learn, far beyond the bound.
    learnt = [t.abs().max() for n, t in weights_of(out).items() if "lora_B" in n]
    assert min(learnt) > 10 * WEIGHT_BOUND
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "shard", "checkpointing"),
    [
        (2, "none", "none"),
        (4, "none", "attention"),
        (2, "full", "full"),
        (2, "full", "attention"),
        (4, "full", "none"),
        (4, "hybrid", "full"),
    ],
)
def test_processes_learn_what_one_does(tmp_path, words, alone, processes, shard, checkpointing):
    options = {"shard": shard, "checkpointing": checkpointing}
    run = torchrun(processes, *words(tmp_path, "--format", "json", **options))
    assert run.returncode == 0, run.stderr
    assert_same_run(tmp_path, alone)
    # One value on stdout, one account of the run, and no trace of the others.
    assert json.loads(run.stdout)["steps"] == 4
    assert run.stderr.count("trained   ") == 1
    assert f"batches   4 a step, dealt to {processes} processes" in run.stderr
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"fill.safetensors", f"fill/{STATE_NAME}", "fill/log.jsonl"}


def test_what_is_computed_again_changes_nothing(tmp_path, words):
    weights = {}
    for how in ("none", "full", "attention"):
        line = words(tmp_path / how, "--quiet", checkpointing=how, steps=2, accumulate=2)
        recipe = Path(str(line[line.index("--recipe") + 1]))
        recipe.write_text(recipe.read_text().replace("eval_every = 2", "eval_every = 0"))
        assert main([*map(str, line)]) == 0
        weights[how] = weights_of(tmp_path / how)
    assert min(t.abs().max() for n, t in weights["none"].items() if "lora_B" in n) > WEIGHT_BOUND
    for how in ("full", "attention"):
        assert largest(weights[how], weights["none"]) == 0


@pytest.mark.slow
def test_a_run_goes_on_on_any_number_of_processes(tmp_path, words, alone):
    for processes, steps in ((2, 2), (1, 3), (4, 4)):
        more = [] if steps == 2 else ["--resume"]
        # A run of two steps in all would cool down earlier: it is stopped after its second one.
        line = words(tmp_path, *more, "--quiet", shard="full" if processes > 1 else "none")
        if steps < 4:
            stop_at(processes, line, tmp_path, steps)
            assert step_of(tmp_path) == steps
        else:
            run = torchrun(processes, *line)
            assert run.returncode == 0, run.stderr
    assert_same_run(tmp_path, alone)


def stop_at(processes: int, line: list[object], out: Path, step: int) -> None:
    """Run until some step with a script that raises SIGINT in the last process before it."""
    script = out / "stopped.py"
    script.write_text(STOPPED)
    run = torchrun(processes, script, *line, env={"STOP_AT": str(step)})
    assert run.returncode != 0
    script.unlink()


STOPPED = """
import os, signal, sys
from dcgrid.cli.main import main
from dcgrid.train import loop
step = loop._step
def stopped(stage, recipe, state, processes):
    if state.step + 1 == int(os.environ["STOP_AT"]) and processes.rank == processes.count - 1:
        signal.raise_signal(signal.SIGINT)
    return step(stage, recipe, state, processes)
loop._step = stopped
sys.exit(main())
"""


def step_of(out: Path, stage: str = "fill") -> int:
    with safe_open(out / stage / STATE_NAME, "pt") as file:
        return int(file.metadata()["step"])


@pytest.mark.slow
def test_shared_weights_are_generated_with(tmp_path, words):
    run = torchrun(2, *words(tmp_path, shard="full", validate=2, steps=2))
    assert run.returncode == 0, run.stderr
    assert "no validation" not in run.stderr
    assert (tmp_path / "fill" / "validation" / "000002.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sample", "dc"])
def test_stages_of_one_process_say_so(tmp_path, wan_folder, stage):
    line = ["train", "--stage", stage, "--model", wan_folder, "--out", tmp_path / "out"]
    run = torchrun(2, *line)
    assert run.returncode != 0
    assert told(run)[0] == f"error: stage {stage} runs in one process, not in 2"
    assert len([one for one in told(run) if one.startswith("error")]) == 1
    assert not (tmp_path / "out").exists()


class Started:
    """A long run in the background, and the processes that torchrun made."""

    def __init__(self, processes: int, line: list[object], out: Path, stage: str = "fill") -> None:
        self.out, self.stage = out, stage
        self.run = subprocess.Popen(
            torchrun_words(processes, "-m", "dcgrid", *line),
            env=child_env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until_steps_are_taken(self) -> None:
        """Wait for the eval loss of step 2."""
        until = time.monotonic() + 120
        log = self.out / self.stage / "log.jsonl"
        while not (log.exists() and log.read_text().strip()):
            assert self.run.poll() is None, self.run.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)

    def pids(self) -> dict[int, int]:
        """Return the process number of each rank, from Linux's table of processes."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = re.search(r"PPid:\t(\d+)", (folder / "status").read_text())
                rank = re.search(rb"\0RANK=(\d+)\0", (folder / "environ").read_bytes())
            except OSError:
                continue
            if parent and rank and int(parent[1]) == self.run.pid:
                found[int(rank[1])] = int(folder.name)
        return found

    def end(self) -> tuple[list[str], float]:
        """Return what the program said and how long the end took."""
        began = time.monotonic()
        out, err = self.run.communicate(timeout=60)
        seconds = time.monotonic() - began
        done = subprocess.CompletedProcess([], self.run.returncode, out, err)
        self.err = err
        return told(done), seconds


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_job_and_resume_goes_on(tmp_path, words, killed):
    kept = "keep_every = 1\nkeep_last = 1"
    line = words(tmp_path, steps=100_000)
    recipe = Path(str(line[line.index("--recipe") + 1]))
    recipe.write_text(recipe.read_text().replace("keep_last = 0", kept))
    job = Started(2, line, tmp_path)
    job.until_steps_are_taken()
    os.kill(job.pids()[killed], signal.SIGKILL)
    lines, seconds = job.end()
    assert job.run.returncode != 0
    assert seconds < 20
    assert lines[0] == "error: another process of this job has ended, and with it the job"
    assert "--resume" in lines[1]
    assert len(lines) == 2
    assert not list((tmp_path / "fill").glob("*.tmp"))
    step = step_of(tmp_path)
    more = ["--resume", "--steps", step + 1]
    run = torchrun(2, *line, *more)
    assert run.returncode == 0, run.stderr
    assert step_of(tmp_path) == step + 1


@pytest.mark.slow
def test_an_interrupt_saves_and_says_how_to_go_on(tmp_path, words):
    job = Started(2, words(tmp_path, steps=100_000), tmp_path)
    job.until_steps_are_taken()
    job.run.send_signal(signal.SIGINT)
    lines, seconds = job.end()
    assert job.run.returncode != 0
    assert seconds < 25
    assert lines == ["interrupted"]
    hint = "stopped and saved; to go on: torchrun --nproc-per-node 2 -m dcgrid train --stage fill"
    assert job.err.count(hint) == 1
    assert step_of(tmp_path) >= 2
    assert not (tmp_path / "fill" / "lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "code", "line"),
    [
        (["--device", "cuda:0"], 5, "error: device 'cuda:0' is not on this machine"),
        (["--device", "banana"], 2, "error: unknown device 'banana'"),
        (["--world", "nowhere"], 4, "error: "),
        (["--resume"], 4, "error: no checkpoint"),
    ],
)
def test_what_all_find_is_told_once(tmp_path, words, more, code, line):
    run = torchrun(2, *words(tmp_path), *more)
    assert run.returncode == 1  # torchrun's own
    lines = told(run)
    assert lines[0].startswith(line)
    assert len([one for one in lines if one.startswith("error: ")]) == 1
    assert re.search(rf"exitcode  : {code} ", run.stderr)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_what_one_finds_ends_all(tmp_path, words):
    """The first one alone looks at the lock; the others wait for it meanwhile."""
    import fcntl

    folder = tmp_path / "fill"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        run = torchrun(2, *words(tmp_path))
    assert time.monotonic() - began < 60
    assert [one for one in told(run) if one.startswith("error")] == [
        f"error: another run works in {folder} (process unknown)"
    ]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_left_for_a_kept_one_by_all(tmp_path, words, alone):
    shutil.copytree(alone / "fill", tmp_path / "fill")
    state = tmp_path / "fill" / STATE_NAME
    shutil.copy(state, state.with_name("state-4.safetensors"))
    damaged = state.with_name("state-9.safetensors")
    damaged.write_bytes(state.read_bytes()[:-100])
    state.write_bytes(b"damaged")
    run = torchrun(2, *words(tmp_path, "--resume"), "--steps", 5)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("going on from state-4.safetensors, 4 steps") == 1
    assert not damaged.exists()
    assert step_of(tmp_path) == 5


@pytest.mark.slow
def test_a_plan_is_told_once_and_writes_nothing(tmp_path, words):
    run = torchrun(2, *words(tmp_path / "out", "--dry-run", "--format", "json", accumulate=1))
    assert run.returncode == 0, run.stderr
    plan = json.loads(run.stdout)
    assert (plan["processes"], plan["batches"]) == (2, 2)
    assert not (tmp_path / "out").exists()


def job_of(words, out: Path, processes: Processes, **scale: object) -> TrainJob:
    line = words(out, **scale)
    recipe, model = line[line.index("--recipe") + 1], str(line[line.index("--model") + 1])
    return TrainJob(
        recipe=load_train_recipe(Path(str(recipe)), model),
        model=model,
        out=out,
        store=out,
        processes=processes,
    )


def test_shares_that_do_not_come_out_even_are_refused(tmp_path, words):
    three = Processes(rank=0, count=3, local_count=2)
    with pytest.raises(UsageError, match=r"4 batches a step .* to 3 processes") as caught:
        plan_stage(job_of(words, tmp_path, three, shard="full"))
    assert caught.value.hint == "use accumulate = 6"
    with pytest.raises(UsageError, match="3 processes are not as many on every machine"):
        plan_stage(job_of(words, tmp_path, three, shard="hybrid", accumulate=3))
    # Whole weights are called as often as each likes.
    assert plan_stage(job_of(words, tmp_path, three)).as_json()["batches"] == 4


def test_a_plan_counts_one_process_share_of_the_weights(tmp_path, words):
    two = Processes(rank=0, count=2, local_count=2)
    whole, half = (
        plan_stage(job_of(words, tmp_path, two, shard=shard)).memory_bytes
        for shard in ("none", "full")
    )
    assert whole - half > 0


class Counting(TorchDispatchMode):
    """Counts what is really computed: results that a checkpoint has kept do not come here."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, operator, _types, args=(), kwargs=None):
        self.calls[operator.name()] += 1
        return operator(*args, **(kwargs or {}))


def calls_of_a_step(folder: Path, checkpointing: str) -> Counter[str]:
    """Return how often each of torch's operators is called, forward and backward."""
    torch.manual_seed(0)
    dit, _ = load_trunk(read_checkout(folder), device=torch.device("cpu"), dtype=torch.float32)
    scale_transformer(dit, ScaleSettings(checkpointing=checkpointing), ALONE)
    cells = torch.randn(1, 1, 4, 1, 4, 4, requires_grad=True)
    stands = torch.cartesian_prod(torch.arange(1), torch.arange(2), torch.arange(2))
    places = TokenPlaces(coordinates_S3=stands, position_S=torch.arange(4))
    text = CellText(
        tokens_BKLE=torch.randn(1, 1, 3, 32), valid_BKL=torch.ones(1, 1, 3, dtype=torch.bool)
    )
    with Counting() as seen:
        dit(cells, torch.full((1, 1, 1), 0.5), text, places).sum().backward()
    return seen.calls


def test_attention_is_computed_again_only_where_it_is_not_kept(wan_folder):
    none, full, attention = (
        calls_of_a_step(wan_folder, how) for how in ("none", "full", "attention")
    )
    kernel = "aten::_scaled_dot_product_flash_attention_for_cpu"
    # Two layers, each with attention to the grid and to the text.
    assert (none[kernel], full[kernel], attention[kernel]) == (4, 8, 4)
    # Linear layers are computed again in both.
    assert min(full["aten::addmm"], attention["aten::addmm"]) > 1.5 * none["aten::addmm"]


PIECES = """
import sys, torch
from torch.distributed.tensor import DTensor
from dcgrid.models.wan.trunk import load_trunk
from dcgrid.runtime.processes import join_processes
from dcgrid.train.scale import scale_transformer
from dcgrid.train.settings import ScaleSettings
from pathlib import Path
def measured(processes):
    dtype = getattr(torch, sys.argv[2])
    dit, _ = load_trunk(read_checkout(Path(sys.argv[1])), device=torch.device("cpu"), dtype=dtype)
    whole = sum(p.numel() * p.itemsize for p in dit.transformer.blocks.parameters())
    scale_transformer(dit, ScaleSettings(shard="full"), processes)
    parameters = list(dit.transformer.blocks.parameters())
    assert all(isinstance(p, DTensor) for p in parameters)
    local = sum(p.to_local().numel() * p.itemsize for p in parameters)
    return f"{processes.rank} {whole} {local}\\n"

with join_processes("cpu") as (processes, device):
    for one in processes.gather(measured(processes)):
        if processes.is_first:
            sys.stdout.write(one)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_process_holds_its_share_of_every_block(tmp_path, wan_folder, dtype):
    script = tmp_path / "pieces.py"
    script.write_text(PIECES)
    run = torchrun(4, script, wan_folder, dtype)
    assert run.returncode == 0, run.stderr
    rows = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
    assert [rank for rank, _, _ in rows] == [0, 1, 2, 3]
    whole = rows[0][1]
    assert sum(local for _, _, local in rows) == whole
    # Rows are dealt, so shares are a quarter but for a row or two of each tensor.
    assert max(local for _, _, local in rows) < 0.3 * whole
