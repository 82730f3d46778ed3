"""The speed benchmark: whole process, stages that add up, operations counted right."""

import json
from pathlib import Path

import pytest

from benchmarks import speed as bench
from benchmarks.clips import read_bench_clip
from benchmarks.models import ModelChoice, load_choice
from benchmarks.progress import StageTimes
from benchmarks.speed import main
from dcgrid.errors import DcgridError

TINY = ["--model", "tiny", "--dtype", "fp32", "--device", "cpu"]


@pytest.mark.slow
def test_stages_and_start_up_add_up_to_the_process(clip: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(clip), *TINY, "--duration", "0.4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    process = result["process"]
    assert set(process["stages_s"]) >= {"read", "load", "fill", "write"}
    total = process["start_up_s"] + sum(process["stages_s"].values())
    assert total == pytest.approx(process["whole_s"], abs=1e-6)
    assert 0 < process["version_s"] < process["whole_s"]
    assert process["start_up_s"] > 0
    assert set(result["fill_s"]) == {"encoding the clip", "sampling", "decoding"}
    assert 0 < result["network"]["ratio"] < 1.5
    # Nothing is left behind beside the clip.
    assert [path.name for path in clip.parent.iterdir()] == [clip.name]


def test_operations_are_those_of_the_network(clip: Path, monkeypatch: pytest.MonkeyPatch):
    """Counted by hand: 5 frames of 32x48 are 2 x 2 x 3 tokens a cell, four cells."""
    monkeypatch.setattr(bench, "REPEATS", 1)
    backbone = load_choice(ModelChoice(model="tiny", dtype="fp32", device="cpu"))
    speed = bench.time_network(backbone, read_bench_clip(clip, backbone.spec, 0.42))
    assert speed.tokens == 4 * 2 * 2 * 3
    dit = backbone.parts.dit.config
    per_block = 2 * speed.tokens * (4 + 8) * dit.width**2 + 4 * speed.tokens**2 * dit.width
    # Text attention, modulation and the outer layers come on top.
    assert 1.0 < speed.forward_flops / (dit.blocks * per_block) < 2.0


def test_stage_times_end_where_the_next_begins():
    times = StageTimes()
    for stage in ("one", "two", "one"):
        times.start(stage)
    times.stop()
    times.stop()
    assert list(times.seconds) == ["one", "two"]


def test_an_edit_that_fails_is_told(tmp_path: Path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(DcgridError, match="ended with 3"):
        bench.time_processes(broken, ModelChoice(model="tiny"), 1.0)
