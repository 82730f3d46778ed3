"""Answers of raters: read, and checked against the study down to each trial. No torch.

Sides and order follow from the study and the rater's id (order.py), so a trial that was moved,
added, taken out or turned round is found. What was answered cannot be proved; it is only possible.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcgrid.errors import StudyError
from dcgrid.eval.study.design import QUESTIONS, StudyKey
from dcgrid.eval.study.order import Trial, rater_seed, session

FORMAT = "dcgrid-answers-1"
LARGEST = 1_000_000
"""Bytes of an answers file; 100 trials are 40 kilobytes."""
LONGEST_NAME = 40

_PLACES = ("original", "left", "right")
_TOLD = 10
_NAME_SIGNS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_TOP = {"format", "study", "rater", "seed", "started", "finished", "trials"}
_OF_TRIAL = {"pair", "left", "right", "answers", "ms", "seen", "failed"}


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
            read.append(_read_file(path, key))
        except ValueError as error:
            problems.append(f"{path}: {error}")
    kept, notes, twice = _one_each(read)
    problems += twice
    if problems:
        more = len(problems) - _TOLD
        shown = [*problems[:_TOLD], *([f"and {more} more"] if more > 0 else [])]
        raise StudyError(
            "these answers cannot be counted:\n  " + "\n  ".join(shown),
            hint="ask the rater for the file again, or leave it out of ANSWERS and say so",
        )
    return kept, notes


def check_answers(values: object, key: StudyKey, path: str = "") -> RaterAnswers:
    """Return answers that were found to fit a study.

    Args:
        values: What a file holds, as `json.loads` gives it.
        key: The study.
        path: Where it came from.

    Raises:
        ValueError: They do not; with the place.
    """
    top = _table(values, _TOP, "the file")
    if top["format"] != FORMAT:
        raise ValueError(f"its format is {_short(top['format'])}, not {FORMAT!r}")
    if top["study"] != key.id:
        raise ValueError(f"it answers study {_short(top['study'])}, not {key.id!r}")
    rater = top["rater"]
    if not is_rater_name(rater):
        raise ValueError(f"{_short(rater)} is no rater name")
    if _whole("seed", top["seed"]) != rater_seed(key.id, rater):
        raise ValueError(f"the seed is not that of rater {rater}: the name was changed")
    for name in ("started", "finished"):
        if not isinstance(top[name], str) or not top[name]:
            raise ValueError(f"{name} is {_short(top[name])}, not a time")
    wanted = session(key.id, rater, key.pairs, key.checks, key.per_rater)
    trials = _list("trials", top["trials"])
    if len(trials) != len(wanted):
        raise ValueError(f"it has {len(trials)} trials, and rater {rater} was shown {len(wanted)}")
    return RaterAnswers(
        path=path,
        rater=rater,
        trials=tuple(
            _trial(one, due, f"trial {number}")
            for number, (one, due) in enumerate(zip(trials, wanted, strict=True), 1)
        ),
        digest=json.dumps(values, sort_keys=True),
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


def _read_file(path: Path, key: StudyKey) -> RaterAnswers:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ValueError(
            f"cannot be read ({(error.strerror or 'unknown error').lower()})"
        ) from None
    return parse_answers(content, key, str(path))


def parse_answers(content: bytes, key: StudyKey, path: str = "") -> RaterAnswers:
    """Return the answers that a file holds.

    Raises:
        ValueError: They do not fit the study, or the file is too large or not JSON.
    """
    if len(content) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST:,} bytes")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from None
    return check_answers(values, key, path)


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


def _trial(value: object, due: Trial, place: str) -> Answered:
    trial = _table(value, _OF_TRIAL, place)
    for name, wanted in (("pair", due.pair), ("left", due.left), ("right", due.right)):
        if trial[name] != wanted:
            raise ValueError(f"{place}: {name} is {_short(trial[name])}, shown was {wanted!r}")
    failed = _list(f"{place}: failed", trial["failed"])
    if any(one not in _PLACES for one in failed):
        raise ValueError(f"{place}: failed is {_short(failed)}")
    sides = _table(trial["answers"], None, f"{place}: answers")
    if unknown := sorted(set(sides) - {one.key for one in QUESTIONS}):
        raise ValueError(f"{place}: there is no question {unknown[0][:40]!r}")
    for question in QUESTIONS:
        if question.key not in sides and not failed:
            raise ValueError(f"{place}: question {question.key!r} has no answer")
        if sides.get(question.key, "left") not in ("left", "right"):
            raise ValueError(f"{place}: {question.key} is {_short(sides[question.key])}")
    seen = _table(trial["seen"], set(_PLACES), f"{place}: seen")
    if not all(isinstance(one, bool) for one in seen.values()):
        raise ValueError(f"{place}: seen is {_short(seen)}")
    counted = {} if failed else sides
    file_of = {"left": due.left, "right": due.right}
    return Answered(
        pair=due.pair,
        left=due.left,
        chosen={question: file_of[side] for question, side in counted.items()},
        chosen_left=sum(side == "left" for side in counted.values()),
        is_seen=seen["left"] and seen["right"],
        ms=_whole(f"{place}: ms", trial["ms"]),
    )


def _table(value: object, keys: set[str] | None, place: str) -> dict[str, Any]:
    """Return a JSON object with exactly these keys; None: any."""
    if not isinstance(value, dict):
        raise ValueError(f"{place} is {_short(value)}, not a table")
    if keys is not None:
        for name in sorted(keys ^ set(value)):
            raise ValueError(
                f"{place} {'lacks' if name in keys else 'has the unknown'} {name[:40]!r}"
            )
    return value


def _list(place: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{place} is {_short(value)}, not a list")
    return value


def _whole(place: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{place} is {_short(value)}, not a whole number")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
