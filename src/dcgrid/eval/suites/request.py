"""What an evaluation is asked, and the units of work that it means. No torch.

A unit is what a method does in one go: up to three edits of a clip, two fusions, a whole story.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from dcgrid.eval.suites.clips import EvalClip
from dcgrid.eval.suites.schema import Suite, Task
from dcgrid.pipelines.job import MAX_EDITS

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
    handed: Mapping[str, Path] = field(default_factory=dict)
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
    seeds |= dict.fromkeys(request.handed, (0,))
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
