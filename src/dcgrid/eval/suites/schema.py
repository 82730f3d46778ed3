"""What a suite is: methods, tasks, metrics and published rows, read strictly from TOML. No torch.

edit      every clip under every task (up to three share a grid)
truth     the same, where the procedural world knows the right answer
compose   every clip with elements that the procedural world draws, two fusions each
story     a scene a task, told from every clip
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Len, Lt, MinLen

from dcgrid.errors import RecipeError, UsageError
from dcgrid.eval.results import ReferenceRow
from dcgrid.io.schema import EACH_ONCE, Problem, Rule, Text, read_toml
from dcgrid.recipes import shipped_dir, unknown_recipe

SuiteKind = Literal["edit", "truth", "compose", "story"]
KINDS: tuple[SuiteKind, ...] = ("edit", "truth", "compose", "story")
MAX_TASKS = 16
"""Most tasks of a suite; a story has as many scenes."""


def _check_braces(prompt: str) -> str:
    rest = prompt.replace("{subject}", "")
    return "may hold {subject} and no other braces" if "{" in rest or "}" in rest else ""


_Keys = Annotated[tuple[Annotated[str, Text(200)], ...], MinLen(1), EACH_ONCE]
_Seed = Annotated[int, Ge(0), Lt(2**63), "a whole number from 0 on"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing that is asked of every clip."""

    key: Annotated[str, Text(40, blank=True)] = ""
    """Name; empty in a file: the effect's, or the element's."""
    effect: str = ""
    """Effect recipe, by name or path."""
    element: str = ""
    """Element of the procedural world that a clip is composed with."""
    label: Annotated[str, Text(80, blank=True)] = ""
    """Name for people; empty: the key."""
    prompt: Annotated[str, Text(2_000, blank=True), Rule(_check_braces)] = ""
    """What the result should show, as C-T reads it; "{subject}" stands for the clip's words.
    Empty: the task has no text."""

    @property
    def named(self) -> str:
        """The effect or the element."""
        return self.effect or self.element


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What is made and measured."""

    name: Annotated[str, Text(40)]
    """Name on the command line."""
    title: Annotated[str, Text(120)]
    """A few words."""
    kind: SuiteKind
    """What is made; see the head of this file."""
    methods: _Keys
    """Keys of methods, in the order of the table."""
    metrics: _Keys
    """Keys of metrics, in the order of the columns."""
    seeds: Annotated[tuple[_Seed, ...], MinLen(1), EACH_ONCE] = (0,)
    """Each task is done once a seed."""
    tasks: Annotated[tuple[Task, ...], Len(1, MAX_TASKS)]
    """What is asked of each clip."""
    references: tuple[ReferenceRow, ...] = ()
    """Published rows."""
    file: Path = field(default_factory=Path)
    """The file it was read from."""


def suite_names(user_dir: Path | None = None) -> tuple[str, ...]:
    """Return the names of all suites, sorted, without reading them."""
    return tuple(sorted(_files(user_dir)))


def load_suite(name_or_path: str, user_dir: Path | None = None) -> Suite:
    """Load a suite by name or by path (anything with a folder or ending in .toml).

    Raises:
        RecipeError: There is none of that name (with the nearest one), or it is wrong.
    """
    if name_or_path.endswith(".toml") or Path(name_or_path).name != name_or_path:
        return read_suite(Path(name_or_path))
    files = _files(user_dir)
    if name_or_path not in files:
        error = unknown_recipe(name_or_path, "suite", files)
        raise RecipeError(error.message, hint=f"suites: {', '.join(files)}, or a .toml file")
    return read_suite(files[name_or_path])


def read_suite(path: Path) -> Suite:
    """Read a suite.

    Raises:
        RecipeError: The file or any key of it is wrong; all problems are named with their lines.
    """
    document = read_toml(path, hint=f"dcgrid recipes check {shlex.quote(str(path))}")
    suite = document.build(Suite, file=str(path))
    tasks = tuple(replace(one, key=one.key or Path(one.named).stem) for one in suite.tasks)
    document.refuse(_task_problems(suite.kind, tasks))
    return replace(suite, tasks=tasks)


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Refuse seeds that no noise can be drawn from.

    Raises:
        UsageError: One is out of range, or given twice.
    """
    wrong = next((seed for seed in seeds if not 0 <= seed < 2**63), None)
    if wrong is not None:
        raise UsageError(f"seed {wrong} is out of range", hint="use 0 or a positive number")
    if len(set(seeds)) < len(seeds):
        raise UsageError("a seed is given twice", hint="name each --seed once")


def _task_problems(kind: SuiteKind, tasks: tuple[Task, ...]) -> Iterator[Problem]:
    keys = [task.key for task in tasks]
    if len(set(keys)) < len(keys):
        yield ("tasks",), f"has {max(keys, key=keys.count)!r} twice; give one another `key`"
    what, other = ("element", "effect") if kind == "compose" else ("effect", "element")
    for number, task in enumerate(tasks):
        if not getattr(task, what).strip():
            yield ("tasks", number, what), f"is missing; kind {kind} asks for an {what}"
        if getattr(task, other):
            yield ("tasks", number, other), f"is not for kind {kind}, which asks for an {what}"


def _files(user_dir: Path | None) -> dict[str, Path]:
    """Return suite files by name, the user's over the shipped ones."""
    files: dict[str, Path] = {}
    for root in (shipped_dir(), user_dir):
        if root is not None:
            files.update((path.stem, path) for path in (root / "eval").glob("*.toml"))
    return files
