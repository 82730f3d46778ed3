"""Sizes that keep the code readable; the layers are in .importlinter."""

import ast
from collections import Counter
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


def test_few_functions_say_one_thing_to_one_caller() -> None:
    """One statement and one use in src: three such helpers are worse than one paragraph."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    uses = Counter(node.id for node in nodes if isinstance(node, ast.Name))
    uses += Counter(node.attr for node in nodes if isinstance(node, ast.Attribute))
    found = [
        node.name
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.decorator_list
        if uses[node.name] == 1 and len(node.body) - (ast.get_docstring(node) is not None) == 1
    ]
    assert len(found) <= 64, found


def test_names_of_files_do_not_repeat() -> None:
    """A name in a traceback says which file it is; what repeats still may only get less."""
    names = Counter(path.name for path in SOURCES)
    usual = {"__init__.py", "__main__.py", "base.py"}
    repeated = sorted(name for name, count in names.items() if count > 1 and name not in usual)
    assert len(repeated) <= 18, repeated
