"""What an evaluation found: scores of videos, and the file that holds them.

    suite  x  clips  x  tasks  x  methods  x  seeds  ->  one `Item` each, done, failed or missing

results.json is read by the report page, the user study and `dcgrid eval --format json`. No torch.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dcgrid.errors import InputVideoError
from dcgrid.io.atomic import write_whole
from dcgrid.io.schema import read_format

FORMAT = "dcgrid-eval-1"

Status = Literal["done", "failed", "missing"]
"""done: there is a video. failed: the method ended with an error. missing: none was handed in."""
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric of one video."""

    value: float | None
    """The score; None: it could not be measured."""
    reason: str = ""
    """Why it could not be, in a few words for a person; empty where it was."""
    series: tuple[float | None, ...] = ()
    """A value a frame, or a pair of frames, for plots; empty: the metric has none."""
    frames: tuple[int, ...] = ()
    """Frame of the result that each value of `series` stands at; as long as `series`."""

    def __post_init__(self) -> None:
        """Refuse a score without a value and without a reason, and NaN.

        Raises:
            ValueError: A caller's bug.
        """
        if self.value is None and not self.reason:
            raise ValueError("a score without a value needs a reason")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a score of {self.value}")
        if len(self.series) != len(self.frames):
            raise ValueError(f"{len(self.series)} values at {len(self.frames)} frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricColumn:
    """A metric as a column of tables."""

    key: str
    """Short name, e.g. "id"."""
    label: str
    """Head of the column, e.g. "ID"."""
    title: str
    """What it measures, in a sentence for a tooltip."""
    better: Better
    """Which way is better."""
    digits: int
    """Digits behind the point in tables."""
    encoder: str = ""
    """The network it is measured with, e.g. "ArcFace (w600k_mbf)"; empty: none."""
    unavailable: str = ""
    """Why the whole column is blank; empty: it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRow:
    """A method as a row of tables."""

    key: str
    """Name as in `--method`."""
    label: str
    """Name for people."""
    note: str = ""
    """What to know of it, e.g. where it was published."""
    is_reference: bool = False
    """True: no method but a bound, such as the unedited clip: never the best, never rated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEntry:
    """A clip that was edited."""

    key: str
    """Name that is unique in the run; the file name's stem."""
    label: str
    """Name for people."""
    video: str
    """What the methods were given, an .mp4, relative to the folder of the results."""
    frames: int
    """Frames of it."""
    fps: float
    """Frames per second."""
    second: str = ""
    """The second input of a composition; empty: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEntry:
    """An edit, fusion or scene that was asked for."""

    key: str
    """Name, e.g. "rain"."""
    label: str
    """Name for people."""
    prompt: str
    """What the video should show, as C-T reads it; "{subject}" has been filled in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One video, or the lack of it."""

    key: str
    """Unique: clip--task--method--seed."""
    clip: str
    """Key of the clip."""
    task: str
    """Key of the task."""
    method: str
    """Key of the method."""
    seed: int
    """Seed of the noise."""
    status: Status
    """Whether there is a video."""
    error: str = ""
    """What went wrong where there is none."""
    video: str = ""
    """The video, relative to the folder of the results."""
    truth: str = ""
    """The known truth as a video; empty: none is known."""
    seconds: float | None = None
    """How long the method took, of work that several videos share its part; None: unknown."""
    scores: Mapping[str, Score] = field(default_factory=dict)
    """Scores by metric key; empty where there is no video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A metric over the items of a method: over clips first within a clip, then between clips."""

    mean: float | None
    """Mean over clips of the mean over a clip's items; None: nothing was measured."""
    std: float | None
    """Standard deviation between clips; None: fewer than two clips."""
    measured: int
    """Items with a value."""
    items: int
    """Items that should have one, failed and missing ones included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """A method's line of the table."""

    method: str
    """Key of the method."""
    scores: Mapping[str, Spread]
    """By metric key."""
    done: int
    """Items with a video."""
    failed: int
    """Items whose method ended with an error."""
    missing: int
    """Items for which no video was handed in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRow:
    """A row of a published table: other data, other models, to be read beside and not compared."""

    table: str
    """Where it stands, e.g. "Table 2"."""
    label: str
    """The method's name there."""
    scores: Mapping[str, float]
    """By metric key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything an evaluation found."""

    suite: str
    """Name of the suite."""
    title: str
    """A few words on it."""
    made: Mapping[str, str]
    """Facts for the foot of a page: date, versions, model, machine, command, by name."""
    metrics: tuple[MetricColumn, ...]
    """Columns in order."""
    methods: tuple[MethodRow, ...]
    """Rows in order."""
    clips: tuple[ClipEntry, ...]
    """The clips."""
    tasks: tuple[TaskEntry, ...]
    """What was asked of each clip."""
    items: tuple[Item, ...]
    """Clips x tasks x methods x seeds, none left out."""
    table: tuple[TableRow, ...]
    """A row a method."""
    references: tuple[ReferenceRow, ...] = ()
    """Published rows."""
    notes: tuple[str, ...] = ()
    """What a reader must know, a sentence each."""


def as_json(results: Results) -> dict[str, Any]:
    """Return results as JSON values."""
    return {"format": FORMAT, **asdict(results)}


def write_results(path: Path, results: Results) -> None:
    """Write results as JSON, whole or not at all."""
    write_whole(path, json.dumps(as_json(results), indent=1, allow_nan=False) + "\n")


def read_results(path: Path) -> Results:
    """Read results.json.

    Raises:
        InputVideoError: Missing, unreadable, not results, or values that cannot be.
    """
    hint = "results.json is what `dcgrid eval --out DIR` writes into DIR"
    document = read_format(path, FORMAT, InputVideoError, hint=hint)
    return replace(document, file=f"{path} holds damaged results").build(Results)
