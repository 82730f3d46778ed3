"""Two runs into one folder at once: each has files of its own, or is refused and has them then."""

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
    refused = 0
    for case in range(20):
        out, cache = tmp_path / f"out-{case}", tmp_path / f"cache-{case}"
        out.mkdir()
        seeds = ("0", "0" if case % 4 == 0 else "1")
        runs = []
        for seed in seeds:
            runs.append(start(clip, seed, out, cache))
            time.sleep(dice.choice((0, 0, 0.05, 0.5)))
        ended = [(*run.communicate(timeout=300), run.returncode) for run in runs]
        for n, (_, err, code) in enumerate(ended):
            assert code in (0, 3), (case, err)
            assert "Traceback" not in err, (case, err)
            assert "internal error" not in err, (case, err)
            if code == 3:  # the other was at work under the same name: once more, as the hint says
                assert "by another run" in err or "since the plan was made" in err, (case, err)
                refused += 1
                again = start(clip, seeds[n], out, cache)
                ended[n] = (*again.communicate(timeout=300), again.returncode)
                assert again.returncode == 0, (case, ended[n])
        files = [Path(path) for text, _, _ in ended for path in _files(text)]
        # The same settings may find the other's result; else no file is named twice.
        if case % 4:
            assert len(files) == len(set(files)), case
        there = {path.name for path in out.iterdir()}
        assert there == {path.name for path in files}, case
        assert there, case
        seeds_there = set()
        for path in out.glob("*.json"):
            manifest = json.loads(path.read_text())
            assert path.with_suffix(".mp4").is_file(), case
            seeds_there.add(manifest["job"]["seed"])
        assert seeds_there == {int(seed) for seed in seeds}, case
    sys.stdout.write(f"\n20 pairs: {refused} runs were refused and run again\n")


def start(clip: Path, seed: str, out: Path, cache: Path) -> subprocess.Popen[str]:
    words = ["edit", str(clip), "-e", "rain", "--model", "tiny", "--duration", "0.3"]
    words += ["--num-inference-steps", "1", "--seed", seed, "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "dcgrid", *words, "--quiet", "--format", "json"],
        env={**environment(), "DCGRID_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _files(text: str) -> list[str]:
    return list(json.loads(text)["files"])
