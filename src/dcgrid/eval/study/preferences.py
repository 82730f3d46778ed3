"""From answers to Table 3: how often the method in question was preferred, and how surely.

rater fails more than a third of the checks   -> left out, counted
a video of a trial could not be loaded        -> that trial is left out, counted
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dcgrid.errors import StudyError
from dcgrid.eval.study.answers import RaterAnswers
from dcgrid.eval.study.design import CHECKED, QUESTIONS, Check, StudyKey
from dcgrid.runtime.install import need

RESAMPLES = 2000
"""Draws of raters that an interval is taken from."""


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share, both ends in [0, 1].

    Args:
        hits: Successes; 0 to `count`.
        count: Trials; >= 1.

    Raises:
        ValueError: No trial, or more successes than trials.
        UsageError: scipy is not installed.
    """
    interval = _binomial(hits, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def binomial_test(hits: int, count: int) -> float:
    """Return the two-sided exact p-value of a share against one half; see `wilson`."""
    return float(_binomial(hits, count).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def rater_interval(
    hits: Sequence[int], counts: Sequence[int], seed: int = 0
) -> tuple[float, float] | None:
    """Return a 95 % interval of a share whose answers belong together by rater.

    Whole raters are drawn again with replacement, with all of their answers, so that raters who
    always choose alike widen the interval. Percentiles 2.5 and 97.5 of `RESAMPLES` draws. With few
    raters it is too narrow, and where all answers agree it has no width.

    Args:
        hits: Successes of each rater.
        counts: Trials of each rater; raters without any are passed over.
        seed: The same seed gives the same interval.

    Returns:
        Low and high end; None: fewer than two raters.

    Raises:
        UsageError: scipy is not installed.
    """
    raters = [(hit, count) for hit, count in zip(hits, counts, strict=True) if count]
    if len(raters) < 2:
        return None

    def share(hits: Any, counts: Any, axis: int) -> Any:  # noqa: ANN401 - arrays
        return hits.sum(axis=axis) / counts.sum(axis=axis)

    drawn = need("scipy.stats").bootstrap(
        tuple(zip(*raters, strict=True)),
        share,
        n_resamples=RESAMPLES,
        paired=True,
        method="percentile",
        rng=seed,
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def _binomial(hits: int, count: int) -> Any:  # noqa: ANN401 - a result of scipy
    return need("scipy.stats").binomtest(hits, count)


MOST_FAILED = 1 / 3
"""A rater who fails more than this share of the attention checks is left out."""
FEW_RATERS = 10
"""With fewer, the interval over raters is known to be too narrow. The paper had ten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """One comparison on one question."""

    question: str
    """Key of the question."""
    ours: int
    """Answers for the method in question."""
    answers: int
    """All answers; 0: none, and the values below are None."""
    share: float | None
    """`ours` of `answers`."""
    low: float | None
    """Low end of the 95 % Wilson interval: every answer on its own."""
    high: float | None
    """High end of it."""
    raters: int
    """Raters who gave the answers."""
    rater_low: float | None
    """Low end of the 95 % interval over raters; None: fewer than two."""
    rater_high: float | None
    """High end of it."""
    p: float | None
    """Two-sided exact binomial test against one half."""
    p_holm: float | None
    """The same, adjusted for all tests of the table after Holm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A row: the method in question against another."""

    against: str
    """Key of the other method."""
    label: str
    """Its name for people."""
    cells: tuple[Preference, ...]
    """By question, in the order of `QUESTIONS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """A row of the paper's Table 3: other data and models, to be read beside and not compared."""

    label: str
    """The comparison there."""
    shares: tuple[float, ...]
    """IP, MP, AP, OP."""


PAPER = (
    PaperRow(label="Ours vs. DreamMix", shares=(0.32, 0.59, 0.98, 0.72)),
    PaperRow(label="Ours vs. DB-LoRA", shares=(0.51, 0.58, 0.96, 0.74)),
    PaperRow(label="Ours vs. NewMove", shares=(0.98, 0.95, 1.00, 1.00)),
    PaperRow(label="Ours vs. DreamVideo", shares=(0.97, 0.99, 1.00, 0.99)),
)
"""The paper's Table 3, 10 participants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterFacts:
    """What is to be known of a rater."""

    rater: str
    """Name."""
    is_counted: bool
    """False: left out, too many checks failed."""
    checks: int
    """Attention checks that were shown in full."""
    failed_checks: int
    """How many of them were answered wrongly on one of the checked questions."""
    lost: int
    """Trials in which a video could not be loaded."""
    unseen: int
    """Trials answered though one of the edits was not played to its end."""
    minutes: float
    """Time in view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTable:
    """What a study found."""

    study: str
    """Id of the study."""
    title: str
    """Head of its page."""
    ours: str
    """Key of the method in question."""
    ours_label: str
    """Its name for people."""
    rows: tuple[Comparison, ...]
    """In the order of the key."""
    raters: tuple[RaterFacts, ...]
    """Everyone who handed in answers."""
    left_share: float | None
    """Share of counted answers that were A: far from one half, people clicked one side."""
    notes: tuple[str, ...]
    """What a reader must know, a sentence each."""


def make_table(
    key: StudyKey, answers: Sequence[RaterAnswers], notes: Sequence[str] = ()
) -> StudyTable:
    """Count the answers.

    Args:
        key: The study.
        answers: One a rater, checked.
        notes: Sentences on the files that were read.

    Raises:
        StudyError: No rater is left.
    """
    checks = {check.id: check for check in key.checks}
    facts = tuple(_facts(one, checks) for one in answers)
    counted = [one for one, fact in zip(answers, facts, strict=True) if fact.is_counted]
    if not counted:
        raise StudyError(
            f"of {len(facts)} raters none passed the attention checks",
            hint="docs/study.md says by which rule raters are left out",
        )
    rows = _with_holm([_row(key, method, counted) for method in key.against])
    pairs = {pair.id for pair in key.pairs}
    shown = [trial for one in counted for trial in one.trials if trial.pair in pairs]
    total = sum(len(trial.chosen) for trial in shown)
    return StudyTable(
        study=key.id,
        title=key.title,
        ours=key.ours,
        ours_label=key.labels[key.ours],
        rows=rows,
        raters=facts,
        left_share=sum(trial.chosen_left for trial in shown) / total if total else None,
        notes=(*notes, *_notes(facts)),
    )


def _facts(rater: RaterAnswers, checks: Mapping[str, Check]) -> RaterFacts:
    shown = [one for one in rater.trials if one.pair in checks and one.chosen]
    failed = sum(any(one.chosen[key] != checks[one.pair].good for key in CHECKED) for one in shown)
    return RaterFacts(
        rater=rater.rater,
        is_counted=not shown or failed <= MOST_FAILED * len(shown),
        checks=len(shown),
        failed_checks=failed,
        lost=sum(not one.chosen for one in rater.trials),
        unseen=sum(bool(one.chosen) and not one.is_seen for one in rater.trials),
        minutes=sum(one.ms for one in rater.trials) / 60_000,
    )


def _row(key: StudyKey, method: str, raters: Sequence[RaterAnswers]) -> Comparison:
    ours = {pair.id: pair.ours for pair in key.pairs if pair.against == method}
    cells = []
    for question in QUESTIONS:
        hits, counts = [], []
        for rater in raters:
            chosen = [
                trial.chosen[question.key] == ours[trial.pair]
                for trial in rater.trials
                if trial.pair in ours and trial.chosen
            ]
            hits.append(sum(chosen))
            counts.append(len(chosen))
        cells.append(_preference(question.key, hits, counts))
    return Comparison(against=method, label=key.labels[method], cells=tuple(cells))


def _preference(question: str, hits: Sequence[int], counts: Sequence[int]) -> Preference:
    """Return one cell from the hits and answers of each rater; the adjusted p comes later."""
    ours, answers = sum(hits), sum(counts)
    wide = wilson(ours, answers) if answers else (None, None)
    over = rater_interval(hits, counts) or (None, None)
    return Preference(
        question=question,
        ours=ours,
        answers=answers,
        share=ours / answers if answers else None,
        low=wide[0],
        high=wide[1],
        raters=sum(count > 0 for count in counts),
        rater_low=over[0],
        rater_high=over[1],
        p=binomial_test(ours, answers) if answers else None,
        p_holm=None,
    )


def _with_holm(rows: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Adjust the p-values of all cells together."""
    adjusted = iter(holm([cell.p for row in rows for cell in row.cells if cell.p is not None]))
    return tuple(
        replace(
            row,
            cells=tuple(
                cell if cell.p is None else replace(cell, p_holm=next(adjusted))
                for cell in row.cells
            ),
        )
        for row in rows
    )


def _notes(facts: Sequence[RaterFacts]) -> list[str]:
    """Return what a reader must know of the raters."""
    counted = [one for one in facts if one.is_counted]
    notes = []
    if out := [one for one in facts if not one.is_counted]:
        names = ", ".join(f"{one.rater} ({one.failed_checks} of {one.checks})" for one in out)
        notes.append(f"Left out for failing more than a third of the attention checks: {names}.")
    if not any(one.checks for one in facts):
        notes.append("There were no attention checks: nobody could be left out.")
    if lost := sum(one.lost for one in counted):
        notes.append(f"{lost} trials are not counted: a video could not be loaded.")
    if unseen := sum(one.unseen for one in counted):
        notes.append(f"{unseen} trials were answered before both edits had been played to the end.")
    if len(counted) < FEW_RATERS:
        notes.append(
            f"Raters: {len(counted)}. The interval over raters is too narrow: read it as a hint."
        )
    notes.append(
        "Answers of one rater are not independent. The Wilson interval and the p-values take them "
        "as if they were; the interval over raters does not."
    )
    return notes
