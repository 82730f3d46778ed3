"""The table of docs/results.md: for each question two variants, and the difference seed by seed."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.ablations.variants import QUESTIONS, VARIANTS, Question
from dcgrid.errors import UsageError

Scores = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Figures by variant, seed and name."""
_SHOWN = {
    "fill": ("subject 1", "outside 1", "subject 6", "outside 6"),
    "moved": (
        "moved 1",
        "identity 1",
        "left 1",
        "analogy 1",
        "analogy identity 1",
        "moved 6",
        "identity 6",
        "left 6",
        "analogy 6",
        "analogy identity 6",
    ),
    "composition": ("leak of B in A", "leak of A in B", "subject of A", "outside of A", "all of B"),
}


def read_scores(work: Path) -> Scores:
    """Read the figures that are there.

    Raises:
        UsageError: There are none, or they are of runs of different length.
    """
    scores: dict[str, dict[int, dict[str, float]]] = {}
    lengths = set()
    for path in sorted(work.glob("*-*.json")):
        row = json.loads(path.read_text())
        lengths.add((row["steps"], row["clips"]))
        scores.setdefault(row["variant"], {})[row["seed"]] = row["figures"]
    if not scores:
        raise UsageError(f"no figures in {work}", hint="python -m benchmarks.ablations --work DIR")
    if len(lengths) > 1:
        raise UsageError(
            f"{work} holds runs of different steps or clips: {sorted(lengths)}",
            hint="use another --work",
        )
    return scores


def report(work: Path) -> str:
    """Return both tables as Markdown: every variant, and every question."""
    scores = read_scores(work)
    lines: list[str] = []
    for family, names in _SHOWN.items():
        found = [v.name for v in VARIANTS if v.family == family and v.name in scores]
        if found:
            lines.append(f"| {family} | seeds | " + " | ".join(names) + " |")
            lines.append("|---" * (len(names) + 2) + "|")
            lines += [_variant_line(name, scores[name], names) for name in found]
            lines.append("")
    lines.append("| question | claim | figure | first | second | difference, by seed |")
    lines.append("|---" * 6 + "|")
    for question in QUESTIONS:
        lines += _question_lines(question, scores)
    return "\n".join(lines)


def _variant_line(name: str, seeds: Mapping[int, Mapping[str, float]], shown: Sequence[str]) -> str:
    cells = [_spread(key, [f[key] for f in seeds.values() if key in f]) for key in shown]
    return f"| {name} | {len(seeds)} | " + " | ".join(cells) + " |"


def _question_lines(question: Question, scores: Scores) -> list[str]:
    first, second = scores.get(question.first, {}), scores.get(question.second, {})
    both = sorted(set(first) & set(second))
    if not both:
        return []
    family = next(v.family for v in VARIANTS if v.name == question.first)
    lines: list[str] = []
    for key in _SHOWN[family]:
        there = [seed for seed in both if key in first[seed] and key in second[seed]]
        if not there:
            continue
        before, after = [first[s][key] for s in there], [second[s][key] for s in there]
        differences = [b - a for a, b in zip(before, after, strict=True)]
        told = ", ".join(f"{d:+.{_places(key)}f}" for d in differences)
        head = f"{question.asks} | {question.claim}" if not lines else " | "
        lines.append(
            f"| {head} | {key} | {_spread(key, before)} | {_spread(key, after)} "
            f"| {statistics.fmean(differences):+.{_places(key)}f} ({told}) |"
        )
    return lines


def _places(key: str) -> int:
    """Return how many decimals a figure is worth: shares and correlations, or dB."""
    return 3 if key.startswith("leak") or "identity" in key else 2


def _spread(key: str, values: Sequence[float]) -> str:
    """Return mean and standard deviation."""
    if not values:
        return ""
    spread, places = statistics.stdev(values) if len(values) > 1 else 0.0, _places(key)
    return f"{statistics.fmean(values):.{places}f} ± {spread:.{places}f}"
