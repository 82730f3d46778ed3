"""What a study is made of, and the key that says what the page does not.

The page knows pairs of file names; the key knows which method made which file. No torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dcgrid.errors import StudyError
from dcgrid.eval.formats import read_format
from dcgrid.pipelines.typed import typed

FORMAT = "dcgrid-study-1"
KEY_NAME = "key.json"
PAGE_DIR = "page"
MEDIA_DIR = "media"
ANSWERS_DIR = "answers"

_MADE_BY = "`dcgrid eval study make` writes it beside the folder page/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that is asked of each pair: a column of Table 3."""

    key: str
    """Name in answers."""
    column: str
    """Head of the column."""
    topic: str
    """One or two words before the question."""
    text: str
    """The question."""


QUESTIONS = (
    Question(
        key="ip",
        column="IP",
        topic="Identity",
        text="In which video does the person, animal or thing look more like in the original?",
    ),
    Question(
        key="mp",
        column="MP",
        topic="Motion",
        text="In which video is the movement closer to that of the original?",
    ),
    Question(
        key="ap",
        column="AP",
        topic="Text",
        text="Which video fits the text above better?",
    ),
    Question(
        key="op",
        column="OP",
        topic="Overall",
        text="Taken together: which video do you prefer as an edit of the original?",
    ),
)
"""Identity preservation, motion preservation, adherence to the prompt, overall preference."""

CHECKED = ("ip", "mp", "op")
"""Questions whose answer is known in an attention check. Neither video there shows what the text
asks for, so `ap` has no right answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two edits of one clip, by the method in question and by another one."""

    id: str
    """Name that says nothing."""
    deck: int
    """Number of the comparison; the numbers are dealt at random."""
    prompt: str
    """What the video should show."""
    originals: tuple[str, ...]
    """Files of the clip that was edited, and of the second one of a composition."""
    files: tuple[str, ...]
    """Files of the two edits, in the order of their names."""
    ours: str
    """Which of `files` is by the method in question."""
    against: str
    """Key of the method that made the other."""
    clip: str
    """Key of the clip."""
    task: str
    """Key of the task."""
    seed: int
    """Seed of both edits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A pair with a known answer: the clip itself, and a badly damaged copy of it."""

    id: str
    """Name that says nothing."""
    prompt: str
    """The text of one of the pairs."""
    originals: tuple[str, ...]
    """File of the clip."""
    files: tuple[str, ...]
    """Files of both copies, in the order of their names."""
    good: str
    """Which of `files` is not damaged."""
    clip: str
    """Key of the clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyKey:
    """Everything about a study, for the researcher alone."""

    id: str
    """Hash of the page's contents; answers carry it."""
    title: str
    """Head of the page."""
    ours: str
    """Key of the method in question."""
    against: tuple[str, ...]
    """Keys of the other methods, in the order of the table."""
    labels: Mapping[str, str]
    """Names of methods for people, by key."""
    seed: int
    """What names and damage were drawn with."""
    per_rater: int
    """Pairs a rater gets, checks not counted."""
    results_sha256: str
    """Hash of the results file that it was made from."""
    pairs: tuple[Pair, ...]
    """Every pair, in the order of their ids."""
    checks: tuple[Check, ...]
    """Every attention check, in the order of their ids."""


def write_key(path: Path, key: StudyKey) -> None:
    """Write a key; an OSError is the caller's to word."""
    text = json.dumps({"format": FORMAT, **asdict(key)}, indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def read_key(folder: Path) -> StudyKey:
    """Read the key of the study in a folder.

    Raises:
        StudyError: There is none, or it is damaged.
    """
    path = folder / KEY_NAME
    values = read_format(path, FORMAT, StudyError, _MADE_BY)
    try:
        key: StudyKey = typed(StudyKey, values)
        _check(key)
    except (TypeError, ValueError) as error:
        raise StudyError(f"{path} is damaged: {error}", hint=_MADE_BY) from error
    return key


def _check(key: StudyKey) -> None:
    """Refuse a key that contradicts itself.

    Raises:
        ValueError: With the place.
    """
    ids = [*(pair.id for pair in key.pairs), *(check.id for check in key.checks)]
    if len(set(ids)) != len(ids):
        raise ValueError("two pairs have the same id")
    for pair in key.pairs:
        if len(pair.files) != 2 or pair.ours not in pair.files:
            raise ValueError(f"pair {pair.id}: files {pair.files}, ours {pair.ours!r}")
        if pair.against not in key.against:
            raise ValueError(f"pair {pair.id}: unknown method {pair.against!r}")
    for check in key.checks:
        if len(check.files) != 2 or check.good not in check.files:
            raise ValueError(f"check {check.id}: files {check.files}, good {check.good!r}")
    if any(not isinstance(key.labels.get(name), str) for name in (key.ours, *key.against)):
        raise ValueError("a method has no label")
    if key.per_rater < 1:
        raise ValueError(f"per_rater is {key.per_rater}")
