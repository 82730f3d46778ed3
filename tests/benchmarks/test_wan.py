"""Each comparison of the Wan backbone runs at a small size, and refuses outputs that differ."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.wan import timing
from benchmarks.wan.__main__ import NAMES, main
from benchmarks.wan.forward import ours, prepared
from benchmarks.wan.shapes import TINY, Place, make_inputs, make_model, theirs
from dcgrid.models.wan.blocks import _has_onednn

pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
QUICK = ["c4", "g3"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in NAMES],
)
def test_every_comparison_prints_ratios(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name.startswith("g") and torch.cuda.is_available():
        pytest.skip("runs at full size here")
    assert main([name, "--small", "--repeats", "1"]) == 0
    told = capsys.readouterr().out
    assert "1.00x" in told or name == "c2"
    assert ("GPU figures stay blank here" in told) == name.startswith("g")


def test_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, inputs, options = prepared(TINY, Place(device=CPU, small=True), torch.bfloat16)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ours(model, inputs, options=options)
    # Text, times and the outer layers come on top. Of oneDNN and of SDPA on a CPU none is counted,
    # so: bfloat16, whose attention is plain products here, and the widening layer by hand where
    # oneDNN computes it.
    by_hand = 2 * TINY.tokens * TINY.width * TINY.ffn * TINY.layers
    hidden = by_hand if _has_onednn(torch.bfloat16) else 0
    assert 0.95 < (counter.get_total_flops() + hidden) / TINY.operations < 1.25


def test_number_formats_are_those_of_a_loaded_checkout(tmp_path: Path) -> None:
    import diffusers

    made = make_model(TINY, CPU, torch.bfloat16)
    made.save_pretrained(tmp_path)
    loaded = diffusers.WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    formats = {name: p.dtype for name, p in made.named_parameters()}
    assert formats == {name: p.dtype for name, p in loaded.named_parameters()}
    inputs = make_inputs(TINY, CPU, torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(theirs(made, inputs), theirs(loaded, inputs))


def test_ratios_are_medians_of_pairs_and_differing_outputs_end_it() -> None:
    times = {"slow": [4.0, 9.0, 2.0], "fast": [2.0, 3.0, 2.0]}
    assert timing.ratio(times, "slow", "fast") == 2.0
    one = torch.ones(3)
    assert timing.same(one * 1.001, one, 1e-2) == pytest.approx(1e-3, rel=1e-2)
    with pytest.raises(SystemExit, match="the outputs differ"):
        timing.same(one * 1.1, one, 1e-2)
    with pytest.raises(SystemExit, match="the outputs differ"):
        timing.same(one * float("nan"), one, 1e-2)


def test_calls_are_in_turn() -> None:
    order: list[str] = []
    ways = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = timing.in_turn(ways, CPU, 2)
    assert order == ["a", "b"] * 3
    assert {len(spent) for spent in times.values()} == {2}


@pytest.mark.slow
def test_it_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.wan", "nothing"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "c1" in done.stderr
