"""What a suite is, what an evaluation is asked, and the units of work that it means. No torch.

A suite has methods, tasks, metrics and published rows, read strictly from TOML; its kind is one of

    edit      every clip under every task (up to three share a grid)
    truth     the same, where the procedural world knows the right answer
    compose   every clip with elements that the procedural world draws, two fusions each
    story     a scene a task, from every clip

A unit is what a method does in one go: up to three edits of a clip, two fusions, a whole story.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Len, Lt, MinLen

from dcgrid.errors import RecipeError, UsageError
from dcgrid.eval.results import ReferenceRow
from dcgrid.eval.suites.eval_clips import EvalClip
from dcgrid.io.schema import EACH_ONCE, Problem, Rule, Text, read_toml
from dcgrid.pipelines.job import MAX_EDITS
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


_Task = TypeVar("_Task")
CEILING = "ceiling"
"""A reference where the truth is known: the truth after the model's autoencoder. Nothing that the
model generates can come nearer."""
FUSION_NAMES = ("around", "lit")
"""What the two fusions of a composition show: the subject in the midst of the element, and lit by
it alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """One run of `dcgrid eval`."""

    suite: Suite
    """What is made and measured; options of the command line have been put in."""
    clips: tuple[EvalClip, ...]
    """The clips, at least one."""
    out: Path
    """Folder of the results."""
    external: Mapping[str, Path] = field(default_factory=dict)
    """Folders with videos of other programs, by the name of the method."""
    model: str = "mini"
    """Name of the model, or folder of a checkout."""
    adapter: str = "default"
    """Grid-Fill adapter of the methods that use one."""
    device: str = "auto"
    """Device to run on."""
    dtype: str = "auto"
    """Number format."""
    offload: Literal["auto", "none", "model", "block", "disk"] = "auto"
    """Where a checkout's weights are while they are not needed."""
    quantize: Literal["none", "fp8", "int8"] = "none"
    """How the weights of a checkout's blocks are stored."""
    duration_s: float | None = None
    """Seconds of each clip; None: the model's usual length."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where values come from, by option; see `GridJob.origins`."""
    jobs: int = 1
    """Processes that work side by side."""
    offline: bool = False
    """True: nothing is downloaded."""
    weights_dir: Path | None = None
    """Folder with weights of metrics, looked in first."""
    left_out: tuple[str, ...] = ()
    """Files of folders that are no videos, each with the reason."""
    pull: bool = False
    """True: networks of metrics that are not here are downloaded, where their licence allows it."""

    def job_fields(self, clip: EvalClip, seed: int) -> dict[str, Any]:
        """Return what jobs of every command are asked, by field."""
        return {
            "subject": clip.words.subject,
            "motion": clip.words.motion,
            "seed": seed,
            "model": self.model,
            "adapter": self.adapter,
            "device": self.device,
            "dtype": self.dtype,
            "offload": self.offload,
            "quantize": self.quantize,
            "duration_s": self.duration_s,
            "offline": self.offline,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What a method does to a clip in one go."""

    clip: int
    """Index of the clip."""
    tasks: tuple[Task, ...]
    """What it does."""
    method: str
    """Key of the method."""
    seed: int
    """Seed of the noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOutcome:
    """What became of a unit."""

    unit: Unit
    """Which."""
    videos: Mapping[str, Path] = field(default_factory=dict)
    """For each item (see `item_tasks`) its frames, kept without loss."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """For each item that failed, why; an item in neither was not handed in."""
    seconds: float | None = None
    """How long the whole unit took, loading not counted."""
    was_there: bool = False
    """True: an earlier run made it."""


def units_of(request: EvalRequest) -> tuple[Unit, ...]:
    """Return the work of a request: method after method, so that a model is loaded once."""
    suite = request.suite
    seeds = dict.fromkeys(suite.methods, suite.seeds)
    # What is handed in was made with one seed or another: there is one video of each task.
    seeds |= dict.fromkeys(request.external, (0,))
    return tuple(
        Unit(clip=clip, tasks=tasks, method=method, seed=seed)
        for method, of_method in seeds.items()
        for clip in range(len(request.clips))
        for seed in of_method
        for tasks in _goes(suite)
    )


def item_names(suite: Suite, unit: Unit) -> tuple[str, ...]:
    """Return what the results of a unit are called: its tasks, or the fusions of its one task."""
    return FUSION_NAMES if suite.kind == "compose" else tuple(task.key for task in unit.tasks)


def group_tasks(tasks: tuple[_Task, ...]) -> list[tuple[_Task, ...]]:
    """Split tasks, or names of effects, into runs of at most three, as even as can be, in order.

    >>> group_tasks(("rain", "snow", "fog", "night"))
    [('rain', 'snow'), ('fog', 'night')]
    """
    runs = -(-len(tasks) // MAX_EDITS)
    sizes = [len(tasks) // runs + (run < len(tasks) % runs) for run in range(runs)]
    starts = [sum(sizes[:run]) for run in range(runs)]
    return [tasks[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def _goes(suite: Suite) -> list[tuple[Task, ...]]:
    if suite.kind == "story":
        return [suite.tasks]
    if suite.kind == "compose":
        return [(task,) for task in suite.tasks]
    return group_tasks(suite.tasks)
