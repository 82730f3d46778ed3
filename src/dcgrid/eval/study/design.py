"""What a study is made of, and the key that says what the page does not.

The page knows pairs of file names; the key knows which method made which file. No torch.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from dcgrid.errors import StudyError
from dcgrid.io.schema import Problem, read_format, show

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
    per_rater: Annotated[int, Ge(1)]
    """Pairs a rater gets, checks not counted."""
    results_sha256: str
    """Hash of the results file that it was made from."""
    pairs: tuple[Pair, ...]
    """Every pair, in the order of their ids."""
    checks: tuple[Check, ...]
    """Every attention check, in the order of their ids."""


def write_key(path: Path, key: StudyKey) -> None:
    """Write a key into a folder that is not yet in its place."""
    text = json.dumps({"format": FORMAT, **asdict(key)}, indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def read_key(folder: Path) -> StudyKey:
    """Read the key of the study in a folder.

    Raises:
        StudyError: There is none, or it is damaged.
    """
    path = folder / KEY_NAME
    document = read_format(path, FORMAT, StudyError, hint=_MADE_BY)
    document = replace(document, file=f"{path} is damaged")
    key = document.build(StudyKey)
    document.refuse(_problems(key))
    return key


def _problems(key: StudyKey) -> Iterator[Problem]:
    """Yield what a key says of two things that do not fit each other."""
    ids = [*(pair.id for pair in key.pairs), *(check.id for check in key.checks)]
    if len(set(ids)) != len(ids):
        yield ("pairs",), "holds two pairs with the same id"
    for number, pair in enumerate(key.pairs):
        if len(pair.files) != 2 or pair.ours not in pair.files:
            yield ("pairs", number, "files"), f"must be two, one of them {show(pair.ours)}"
        if pair.against not in key.against:
            yield ("pairs", number, "against"), f"names no method: {show(pair.against)}"
    for number, check in enumerate(key.checks):
        if len(check.files) != 2 or check.good not in check.files:
            yield ("checks", number, "files"), f"must be two, one of them {show(check.good)}"
    for name in {key.ours, *key.against} - key.labels.keys():
        yield ("labels",), f"has no {show(name)}"
