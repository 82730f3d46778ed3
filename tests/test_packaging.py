"""What is in the wheel, and that the checks run the checks."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built without the network."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(folder.glob("dcgrid-*.whl"))


def test_recipes_and_weights_travel_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for path in (ROOT / "recipes").rglob("*.toml"):
        assert f"dcgrid/_recipes/{path.relative_to(ROOT / 'recipes').as_posix()}" in names
    for folder in ("src/dcgrid",):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".safetensors", ".json", ".html", ".css", ".js"}:
                assert path.relative_to(ROOT / "src").as_posix() in names
    assert "dcgrid/py.typed" in names  # what tells mypy that the API has types
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        root = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(root).decode()
        entry_points = archive.read(root.replace("METADATA", "entry_points.txt")).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert "License-Expression: Apache-2.0" in metadata
    assert "dcgrid = dcgrid.cli.main:main" in entry_points


def test_dependencies_are_those_of_the_design() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=!~ ]", one)[0] for one in project["dependencies"]}
    assert names == {
        "annotated-types",
        "filelock",
        "pydantic",
        "typing-extensions",
        "fsspec",
        "numpy",
        "pillow",
        "torch",
        "typer",
        "rich",
        "peft",
        "safetensors",
        "einops",
        "av",
        "huggingface_hub",
        "platformdirs",
    }


def test_make_test_runs_every_check() -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "test"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for command in ("ruff check", "ruff format --check", "mypy src", "lint-imports", "pytest -q"):
        assert command in plan
    assert re.search(r"^exec make (-j 2 )?test$", (ROOT / ".ci" / "run").read_text(), re.M)


@pytest.mark.slow
def test_the_wheel_edits_a_video_in_a_clean_place(wheel: Path, clip: Path, tmp_path: Path) -> None:
    """Unpacked away from the checkout, so that recipes can only come from the wheel."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = "import sys; from dcgrid.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "edit", str(clip), "-e", "rain", "--model", "tiny"],
        env={"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    manifest = (clip.parent / "input.rain.json").read_text()
    assert str(site / "dcgrid" / "_recipes") in manifest
