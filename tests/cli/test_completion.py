"""Completion by the shells' own protocol, and in a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dcgrid import hub, recipes
from dcgrid.eval.columns import METRICS
from dcgrid.eval.suites.suite import suite_names
from tests.cli.test_main import environment


def run(line: str, shell: str = "bash", **more: str) -> subprocess.CompletedProcess[str]:
    """Ask as a shell does for what may follow a line."""
    words = line.split(" ")
    asked = {"_DCGRID_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line}
    if shell == "bash":
        asked |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dcgrid"],
        env={**environment(), **asked, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def completed(line: str, shell: str = "bash", **more: str) -> list[str]:
    found = run(line, shell, **more)
    noise = [one for one in found.stderr.splitlines() if not one.startswith("import time:")]
    assert noise == []
    assert found.returncode == 0
    for heavy in ("torch", "pydantic", "rich", "av", "numpy"):
        assert f"| {heavy}\n" not in found.stderr.replace(" " * 2, " ").replace("|  ", "| ")
    return found.stdout.split("\n")[:-1]


CASES = {
    "dcgrid edit --effect ": recipes.effect_names(),
    "dcgrid edit x.mp4 -e rain -e sn": ("snow",),
    "dcgrid edit --layout edit-": tuple(
        one for one in recipes.layout_names() if one.startswith("edit-")
    ),
    "dcgrid edit --model wan": tuple(hub.MODELS),
    "dcgrid edit --adapter ": ("default", "none", "package:mini/fill-composition.safetensors"),
    "dcgrid story --scene gol": ("golden-hour",),
    "dcgrid recipes show composition-1": ("composition-1x3",),
    "dcgrid eval run --metric ": tuple(METRICS),
    "dcgrid eval --suite ": suite_names(),
    "dcgrid edit --method set": ("set-and-sequence",),
    "dcgrid edit --rank id,fl": ("id,flicker",),
    "dcgrid compose a.mp4 --concept fi": ("fire",),
    "dcgrid edit --upsample ": ("guided", "plain", "none"),
    "dcgrid edit --quan": ("--quantize",),
    "dcgrid train --st": ("--stage", "--steps", "--start-from"),
    "dcgrid st": ("story",),
    "dcgrid eval stu": ("study",),
    "dcgrid config se": ("set",),
    "dcgrid adapters info pack": ("package:mini/fill.safetensors",),
}


@pytest.mark.parametrize("line", CASES)
def test_names_are_completed_without_torch(line: str) -> None:
    found = completed(line)
    assert set(CASES[line]) <= set(found)
    last = line.split(" ")[-1]
    assert all(one.startswith(last) for one in found)


def test_config_keys_are_completed() -> None:
    found = run("dcgrid config set edit.mo").stdout.split()
    assert found == ["edit.model", "edit.motion"]


@pytest.mark.parametrize(
    ("shell", "expected"),
    [("zsh", '"rain"\n"red-light"'), ("fish", "rain\nred-light")],
)
def test_zsh_and_fish(shell: str, expected: str) -> None:
    found = run("dcgrid edit -e r", shell, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert expected in found.stdout


def test_the_users_own_recipes_are_completed(tmp_path: Path) -> None:
    folder = tmp_path / "recipes" / "effects"
    folder.mkdir(parents=True)
    shutil.copy(recipes.shipped_dir() / "effects" / "rain.toml", folder / "my-rain.toml")
    (folder / "broken.toml").write_text("[[[")
    (tmp_path / "config.toml").write_text("nonsense = [\n")
    place = {"DCGRID_CONFIG_DIR": str(tmp_path), "DCGRID_EDIT_SEED": "x"}
    assert "my-rain" in completed("dcgrid edit -e my", **place)


@pytest.mark.parametrize(
    "line",
    [
        "dcgrid nothing --here ",
        "dcgrid edit --seed x --size 3 -e r",
        "dcgrid edit --nonsense -e r",
        "dcgrid edit 'open -e r",
        "dcgrid",
        "",
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell", "none"])
def test_nothing_else_is_ever_printed(line: str, shell: str) -> None:
    found = run(line, shell)
    errors = [one for one in found.stderr.splitlines() if not one.startswith("import time:")]
    assert errors == []
    assert "Traceback" not in found.stdout


def test_a_broken_environment_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for more in ({"COMP_CWORD": "x"}, {"COMP_CWORD": "-9"}, {"DCGRID_CONFIG_DIR": "\x01"}):
        found = run("dcgrid edit -e r", "bash", **more)
        assert all(one.startswith("import time:") for one in found.stderr.splitlines())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_after_the_installation(tmp_path: Path) -> None:
    """`dcgrid --install-completion` writes a script; bash reads it and calls its function."""
    program = tmp_path / "bin" / "dcgrid"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dcgrid "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    home = {**environment(), "HOME": str(tmp_path), "PATH": path}
    script = """
    dcgrid --install-completion >/dev/null || exit 9
    . ~/.bashrc
    complete -p dcgrid || exit 8
    COMP_WORDS=(dcgrid edit --effect ra) COMP_CWORD=3
    $(complete -p dcgrid | sed 's/.*-F \\([^ ]*\\).*/\\1/') dcgrid
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    found = subprocess.run(
        ["bash", "--norc", "-c", script], env=home, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    assert found.stdout.splitlines()[-1] == "rain"
