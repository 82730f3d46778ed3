"""What processes tell one another, and what torchrun's environment may look like."""

import subprocess
import sys

import pytest
import torch

from dcgrid.errors import UsageError
from dcgrid.runtime.processes import ALONE, Processes, join_processes
from tests.torchrun import child_env, told, torchrun

SCRIPT = """
import sys, torch
from dcgrid.runtime.processes import join_processes
with join_processes("cpu") as (processes, device):
    rank = processes.rank
    assert device == "cpu"
    assert processes.gather(rank * 10) == [0, 10]
    assert processes.any(rank == 1) and not processes.any(False)
    assert processes.tell("first" if rank == 0 else "not heard") == "first"
    numbers = torch.full((3,), float(rank))
    processes.send_first([numbers])
    assert numbers.tolist() == [0.0] * 3
    both, one, none = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    both.grad = torch.full((2, 2), 1.0 + rank)
    if rank == 1:
        one.grad = torch.full((2, 2), 5.0)
    processes.sum_gradients([both, one, none])
    assert both.grad.tolist() == [[3.0, 3.0]] * 2
    assert one.grad.tolist() == [[5.0, 5.0]] * 2
    assert none.grad is None
    if processes.is_first:
        sys.stdout.write("done\\n")
"""


def test_two_processes_exchange_what_they_should(tmp_path):
    script = tmp_path / "exchange.py"
    script.write_text(SCRIPT)
    run = torchrun(2, script)
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr


FAILS = """
import sys
from dcgrid.cli.errors import report
from dcgrid.errors import RecipeError
from dcgrid.runtime.processes import join_processes
def work():
    with join_processes("cpu") as (processes, _):
        if processes.rank == 1:
            raise RecipeError("this one alone finds it", hint="look here")
        processes.wait()
try:
    work()
except BaseException as error:
    sys.exit(report(error))
"""


def test_one_that_fails_is_heard_and_the_others_end(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(FAILS)
    run = torchrun(2, script)
    assert run.returncode == 1
    assert told(run) == ["error: this one alone finds it", "hint: look here"]


def test_one_process_is_alone_and_loads_no_torch():
    code = (
        "import sys\n"
        "from dcgrid.runtime.processes import ALONE, join_processes\n"
        "with join_processes('cuda:1') as (processes, device):\n"
        "    assert (processes, device) == (ALONE, 'cuda:1')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], env=child_env(WORLD_SIZE="1"), check=True)


def test_alone_everything_is_as_it_was():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    ALONE.sum_gradients([parameter])
    ALONE.send_first([parameter])
    ALONE.wait()
    assert parameter.grad.tolist() == [1.0, 1.0]
    assert (ALONE.gather(3), ALONE.tell(4), ALONE.any(True)) == ([3], 4, True)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_piece_of_work_has_one_owner(count):
    shares = [Processes(rank=rank, count=count).share(7) for rank in range(count)]
    assert sorted(number for share in shares for number in share) == list(range(7))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a number"),
        ({"WORLD_SIZE": "2", "RANK": ""}, "WORLD_SIZE is 2, but RANK is not set"),
    ],
)
def test_an_environment_that_is_not_torchruns_is_refused(monkeypatch, values, message):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message), join_processes("cpu"):
        pass
