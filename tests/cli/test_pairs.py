"""Two runs into one folder at once: both have files of their own, or one says who works there."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_main import environment


@pytest.mark.slow
def test_twenty_pairs_lose_nothing(clip: Path, tmp_path: Path) -> None:
    dice = random.Random(21)
    both = 0
    for case in range(20):
        out, cache = tmp_path / f"out-{case}", tmp_path / f"cache-{case}"
        out.mkdir()
        runs = []
        for seed in ("0", "0" if case % 4 == 0 else "1"):
            words = ["edit", str(clip), "-e", "rain", "--model", "tiny", "--duration", "0.3"]
            words += ["--num-inference-steps", "1", "--seed", seed, "--out", str(out)]
            runs.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dcgrid", *words, "--quiet", "--format", "json"],
                    env={**environment(), "DCGRID_CACHE_DIR": str(cache)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            time.sleep(dice.choice((0, 0, 0.05, 0.5)))
        told = [(*run.communicate(timeout=300), run.returncode) for run in runs]
        for _, err, code in told:
            assert code in (0, 3), (case, err)
            assert "Traceback" not in err, (case, err)
            assert "internal error" not in err, (case, err)
        files = [Path(path) for text, _, code in told if code == 0 for path in _files(text)]
        # The same settings may find the other's result; else no file is named twice.
        if case % 4:
            assert len(files) == len(set(files)), case
        there = {path.name for path in out.iterdir()}
        assert there == {path.name for path in files}, case
        assert there, case
        for path in out.glob("*.json"):
            manifest = json.loads(path.read_text())
            assert path.with_suffix(".mp4").is_file(), case
            assert manifest, case
        both += all(code == 0 for _, _, code in told)
    assert both


def _files(text: str) -> list[str]:
    return list(json.loads(text)["files"])
