"""What users read: commands, options and files that messages name exist, and they read well."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcgrid.cli.app import command_tree

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "src" / "dcgrid").rglob("*.py"))
BUGS = ("ValueError", "RuntimeError", "TypeError", "AssertionError", "KeyError", "LookupError")
"""What is raised for callers, not for users."""
OTHERS = ("--nproc-per-node", "--help", "--no-deps", "--no-")
"""Options of other programs."""
PLURALS = (
    *("steps", "frames", "videos", "clips", "grids", "units", "windows", "concepts", "words"),
    *(
        "files",
        "cells",
        "scenes",
        "edits",
        "prompts",
        "inputs",
        "rows",
        "pairs",
        "raters",
        "layers",
    ),
    *(
        "tensors",
        "images",
        "fusions",
        "clauses",
        "times",
        "effects",
        "methods",
        "tasks",
        "problems",
    ),
)
RIGHT = (
    "X is named X times",  # more than once
    "X of X X problems",  # have or has
    "--method X edits a clip",
    "X problems",
    "X effects and prompts for",  # more than there are cells
    "or X frames",  # of two lengths the longer one
    "Xx<h>x<w>",  # part of a digest
)
"""Parts of messages that only look wrong."""
AMERICAN = ("color", "colors", "center", "centered", "gray", "behavior", "licensed", "neighbor")


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield what a file may print: its strings with an X for each value, without docstrings."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            skipped.add(node.value)
        called = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(called, ast.Call) and getattr(called.func, "id", "") in BUGS:
            skipped |= set(ast.walk(called))
        if isinstance(node, ast.JoinedStr) and node not in skipped:
            skipped |= set(ast.walk(node)) - {node}
            yield node.lineno, "".join(_shown(part) for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node.lineno, node.value


def _shown(part: ast.expr) -> str:
    """Return a text, or for a value an X, for a size or a number with a format another letter."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    name = ast.unparse(part.value)
    if name.split(".")[-1].isupper():
        return "many"  # a limit
    if name.split(".")[-1] in ("height", "h", "width", "w"):
        return f"<{name.split('.')[-1][0]}>"
    return "Y" if part.format_spec or "counted" in name or "quote" in name else "X"


MESSAGES = [
    (f"{path.relative_to(ROOT)}:{line}", text) for path in FILES for line, text in strings(path)
]


def commands() -> dict[str, set[str]]:
    """Return the options of every command by its words, such as "eval study make"."""
    found: dict[str, set[str]] = {}

    def walk(words: str, command: object) -> None:
        options = {o for one in command.params for o in (*one.opts, *one.secondary_opts)}  # type: ignore[attr-defined]
        found[words] = {one for one in options if one.startswith("-")}
        for name, inner in getattr(command, "commands", {}).items():
            walk(f"{words} {name}".strip(), inner)

    walk("", command_tree())
    return found


KNOWN = commands()


def command_of(words: list[str]) -> str:
    """Return the longest command that a line begins with."""
    named = [word for word in words if re.fullmatch(r"[a-z-]+", word)]
    for count in range(len(named), 0, -1):
        if words[:count] == named[:count] and " ".join(words[:count]) in KNOWN:
            return " ".join(words[:count])
    return ""


def test_there_is_something_to_check() -> None:
    assert len(MESSAGES) > 2000
    assert len(KNOWN) > 20


def test_commands_that_messages_name_exist_with_their_options() -> None:
    wrong, seen = [], 0
    for place, text in MESSAGES:
        for line in re.findall(r"(?<![\w./-])dcgrid ([a-z][^`\n;,()]*)", text):
            words = line.split()
            command = command_of(words)
            is_named = words[0] in {name.split()[0] for name in KNOWN if name}
            if not command and not is_named:
                continue  # "dcgrid runs text-to-video models"
            seen += 1
            inner = [name for name in KNOWN if name.startswith(f"{command} ")]
            lacks = inner and command not in ("eval", "train") and len(words) > 1
            if lacks and words[1].isalpha() and words[1].islower():
                wrong.append(f"{place}: dcgrid {line}: {command} has no {words[1]}")
            allowed = KNOWN[command] | (KNOWN["eval run"] if command == "eval" else set())
            for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", line.split(" # ")[0]):
                if option not in allowed:
                    wrong.append(f"{place}: dcgrid {line}: no option {option}")
    assert not wrong, "\n".join(wrong)
    assert seen > 60


def test_options_that_messages_name_exist() -> None:
    known = {option for options in KNOWN.values() for option in options}
    wrong = [
        f"{place}: {option} in {text[:80]!r}"
        for place, text in MESSAGES
        if "pip install" not in text and "git " not in text
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)
        if option not in known and option not in OTHERS
    ]
    assert not wrong, "\n".join(wrong)


def test_pages_extras_and_targets_that_messages_name_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(extras["optional-dependencies"])
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    wrong = []
    for place, text in MESSAGES:
        wrong += [
            f"{place}: {page}"
            for page in re.findall(r"\bdocs/[\w/.-]+\.md", text)
            if not (ROOT / page).is_file()
        ]
        wrong += [
            f"{place}: {extra}"
            for extra in re.findall(r"dcgrid\[([a-z]+)\]", text)
            if extra not in extras
        ]
        wrong += [
            f"{place}: make {one}"
            for one in re.findall(r"`make ([a-z-]+)", text)
            if one not in targets
        ]
    for path in FILES:
        for extra in re.findall(r"""install_hint\(["']([a-z]+)["']\)""", path.read_text()):
            if extra not in extras:
                wrong.append(f"{path}: the extra {extra}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("kind", "pattern", "advice"),
    [
        ("plurals", rf"(?<!of )(?<![x/])\bX ({'|'.join(PLURALS)})\b", "io.progress.counted"),
        ("sizes", r"<h> ?x ?<w>", "users see widthxheight"),
        ("a before a vowel", r"\ba (?=[aeio]\w)(?!one\b|once\b|eu)\w+", "an"),
        ("an before a consonant", r"\ban (?=[bcdfgjkpqtvwyz][a-z])\w+", "a"),
        ("twice the same word", r"\b(the|a|an|of|to|is|in|and) \1\b", "once"),
        ("American spelling", rf"(?<![\w./_-])({'|'.join(AMERICAN)})(?![\w_-])", "British"),
        ("hints of a folder", r"`ls ", "name what is near, or what is wrong"),
        ("a space before %", r"\d %|[XY] %", "10%"),
    ],
)
def test_messages_read_well(kind: str, pattern: str, advice: str) -> None:
    wrong = [
        f"{place}: {text[:120]!r}"
        for place, text in MESSAGES
        if " " in text and re.search(pattern, text) and not any(one in text for one in RIGHT)
    ]
    assert not wrong, f"{kind}; write {advice}:\n" + "\n".join(wrong)
