"""README walked by itself: a fresh clone, command after command in one folder, to the end.

What is not done as README says, and why, stands in `CHANGED` and `NOT_WALKED`: hours of training
become two steps, and what needs a model hub has to say so, with the exit code for that.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from dcgrid.eval.study.design import read_key
from tests.eval.study.conftest import answer_sheet, right_file

ROOT = Path(__file__).parents[1]
WORLD = ROOT.parent / "world"
"""The procedural world, if this machine has it: fetching takes half a gigabyte."""
CHANGED = {
    "dcgrid train --stage": " --steps 2",
    "--suite paper": " --method grid --method sdedit --duration 1",  # all ten take minutes each
    "--suite truth": " --limit 1",
    "--method flowedit": " --num-inference-steps 2",
}
"""What is put behind a command."""
NOT_WALKED = ("make test", "make docs", "dcgrid train --fetch-world")
NEEDS_HUB = ("dcgrid models pull", "--model wan2.2-5b --offload")
NEEDS_MEMORY = "--model wan2.2-5b --dry-run"
MOST_CPU_S = 1800.0
"""Of all commands together; a clock on the wall says more about the machine."""


def commands_of_readme() -> list[str]:
    """Return the lines of all shell blocks, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = [re.sub(r"\s+#\s.*$", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.strip()]


def test_what_readme_uses_it_has_installed_before() -> None:
    """The program comes before its first use, and an extra before what needs it."""
    commands = commands_of_readme()
    first = next(number for number, line in enumerate(commands) if line.startswith("dcgrid"))
    assert any(line.startswith("make demo") for line in commands[:first])
    assert any(re.match(r"pip install -e \.$", line) for line in commands[:first])
    for extra, used in (("wan", "wan2.2-5b"), ("eval", "dcgrid eval"), ("train", "train --stage")):
        needs = next(number for number, line in enumerate(commands) if used in line)
        assert any(f"[{extra}]" in line for line in commands[:needs]), extra


def prepare(folder: Path, clip: Path) -> dict[str, str]:
    """Clone, lay out the clips that README speaks of; return the environment of a newcomer."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    for name in ("input.mp4", "person.mp4", "sparks.mp4", "clips/anna.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, folder / name)
    home = folder.parent / "home"
    (home / "cache").mkdir(parents=True)
    if WORLD.is_dir():
        (home / "cache" / "world").symlink_to(WORLD)
    subprocess.run([sys.executable, "-m", "venv", str(folder / ".venv")], check=True)
    # What pip would download is taken from the environment that runs the tests.
    (inner,) = (folder / ".venv" / "lib").glob("python*/site-packages")
    (inner / "zz-outer.pth").write_text(sysconfig.get_path("purelib"))
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "DCGRID_CACHE_DIR": str(home / "cache"),
        "DCGRID_CONFIG_DIR": str(home / "config"),
        "HF_HUB_OFFLINE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }


def answer(study: Path, answers: Path) -> None:
    """Hand in what a rater would, as README's study has it."""
    key = read_key(study)
    answers.mkdir(exist_ok=True)
    sheet = answer_sheet(key, "ada", lambda shown, _: right_file(shown))
    (answers / "ada.json").write_text(json.dumps(sheet))


def children_s() -> float:
    """Return the CPU seconds of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_a_fresh_clone_walked_by_readme_alone(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "dcgrid"
    environment = prepare(folder, clip)
    began_s, report, active = children_s(), list[str](), False
    for line in commands_of_readme():
        if line.startswith(NOT_WALKED) or ("train --stage" in line and not WORLD.is_dir()):
            report.append(f"not walked: {line}")
            continue
        if line.startswith("dcgrid eval study table"):
            answer(folder / "study", folder / "answers")
        active = active or "activate" in line or line.startswith("make demo")
        more = "".join(end for part, end in CHANGED.items() if part in line)
        if line.startswith("python3 -m venv"):
            line = line.replace("python3 -m venv .venv && ", "")  # it is there
        inside = active and not line.startswith("make ")
        shell = f"{'. .venv/bin/activate; ' if inside else ''}{line}{more}"
        started_s = time.monotonic()
        done = subprocess.run(
            ["bash", "-ec", shell],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started_s
        report.append(f"{seconds:6.1f} s, exit code {done.returncode}: {line}{more}")
        with capsys.disabled():
            sys.stdout.write(f"\n{report[-1]}")
            sys.stdout.flush()
        assert "Traceback" not in done.stderr, (line, done.stderr)
        if any(part in line for part in NEEDS_HUB):
            assert done.returncode in (4, 5), (line, done.stderr)
            assert "hint: " in done.stderr
        elif NEEDS_MEMORY in line and done.returncode == 5:
            assert "GiB on the device" in done.stderr
        else:
            assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:])
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(one for one in report if one.startswith("not walked")))
    assert (folder / "demo" / "bigbuckbunny.night.mp4").is_file()
    assert (folder / "input.rain.mp4").is_file()
    assert (folder / "results" / "report.html").is_file()
    assert children_s() - began_s < MOST_CPU_S
