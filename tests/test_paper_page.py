"""docs/paper.md names code and tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and " | " in line]


def names_of(path: Path) -> set[str]:
    """Return classes, functions, methods and constants that a module defines."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
            for member in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(member, ast.FunctionDef):
                    names.add(f"{node.name}.{member.name}")
                elif isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    names.add(f"{node.name}.{member.target.id}")
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                names |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def cited(cell: str, folder: Path) -> list[tuple[Path, str]]:
    """Return files that a cell of the table names, each with one name in it, or with none."""
    found: list[tuple[Path, str]] = []
    for token in re.findall(r"`([^`]+)`", cell):
        path, _, test = token.partition("::")
        if path.endswith(".py"):
            found.append((folder / path, test))
        elif found and (test or re.fullmatch(r"[A-Za-z_.]+|[A-Z, ]+ = [\d, ]+", token)):
            name = test or token.split(",")[0]
            found.append((found[-1][0], name))
    return found


def test_code_and_tests_that_the_page_names_are_there() -> None:
    counted = 0
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        if len(cells) < 3 or set(cells[0]) <= {"-", "|"}:
            continue
        for cell, folder in ((cells[1], ROOT / "src" / "dcgrid"), (cells[2], ROOT / "tests")):
            for path, name in cited(cell, folder):
                assert path.is_file(), f"{path} in {row}"
                counted += 1
                if name and f"key `{name}`" not in row:
                    assert name in names_of(path), f"{name} is not in {path.name}: {row}"
    assert counted > 100


def test_recipes_and_pages_that_the_page_names_are_there() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", PAGE)
    recipes = re.findall(r"`(recipes/[^`*]+\.toml)`", PAGE)
    assert len(linked) > 15
    assert recipes
    for name in linked:
        assert (ROOT / "docs" / name).is_file(), name
    for name in recipes:
        assert (ROOT / name).is_file(), name
