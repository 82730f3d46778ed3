"""`python -m benchmarks.upsampling`, on a small clip and an untrained upsampler."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks import upsampling
from dcgrid.models.upsampler import GuidedUpsampler
from dcgrid.models.weights import save_weights
from dcgrid.video.write import write_video


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that measure an untrained upsampler on a clip of a moving texture."""
    folder = tmp_path_factory.mktemp("clips")
    texture = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    texture = torch.nn.functional.interpolate(texture, size=(96, 160), mode="bicubic")[0]
    frames = [texture.roll(2 * t, 2) for t in range(8)]
    frames_THWC = (torch.stack(frames).permute(0, 2, 3, 1).clamp(0, 1) * 255).to(torch.uint8)
    write_video(folder / "texture.mp4", frames_THWC, 12.0)
    weights = folder / "upsampler.safetensors"
    save_weights(weights, GuidedUpsampler((4, 6)).state_dict(), {}, torch.float32)
    return [
        "texture.mp4", "--clips-dir", str(folder), "--upsampler", str(weights), "--model", "tiny",
        "--adapter", "none", "--duration", "0.5", "--faces", str(folder),
    ]  # fmt: skip


def test_effects_are_scored_against_the_truth_and_pictures_written(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--effects", "night", "rain", "--only", "effects", "--pictures", str(tmp_path)]
    assert upsampling.main([*small, *chosen]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if "-" in line.split()}
    assert set(rows) == {"night", "rain", "deterministic", "all"}
    figures = {name: [float(one) for one in row[:4]] for name, row in rows.items()}
    assert figures["deterministic"] == figures["night"]
    mean = [(a + b) / 2 for a, b in zip(figures["night"], figures["rain"], strict=True)]
    assert figures["all"] == pytest.approx(mean, abs=0.02)
    # A truth that is enlarged is nearer than what a model of random weights makes.
    assert figures["night"][2] > figures["night"][0] + 5
    assert {path.name for path in tmp_path.iterdir()} == {"texture.night.png", "texture.rain.png"}


def test_wrong_guides_and_rates_and_speed(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--effects", "night", "rain", "--only", "apart", "motion", "speed"]
    assert upsampling.main([*small, *chosen]) == 0
    out = capsys.readouterr().out
    gain = {
        line[:31].strip(): float(line.split()[-2])
        for line in out.splitlines()
        if re.match(r"(nothing|part of it|all of it) ", line)
    }
    # An untrained one trusts every guide, so a wrong one costs.
    assert gain["nothing"] > gain["all of it"] + 1
    assert len(re.findall(r"^rain +(25|30) ", out, re.MULTILINE)) == 2
    assert re.search(
        r"processor time: \d+\.\d\d s a frame of 1920x1080, \d+\.\d\d s a frame of a cell", out
    )
