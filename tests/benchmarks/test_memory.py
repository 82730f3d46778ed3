"""The planner within a tenth of what torch counts, for sizes where different things are largest."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.live_bytes import LiveBytes
from benchmarks.memory import main, measure
from benchmarks.small_wan import write_small_wan
from dcgrid.models.wan.memory import MemoryJob

pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")

CPU = torch.device("cpu")
# Not disk: on a CPU what is read from files cannot be told from what is on the device.
RESIDENT = ("none", "model", "block")
RESIDUAL: dict[str, Any] = {
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "decoder_base_dim": 24,
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "working memory": (
        {"num_layers": 2},
        {},
        {"cells": 2, "frames": 17, "height": 64, "width": 96},
    ),
    "weights": (
        {"num_attention_heads": 8, "ffn_dim": 1024, "num_layers": 8},
        {"base_dim": 24},
        {"cells": 1, "frames": 9, "height": 32, "width": 32},
    ),
    "wide hidden layers": (
        {"ffn_dim": 2048, "num_layers": 3},
        {},
        {"cells": 2, "frames": 9, "height": 64, "width": 64},
    ),
    "residual autoencoder": (
        {"num_layers": 3},
        RESIDUAL,
        {"cells": 2, "frames": 9, "height": 96, "width": 128},
    ),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Path, dict[str, Any]]:
    transformer, vae, job = CASES[request.param]
    return write_small_wan(tmp_path_factory.mktemp("wan") / "small", transformer, vae), job


@pytest.mark.parametrize(
    ("offload", "quantize", "wide"),
    [
        *((mode, "none", False) for mode in RESIDENT),
        ("block", "int8", False),
        ("none", "fp8", True),
    ],
)
def test_predicted_within_a_tenth_of_what_is_counted(
    case: tuple[Path, dict[str, Any]], offload: str, quantize: str, wide: bool
) -> None:
    folder, job = case
    changed = MemoryJob(**job, offload=offload, quantize=quantize, wide=wide)
    for reading in measure(folder, changed, CPU):
        assert 0.9 < reading.ratio < 1.1, reading


@pytest.mark.slow
def test_clips_that_are_decoded_in_tiles(tmp_path: Path) -> None:
    folder = write_small_wan(tmp_path / "small", {"num_layers": 3}, {"base_dim": 8})
    job = MemoryJob(cells=1, frames=9, height=288, width=448, offload="block")
    for reading in measure(folder, job, CPU):
        assert 0.9 < reading.ratio < 1.1, reading


def test_live_bytes_follow_what_is_made_and_freed() -> None:
    kept = torch.zeros(100)
    with LiveBytes([kept]) as counter:
        assert counter.now == 400
        views = [kept[10:], kept.view(10, 10)]
        assert counter.now == 400
        more = torch.ones(50) + 1
        # The summand is freed; it was there beside the sum.
        assert (counter.now, counter.peak) == (600, 800)
        del more, views
        assert counter.now == 400
        counter.reset_peak()
        assert counter.peak == 400
        large = torch.zeros(1000)
        del large
    assert (counter.now, counter.peak) == (400, 4400)


def test_the_command_prints_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--device", "cpu", "--size", "32", "48", "--cells", "2", "--offload", "block"]
    assert main([*small, "--quantize", "none"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[2:]] == ["text", "encode", "sample", "decode"]
    assert all(0.9 < float(line.split()[-1]) < 1.1 for line in lines[2:])
