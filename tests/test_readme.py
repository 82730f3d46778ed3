"""The commands of README and the tutorial are real: each one is parsed and planned."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from dcgrid.cli.main import main
from dcgrid.models.native.model import weights_folder

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
TEXTS = ((ROOT / "README.md").read_text(), (ROOT / "docs" / "install.md").read_text(), TUTORIAL)
COMMANDS = list(dict.fromkeys(re.findall(r"^dcgrid .*$", "\n".join(TEXTS), flags=re.MULTILINE)))
TARGETS = re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)

PLANNED = ("batch", "edit", "compose", "story", "rerun", "train")


def is_planned(arguments: list[str]) -> bool:
    """Return True for a command that can say what it would do without doing it."""
    return arguments[0] in PLANNED or (arguments[0] == "eval" and "--suite" in arguments)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 5
    assert {"demo", "test"} <= set(TARGETS)


@pytest.mark.usefixtures("large_machine")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    # The clip here has one second.
    arguments = shlex.split(command.replace("--start 2 ", ""), comments=True)[1:]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # plans ask the hub for sizes
    if "--fetch-world" in arguments or arguments[:2] == ["models", "pull"]:
        pytest.skip("it would download half a gigabyte, or many")
    if arguments[0] == "train" or "--adapter" in arguments:
        made = Path("runs/mini")
        made.mkdir(parents=True, exist_ok=True)
        for path in weights_folder("mini").glob("*.safetensors"):
            shutil.copy(path, made)
    if arguments[0] == "rerun":
        assert main(["edit", "input.mp4", "-e", "rain", "--model", "tiny"]) == 0
    if arguments[:3] == ["eval", "study", "table"]:
        pytest.skip("it needs raters: tests/eval/study takes a study from start to table")
    Path("clips").mkdir()
    Path("green.toml").write_text(TUTORIAL.split("```toml\n")[1].split("```")[0])
    for name in ("person.mp4", "sparks.mp4", "clips/anna.mp4"):
        shutil.copy(clip, name)
    Path("jobs.csv").write_text("input,effects\ninput.mp4,rain\n")
    if arguments[:3] == ["eval", "study", "make"]:
        made_of = ["clips", "--method", "grid", "--method", "unedited", "--method", "inpaint"]
        small = ["--model", "tiny", "--metric", "change", "--out", "results"]
        assert main(["eval", *made_of, *small]) == 0
    if is_planned(arguments) and "--dry-run" not in arguments:
        arguments.append("--dry-run")
    assert main(arguments) == 0


@pytest.mark.slow
def test_the_commands_of_use_it_succeed_one_after_another(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a newcomer types them: in one folder, in their order, for real."""
    text = (ROOT / "README.md").read_text()
    section = text.split("## Use it")[1].split("## ")[0]
    commands = re.findall(r"^dcgrid .*$", section, flags=re.MULTILINE)
    assert len(commands) >= 10
    monkeypatch.chdir(clip.parent)
    for name in ("person.mp4", "sparks.mp4"):
        shutil.copy(clip, name)
    for command in (*commands, commands[0]):
        assert main(shlex.split(command)[1:]) == 0, command
    assert Path("input.rain-2.mp4").exists()


@pytest.mark.parametrize("target", TARGETS)
def test_targets_exist(target: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_linked_pages_exist() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
            assert (ROOT / link).exists(), f"{page} links to {link}"
