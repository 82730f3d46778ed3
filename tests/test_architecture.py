"""Sizes that keep the code readable; the layers are in .importlinter."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "dcgrid").rglob("*.py"))
# Typer reads a command's options from its signature, so this is as long as its options.
COMMANDS = {"batch", "compose", "edit", "story", "train"}


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("\n") <= 500
    for node in functions(path):
        if path.parent.name == "cli" and node.name in COMMANDS:
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        assert length <= 60, f"{node.name} has {length} lines"


def test_nothing_below_the_command_line_prints_or_exits() -> None:
    for path in SOURCES:
        if path.parent.name == "cli" or path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"print", "exit", "quit", "sys.exit", "os._exit"}, path


def test_files_are_written_and_read_in_one_place() -> None:
    """io/atomic.py writes, io/schema.py reads TOML; hub/ keeps what downloads were cut short."""
    for path in SOURCES:
        if path.parent.name in ("io", "hub"):
            continue
        text = path.read_text(encoding="utf-8")
        for own in ("os.replace(", "os.rename(", "import tomllib", "mkstemp(", "fcntl"):
            assert own not in text, f"{path}: {own}"
