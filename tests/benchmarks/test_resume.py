"""The kill benchmark: what it compares, and a few kills."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import dcgrid
from benchmarks.resume import compare_runs

ROOT = Path(__file__).parents[2]


def written(folder: Path, *, weight: float = 1.0, loss: float = 0.5, seconds: float = 0.1) -> Path:
    (folder / "fill").mkdir(parents=True)
    tensors = {"model.a": torch.tensor(weight), "ema.a": torch.ones(2), "rng": torch.zeros(3)}
    save_file(tensors, folder / "fill" / "state.safetensors")
    line = {"step": 20, "s_per_step": seconds, "loss": loss}
    (folder / "fill" / "log.jsonl").write_text(json.dumps(line) + "\n")
    save_file({"a": torch.tensor(weight)}, folder / "fill.safetensors", {"steps": "20"})
    return folder


def test_equal_runs_are_equal_whatever_the_clock_says(tmp_path: Path):
    one, other = written(tmp_path / "one"), written(tmp_path / "other", seconds=9.0)
    results = compare_runs(one, other, "fill")
    assert [(same.what, same.count) for same in results] == [
        ("weights", 1),
        ("averaged weights", 1),
        ("random states", 1),
        ("lines of the log", 1),
        ("weight files", 1),
    ]
    assert not any(same.different for same in results)


def test_any_difference_is_found(tmp_path: Path):
    one = written(tmp_path / "one")
    other = written(tmp_path / "other", weight=2.0, loss=0.25)
    odd = {same.what for same in compare_runs(one, other, "fill") if same.different}
    assert odd == {"weights", "lines of the log", "weight files"}
    save_file({"a": torch.tensor(1.0)}, other / "fill.safetensors", {"steps": "19"})
    assert compare_runs(one, other, "fill")[-1].different == 1
    (other / "fill.safetensors").unlink()
    assert compare_runs(one, other, "fill")[-1].different == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark forks")
def test_killed_five_times_and_bit_identical():
    """In a process of its own: this one has threads, and must not be forked."""
    source = str(Path(dcgrid.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.resume", "--kills", "5", "--steps", "25"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([source, str(ROOT)])},
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"resumed (\d+) times", done.stdout)[1]) > 0
    assert done.stdout.count("bit-identical") == 7
    assert "DIFFER" not in done.stdout
