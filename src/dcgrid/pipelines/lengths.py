"""Texts that are longer than the model reads, found in the plan and named with what to shorten.

A cell's text is the layout's words, an effect's or the user's, side by side, so a few words of the
user can be too many. What is counted are the tokens of the model's own text encoder.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dcgrid.errors import PromptError
from dcgrid.models.base import ModelSpec
from dcgrid.models.text_count import TextCounter, text_counter
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.request import visible_rows
from dcgrid.pipelines.resolve import ResolvedGrid

_SHOWN = 100
"""Most characters of a text that a message quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A text that is encoded on its own."""

    owner: str
    """What it is about: "cell 2 (rain)", or the whole grid."""
    text: str


def check_lengths(
    job: GridJob, grids: Sequence[ResolvedGrid], spec: ModelSpec, tags: Sequence[str]
) -> str:
    """Check that the model reads the texts of all cells whole.

    Args:
        job: Names the model, and holds the user's words.
        grids: What is generated.
        spec: The model.
        tags: Tags that prompts may name.

    Returns:
        What a plan says if they cannot be counted before a download; else "".

    Raises:
        PromptError: A text is too long; the hint says what of it the user can shorten.
    """
    counter = text_counter(job.model, tags)
    if counter is None:
        return (
            f"Text: counted once {job.model} is downloaded; a cell reads at most "
            f"{spec.text_limit} tokens."
        )
    for grid in grids:
        for reader, row in _rows(grid, spec):
            for pieces in [row] if counter.whole_cell else [[piece] for piece in row]:
                _check(job, grid, spec, counter, reader, pieces)
    return ""


def _rows(grid: ResolvedGrid, spec: ModelSpec) -> Iterator[tuple[str, list[_Piece]]]:
    """Yield what each cell reads, and what guidance steers it away from, with the cell's name."""
    names = [f"cell {cell + 1} ({label})" for cell, label in enumerate(grid.labels)]
    owners = [
        "the whole grid" if segment.cell is None else names[segment.cell]
        for segment in grid.prompt.segments
    ]
    pieces = [
        _Piece(owner=owner, text=grid.prompt.segment_text(segment))
        for owner, segment in zip(owners, grid.prompt.segments, strict=True)
    ]
    for name, seen_S in zip(names, visible_rows(grid, spec), strict=True):
        yield name, [piece for piece, seen in zip(pieces, seen_S, strict=True) if seen]
    if spec.negative_text:
        for edit in grid.edits:
            owner = f"the negative text of {edit.name}"
            yield owner, [_Piece(owner=owner, text=edit.negative)]


def _check(
    job: GridJob,
    grid: ResolvedGrid,
    spec: ModelSpec,
    counter: TextCounter,
    reader: str,
    pieces: Sequence[_Piece],
) -> None:
    limit = spec.text_limit
    if sum(counter.most(piece.text) for piece in pieces) <= limit:
        return
    counts = [counter.of_segment(piece.text) for piece in pieces]
    if sum(counts) <= limit:
        return
    if len(pieces) == 1:
        problem = (
            f"the text for {pieces[0].owner} has {counts[0]} tokens, {spec.name} reads {limit}: "
            f"{_short(pieces[0].text)!r}"
        )
    else:
        listed = zip(pieces, counts, strict=True)
        parts = "; ".join(f"{one.owner} {count}, {_short(one.text)!r}" for one, count in listed)
        problem = f"{reader} reads {sum(counts)} tokens, {spec.name} reads {limit} a cell: {parts}"
    raise PromptError(problem, hint=_hint(job, grid, counter, pieces, sum(counts) - limit))


def _hint(
    job: GridJob, grid: ResolvedGrid, counter: TextCounter, pieces: Sequence[_Piece], over: int
) -> str:
    """Say how many tokens are the user's, by option, and which of them to shorten."""
    recipes = [(f"effect {edit.name}", edit.clause) for edit in grid.edits if edit.recipe]
    shares = dict[str, int]()
    for name, typed in (*job.typed, *recipes):
        words = " ".join(typed.split())
        pattern = rf"(?<!\w){re.escape(words)}(?!\w)"
        found = sum(len(re.findall(pattern, one.text, re.IGNORECASE)) for one in pieces)
        if words and found:
            shares[name] = shares.get(name, 0) + found * counter.of_words(words)
    if not shares:
        return f"these are words of recipes alone: use another --layout than {grid.layout_file}"
    told = ", ".join(f"{name} {count}" for name, count in shares.items())
    largest = max(shares, key=lambda name: shares[name])
    return f"of these tokens {told}; the rest are the layout's: shorten {largest} by {over} or more"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
