"""What a suite is: methods, tasks, metrics and published rows, read strictly from TOML. No torch.

edit      every clip under every task (up to three share a grid)
truth     the same, where the procedural world knows the right answer
compose   every clip with elements that the procedural world draws, two fusions each
story     a scene a task, told from every clip
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from dcgrid.errors import RecipeError, UsageError
from dcgrid.eval.results import ReferenceRow
from dcgrid.recipes import Table, read_toml, shipped_dir, unknown_recipe

SuiteKind = Literal["edit", "truth", "compose", "story"]
KINDS: tuple[SuiteKind, ...] = ("edit", "truth", "compose", "story")
MAX_TASKS = 16
"""Most tasks of a suite; a story has as many scenes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing that is asked of every clip."""

    key: str
    """Name: the effect's, or the element's."""
    effect: str = ""
    """Effect recipe, by name or path."""
    element: str = ""
    """Element of the procedural world that a clip is composed with."""
    label: str = ""
    """Name for people; empty: the key."""
    prompt: str = ""
    """What the result should show, as C-T reads it; "{subject}" stands for the clip's words.
    Empty: the task has no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What is made and measured."""

    name: str
    """Name on the command line."""
    title: str
    """A few words."""
    kind: SuiteKind
    """What is made; see the head of this file."""
    methods: tuple[str, ...]
    """Keys of methods, in the order of the table."""
    metrics: tuple[str, ...]
    """Keys of metrics, in the order of the columns."""
    seeds: tuple[int, ...]
    """Each task is done once a seed."""
    tasks: tuple[Task, ...]
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
    table = read_toml(path)
    kind = cast(SuiteKind, table.text("kind", choices=KINDS))
    suite = Suite(
        name=table.text("name", max_length=40),
        title=table.text("title", max_length=120),
        kind=kind,
        methods=table.texts("methods", minimum=1),
        metrics=table.texts("metrics", minimum=1),
        seeds=_seeds(table),
        tasks=_tasks(table, kind),
        references=tuple(_reference(one) for one in table.tables("references")),
        file=path,
    )
    table.finish()
    return suite


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


def _seeds(table: Table) -> tuple[int, ...]:
    seeds = table.numbers("seeds", default=(0.0,))
    whole = tuple(int(seed) for seed in seeds)
    if not whole or any(seed != n or seed < 0 for seed, n in zip(seeds, whole, strict=True)):
        table.problem("seeds", "must hold whole numbers from 0 on")
    elif len(set(whole)) < len(whole):
        table.problem("seeds", "holds a seed twice")
    return whole


def _tasks(table: Table, kind: SuiteKind) -> tuple[Task, ...]:
    tasks = tuple(_task(one, kind) for one in table.tables("tasks"))
    keys = [task.key for task in tasks]
    if not 1 <= len(tasks) <= MAX_TASKS:
        table.problem("tasks", f"must be 1 to {MAX_TASKS} [[tasks]]")
    elif len(set(keys)) < len(keys):
        table.problem("tasks", f"has {max(keys, key=keys.count)!r} twice; give one another `key`")
    return tasks


def _task(table: Table, kind: SuiteKind) -> Task:
    what = "element" if kind == "compose" else "effect"
    named = table.text(what)
    prompt = table.text("prompt", default="", max_length=2_000)
    if prompt.replace("{subject}", "").count("{") or prompt.replace("{subject}", "").count("}"):
        table.problem("prompt", "may hold {subject} and no other braces")
    return Task(
        key=table.text("key", default="", max_length=40) or Path(named).stem,
        label=table.text("label", default="", max_length=80),
        prompt=prompt,
        effect=named if what == "effect" else "",
        element=named if what == "element" else "",
    )


def _reference(table: Table) -> ReferenceRow:
    row = ReferenceRow(
        table=table.text("table", max_length=40),
        label=table.text("label", max_length=80),
        scores=_scores(table.table("scores")),
    )
    return row


def _scores(table: Table) -> Mapping[str, float]:
    """Return published scores; which keys there may be is told when the metrics are known."""
    return {key: table.number(key, minimum=-1e6, maximum=1e6) for key in table.keys()}  # noqa: SIM118


def _files(user_dir: Path | None) -> dict[str, Path]:
    """Return suite files by name, the user's over the shipped ones."""
    files: dict[str, Path] = {}
    for root in (shipped_dir(), user_dir):
        if root is not None:
            files.update((path.stem, path) for path in (root / "eval").glob("*.toml"))
    return files
