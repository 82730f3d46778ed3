"""Print scores as tables, deterministic effects apart from those with chance in them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.figures import Figures, mean, mean_figures
from benchmarks.truth.measure import BARE, CEILING, EDIT, REROLL, UNEDITED, Score

GOAL_DB, GOAL_GAP_DB = 25.0, 2.0
"""What issue 2 asks of the mean over the deterministic effects: at least; at most below the
ceiling."""

_FIXED = (EDIT, BARE, CEILING, UNEDITED)
_CHANCE = (EDIT, BARE, CEILING, REROLL, UNEDITED)
_CHANCE_FIGURES = ("psnr", "low_pass_psnr", "motion", "detail")


def truth_report(scores: Sequence[Score], *, brief: bool = False) -> str:
    """Return all tables as text.

    Args:
        scores: What was measured.
        brief: True: means alone, without a row for each clip and effect.
    """
    fixed = [score for score in scores if score.is_deterministic]
    chance = [score for score in scores if not score.is_deterministic]
    parts = []
    if fixed:
        parts += [_fixed_tables(fixed, brief), _goal(fixed)]
    if chance:
        parts.append(_chance_tables(chance, brief))
    if fixed and chance:
        parts.append(
            "All effects together, PSNR in dB\n"
            + _table(_fixed_head(""), [_fixed_row("mean", scores)])
        )
    return "\n\n".join(parts)


def codec_report(results: Mapping[str, Mapping[str, Figures]]) -> str:
    """Return the codec's figures as text.

    Args:
        results: By clip, then by effect ("" is the clip as it is).
    """
    plain = {clip: figures[""].psnr for clip, figures in results.items()}
    rows = [[clip, _db(value)] for clip, value in plain.items()]
    rows += [["mean", _db(mean(list(plain.values())))], ["lowest", _db(min(plain.values()))]]
    text = "The codec on the clips as they are\n" + _table(["clip", "PSNR"], rows)
    effects = [name for name in next(iter(results.values())) if name]
    if not effects:
        return text
    rows = [
        [effect, *(_db(value) for value in (mean(values), min(values)))]
        for effect in effects
        for values in ([figures[effect].psnr for figures in results.values()],)
    ]
    return f"{text}\n\nThe codec on rendered effects\n" + _table(
        ["effect", "mean PSNR", "lowest"], rows
    )


def summary(scores: Sequence[Score]) -> dict[str, Any]:
    """Return the means for programs: over deterministic effects, over the others, over all."""
    groups = {
        "deterministic": [score for score in scores if score.is_deterministic],
        "chance": [score for score in scores if not score.is_deterministic],
        "all": list(scores),
    }
    return {
        name: {
            candidate: mean_figures(found).as_json()
            for candidate in (EDIT, BARE, CEILING, UNEDITED, REROLL)
            if (found := [s.figures[candidate] for s in group if candidate in s.figures])
        }
        for name, group in groups.items()
        if group
    }


def _fixed_tables(scores: Sequence[Score], brief: bool) -> str:
    """Return the deterministic effects: each clip and effect, then means both ways, then one."""
    single = [] if brief else scores
    rows = [_fixed_row(f"{score.clip} {score.effect}", [score]) for score in single]
    rows += [_fixed_row(f"mean of {name}", group) for name, group in _groups(scores, _clip)]
    rows += [_fixed_row(f"mean of {name}", group) for name, group in _groups(scores, _effect)]
    rows.append(_fixed_row("mean", scores))
    title = "Deterministic effects: one right answer. PSNR against it in dB."
    return f"{title}\n" + _table(_fixed_head("clip and effect"), rows)


def _fixed_row(name: str, scores: Sequence[Score]) -> list[str]:
    values = [_mean_of(scores, candidate, "psnr") for candidate in _FIXED]
    gap = values[_FIXED.index(CEILING)] - values[_FIXED.index(EDIT)]
    return [name, *(_db(value) for value in (*values, gap))]


def _goal(scores: Sequence[Score]) -> str:
    edit, ceiling = (_mean_of(scores, name, "psnr") for name in (EDIT, CEILING))
    reached = edit >= GOAL_DB and ceiling - edit <= GOAL_GAP_DB
    return (
        f"Goal: at least {GOAL_DB:.0f} dB and at most {GOAL_GAP_DB:.0f} dB below the ceiling. "
        f"Found: {edit:.2f} dB, {ceiling - edit:.2f} dB below. "
        f"{'Reached' if reached else 'Missed'}."
    )


def _chance_tables(scores: Sequence[Score], brief: bool) -> str:
    """Return the effects with chance in them, a table for each figure, means over the clips."""
    titles = {
        "psnr": "PSNR in dB",
        "low_pass_psnr": "PSNR in dB of the mean colours of 8x8 pixels",
        "motion": "energy of the change from frame to frame, times the truth's (1 is right)",
        "detail": "energy of detail, times the truth's (1 is right)",
    }
    note = (
        "Effects with chance in them: the truth is rendered from the noise that the edit started "
        "from.\n'another roll': the same effect rendered with other drift and passed through the "
        "codec; an edit\nthat is no better puts its drops elsewhere."
    )
    tables, single = [note], [] if brief else scores
    for figure in _CHANCE_FIGURES:
        rows = [_chance_row(f"{s.clip} {s.effect}", [s], figure) for s in single]
        rows += [
            _chance_row(f"mean of {name}", group, figure)
            for name, group in _groups(scores, _effect)
        ]
        rows.append(_chance_row("mean", scores, figure))
        tables.append(f"{titles[figure]}\n" + _table(["clip and effect", *_CHANCE], rows))
    return "\n\n".join(tables)


def _chance_row(name: str, scores: Sequence[Score], figure: str) -> list[str]:
    return [name, *(_db(_mean_of(scores, candidate, figure)) for candidate in _CHANCE)]


def _fixed_head(first: str) -> list[str]:
    return [first, *_FIXED, "below ceiling"]


def _mean_of(scores: Sequence[Score], candidate: str, figure: str) -> float:
    """Return the mean of a figure; not a number where the candidate was not measured."""
    found = [score.figures[candidate] for score in scores if candidate in score.figures]
    return mean([getattr(figures, figure) for figures in found])


def _groups(scores: Sequence[Score], key: Callable[[Score], str]) -> list[tuple[str, list[Score]]]:
    """Return scores that share a key, in order of first appearance."""
    names = dict.fromkeys(key(score) for score in scores)
    return [(name, [score for score in scores if key(score) == name]) for name in names]


def _clip(score: Score) -> str:
    return score.clip


def _effect(score: Score) -> str:
    return score.effect


def _db(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in plain text; the first column to the left, figures to the right."""
    every = [head, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]
    lines = []
    for row in every:
        figures = (text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *figures]).rstrip())
    return "\n".join(lines)
