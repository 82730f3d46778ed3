"""What `dcgrid batch` saves, and what it costs beside a bare loop: python -m benchmarks.batch.

    eight processes      dcgrid edit CLIP ... , eight times
    a bare loop          one Session, eight calls of edit
    batch, one worker    dcgrid batch JOBS

CPU seconds, which a busy machine does not change much, of each with all its child processes; then
the time of a plan of many rows. Goals: batch <= 0.4 of eight processes and <= 1.05 of the loop, a
plan of 10,000 rows <= 10 s.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dcgrid.pipelines.elements import ELEMENT_CLIPS

LOOP = """
import json, sys
from pathlib import Path
import torch
import dcgrid
torch.set_num_threads(1)
rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
with dcgrid.Session(model=rows[0].pop("model")) as session:
    for row in rows:
        row.pop("model", None)
        session.edit(row.pop("input"), row.pop("effects"), out=sys.argv[2], **row)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--edits", type=int, default=8)
    parser.add_argument("--rows", type=int, default=10_000, help="rows of the plan")
    parser.add_argument("--only", choices=("edits", "plan"), help="one half of it")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if chosen.only != "plan":
            measure_edits(place, chosen.model, chosen.edits)
        if chosen.only != "edits":
            measure_plan(place, chosen.model, chosen.rows)


def measure_edits(place: Path, model: str, edits: int) -> dict[str, float]:
    """Print and return the CPU seconds of the same edits in three ways."""
    clip = next(iter(ELEMENT_CLIPS.values())).path
    rows = [
        {"input": str(clip), "effects": ["rain"], "seed": n, "duration": 0.8, "model": model}
        for n in range(edits)
    ]
    jobs = place / "jobs.jsonl"
    jobs.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    dcgrid = [sys.executable, "-m", "dcgrid"]
    words = [*dcgrid, "edit", str(clip), "-e", "rain", "--duration", "0.8", "--model", model]
    found = {
        f"{edits} processes": sum(
            cpu_seconds([*words, "--seed", str(n), "--out", str(place / f"single-{n}")])
            for n in range(edits)
        ),
        "a bare loop": cpu_seconds([sys.executable, "-c", LOOP, str(jobs), str(place / "loop")]),
        "batch, one worker": cpu_seconds(
            [*dcgrid, "batch", str(jobs), "--out", str(place / "batch"), "--workers", "1"]
        ),
        "batch --on here": cpu_seconds(
            [*dcgrid, "batch", str(jobs), "--out", str(place / "here"), "--on", "here"]
        ),
    }
    processes, loop = found[f"{edits} processes"], found["a bare loop"]
    print(f"{edits} edits by {model}, CPU seconds")
    for name, seconds in found.items():
        shares = f"{seconds / processes:6.2f} of processes {seconds / loop:6.2f} of the loop"
        print(f"{name:20} {seconds:8.1f} s {shares}")
    return found


def measure_plan(place: Path, model: str, rows: int) -> float:
    """Print and return the seconds of a dry run: rows over seven clips, five effects, any seed."""
    clips = [one.path for one in ELEMENT_CLIPS.values()]
    effects = ("rain", "night", "fog", "snow", "noir")
    jobs = place / "many.csv"
    lines = (f"{clips[n % 7]},{effects[n // 7 % 5]},{n},0.8,{model}\n" for n in range(rows))
    jobs.write_text("input,effects,seed,duration,model\n" + "".join(lines))
    command = [sys.executable, "-m", "dcgrid", "batch", str(jobs), "--out", str(place / "many")]
    started = time.perf_counter()
    seconds = cpu_seconds([*command, "--dry-run"])
    wall = time.perf_counter() - started
    print(f"a plan of {rows} rows: {seconds:.1f} CPU seconds, {wall:.1f} s on this machine now")
    return seconds


def cpu_seconds(command: list[str]) -> float:
    """Run a command with one thread and return the CPU seconds of it and of its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
