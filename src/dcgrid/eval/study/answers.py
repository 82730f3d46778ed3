"""Answers of raters: read, and checked against the study down to each trial. No torch.

Sides and order follow from the study and the rater's id (order.py), so a trial that was moved,
added, taken out or turned round is found. What was answered cannot be proved; it is only possible.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from dcgrid.errors import StudyError
from dcgrid.eval.study.design import QUESTIONS, StudyKey
from dcgrid.eval.study.order import Trial, rater_seed, session
from dcgrid.io.schema import Problem, Text, parse_json, show
from dcgrid.io.text import read_bytes

FORMAT = "dcgrid-answers-1"
LARGEST = 1_000_000
"""Bytes of an answers file; 100 trials are 40 kilobytes."""
LONGEST_NAME = 40

_HINT = "ask the rater for the file again, or leave it out of ANSWERS and say so"
_TOLD = 10
_NAME_SIGNS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """Which videos were played to their end, or nearly."""

    original: bool
    left: bool
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A trial as the page writes it."""

    pair: str
    left: str
    right: str
    answers: dict[str, Literal["left", "right"]]
    ms: Annotated[int, Ge(0), Lt(2**53)]
    seen: _Seen
    failed: tuple[Literal["original", "left", "right"], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file as the page writes it."""

    study: str
    rater: str
    seed: int
    started: Annotated[str, Text(100)]
    finished: Annotated[str, Text(100)]
    trials: tuple[_Trial, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One trial of one rater."""

    pair: str
    """Id of the pair or check."""
    left: str
    """File of video A."""
    chosen: Mapping[str, str]
    """File that was chosen, by question; empty where a video could not be loaded."""
    chosen_left: int
    """Questions that were answered with A."""
    is_seen: bool
    """True: both edits were played to their end, or nearly."""
    ms: int
    """Milliseconds in view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterAnswers:
    """One rater's file."""

    path: str
    """Where it came from."""
    rater: str
    """Name of the rater."""
    trials: tuple[Answered, ...]
    """In the order in which they were shown."""
    digest: str
    """The same for files that say the same."""


def read_answers(paths: Sequence[Path], key: StudyKey) -> tuple[list[RaterAnswers], list[str]]:
    """Read the answers of all raters.

    Args:
        paths: Files, and folders whose .json files are meant.
        key: The study they are answers to.

    Returns:
        One a rater, sorted by name, and notes: files that were there twice.

    Raises:
        StudyError: A file is missing or damaged, answers another study or contradicts it, or two
            files of one rater differ. All of them are named.
    """
    read: list[RaterAnswers] = []
    problems: list[str] = []
    for path in _files(paths):
        try:
            content = read_bytes(path, StudyError, max_bytes=LARGEST)
            read.append(parse_answers(content, key, str(path)))
        except StudyError as error:
            problems.append(error.message)
    kept, notes, twice = _one_each(read)
    problems += twice
    if problems:
        more = len(problems) - _TOLD
        shown = [*problems[:_TOLD], *([f"and {more} more"] if more > 0 else [])]
        raise StudyError(
            "these answers cannot be counted:\n  " + "\n  ".join(shown),
            hint=_HINT,
        )
    return kept, notes


def parse_answers(content: bytes, key: StudyKey, path: str = "the file") -> RaterAnswers:
    """Return the answers that a file holds, if they fit a study.

    Args:
        content: What the file holds.
        key: The study.
        path: Where it came from.

    Raises:
        StudyError: They do not fit, or the file is too large or not JSON; with the place.
    """
    if len(content) > LARGEST:
        raise StudyError(f"{path} is larger than {LARGEST:,} bytes")
    document = parse_json(content, path, StudyError, hint=_HINT)
    found = document.values.pop("format", None)
    if found != FORMAT:
        document.refuse([(("format",), f"must be {FORMAT!r}, not {show(found)}")])
    digest = json.dumps(document.values, sort_keys=True)
    read = document.build(_File)
    document.refuse(_rater_problems(read, key))
    expected = session(key.id, read.rater, key.pairs, key.checks, key.per_rater)
    if len(read.trials) != len(expected):
        problem = (
            f"has {len(read.trials)} entries, and rater {read.rater} was shown {len(expected)}"
        )
        document.refuse([(("trials",), problem)])
    shown = list(zip(read.trials, expected, strict=True))
    document.refuse(
        problem for number, (one, due) in enumerate(shown) for problem in _misfits(number, one, due)
    )
    return RaterAnswers(
        path=path,
        rater=read.rater,
        trials=tuple(_answered(one, due) for one, due in shown),
        digest=digest,
    )


def is_rater_name(name: object) -> bool:
    """Return True for 1 to 40 ASCII letters, digits, - and _: a safe file name, too."""
    return isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and set(name) <= _NAME_SIGNS


def _files(paths: Sequence[Path]) -> list[Path]:
    """Return every file that is meant, each once.

    Raises:
        StudyError: A folder holds none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise StudyError(f"{path} holds no answers", hint="put the raters' .json files into it")
        found |= {one.resolve(): one for one in inside}
    return list(found.values())


def _one_each(read: Iterable[RaterAnswers]) -> tuple[list[RaterAnswers], list[str], list[str]]:
    """Return one file a rater, notes on equal files, and problems with files that differ."""
    kept: dict[str, RaterAnswers] = {}
    notes, problems = [], []
    for one in read:
        first = kept.setdefault(one.rater, one)
        if first is one:
            continue
        if first.digest == one.digest:
            notes.append(f"{one.path} says the same as {first.path}: counted once.")
        else:
            problems.append(
                f"{one.path}: rater {one.rater} has other answers in {first.path}; keep one of them"
            )
    return sorted(kept.values(), key=lambda one: one.rater), notes, problems


def _rater_problems(read: _File, key: StudyKey) -> Iterator[Problem]:
    if read.study != key.id:
        yield ("study",), f"must be {key.id!r}, not {show(read.study)}: it answers another study"
    if not is_rater_name(read.rater):
        yield ("rater",), f"= {show(read.rater)} is no rater name"
    elif read.seed != rater_seed(key.id, read.rater):
        yield ("seed",), f"is not that of rater {read.rater}: the name was changed"


def _misfits(number: int, trial: _Trial, due: Trial) -> Iterator[Problem]:
    """Yield what cannot have been answered in the trial that was due."""
    place = ("trials", number)
    for name in ("pair", "left", "right"):
        given, expected = getattr(trial, name), getattr(due, name)
        if given != expected:
            yield (*place, name), f"is {show(given)}, shown was {expected!r}"
    questions = {one.key for one in QUESTIONS}
    for unknown in trial.answers.keys() - questions:
        yield (*place, "answers", unknown), "is no question"
    for missing in () if trial.failed else questions - trial.answers.keys():
        yield (*place, "answers", missing), "has no answer"


def _answered(trial: _Trial, due: Trial) -> Answered:
    counted = {} if trial.failed else trial.answers
    file_of = {"left": due.left, "right": due.right}
    return Answered(
        pair=due.pair,
        left=due.left,
        chosen={question: file_of[side] for question, side in counted.items()},
        chosen_left=sum(side == "left" for side in counted.values()),
        is_seen=trial.seen.left and trial.seen.right,
        ms=trial.ms,
    )
