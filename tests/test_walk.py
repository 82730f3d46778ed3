"""The way of an edit through the program: what it loads, and what it looks at once."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dcgrid.models.wan import checkpoint
from dcgrid.models.wan import model as wan_model
from tests.pipelines.runs import job, run

_LOADS = """
import sys
from dcgrid.models.registry import find_model
import dcgrid.pipelines.run
find_model("mini").load()
for name in ("dcgrid.models.wan", "torch._dynamo", "diffusers", "transformers"):
    assert not any(one == name or one.startswith(f"{name}.") for one in sys.modules), name
"""


def test_an_edit_on_mini_loads_no_wan_and_no_compiler() -> None:
    subprocess.run([sys.executable, "-c", _LOADS], check=True, timeout=120)


def test_an_edit_on_wan_reads_the_checkout_once(
    clip: Path, wan_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def counted(folder: Path) -> checkpoint.WanFacts:
        folders.append(folder)
        return real(folder)

    real = checkpoint.read_checkout
    monkeypatch.setattr(checkpoint, "read_checkout", counted)
    monkeypatch.setattr(wan_model, "read_checkout", counted)
    run(replace(job(clip), model=str(wan_folder)))
    assert folders == [wan_folder]


_WALK = """
import sys
from dcgrid.cli.main import main

seen, importing = {}, 0

def entered(frame, event, argument):
    global importing
    code = frame.f_code
    if code.co_name == "<module>":
        importing += (event == "call") - (event == "return")
    elif event == "call" and not importing and code.co_flags & 1:  # a function, not a class's body
        parts = code.co_filename.rpartition("/dcgrid/")
        if parts[1] and parts[2] not in seen and "site-packages" not in parts[0]:
            seen[parts[2]] = code.co_name

sys.setprofile(entered)
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
finally:
    sys.setprofile(None)
for path, first in seen.items():
    print(path, first)
print(sum(name.partition(".")[0] == "dcgrid" for name in sys.modules), "modules are loaded")
"""
JOB_MODULES = 21
"""Most modules of `pipelines` that an edit enters: what a reader of the job has to know."""
ORDER = ("prepared", "plan", "loading", "run", "footage", "generate", "ranking", "deliver")
"""In which order it enters them; docs/architecture.md tells them so."""


def test_an_edit_goes_through_the_job_from_top_to_bottom(clip: Path, tmp_path: Path) -> None:
    words = ("edit", str(clip), "--effect", "rain", "--model", "mini", "--quiet")
    short = ("--duration", "0.4", "--num-inference-steps", "1", "--out", f"{tmp_path}/out/")
    done = subprocess.run(
        [sys.executable, "-c", _WALK, *words, *short], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("out/*.rain.mp4"))
    sys.stdout.write(done.stdout)
    walked = [line.split()[0] for line in done.stdout.splitlines() if ".py " in line]
    job_modules = [Path(one).stem for one in walked if one.startswith("pipelines/")]
    assert len(job_modules) <= JOB_MODULES, job_modules
    assert tuple(name for name in job_modules if name in ORDER) == ORDER
    assert not [one for one in walked if one.startswith(("train/", "eval/", "models/wan/"))]
