"""Texts of a job, checked in the plan: too long, of unknown words, or naming unknown tags.

A cell's text is the layout's words, an effect's or the user's, side by side, so a few words of the
user can be too many; the message names what to shorten. What is counted are the tokens of the
model's own text encoder. A model whose vocabulary is a list of words reads any other word as
"unknown"; an edit of which it knows nothing would be whatever it makes of no text, so that is
refused.

`--concepts` names the tags of a Multi-DC LoRA that prompts may use: the file that stage dc writes
beside its LoRA. Where prompts name tags and no file is named, it is looked for beside the LoRAs and
the adapter of the job.

    dcgrid edit cat.mp4 --subject "a cat [Cat_identity]" --effect rain --lora runs/dc.safetensors
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from shlex import quote
from typing import Any

from dcgrid import hub
from dcgrid.adapters.find import require_file
from dcgrid.adapters.reading import read_spec
from dcgrid.errors import PromptError
from dcgrid.models.base import ModelSpec
from dcgrid.models.model import Model, TextCounter
from dcgrid.models.tags import TOKENS_NAME, check_width, read_tags
from dcgrid.pipelines.job import GridJob, parse_lora
from dcgrid.pipelines.resolve import ResolvedGrid, recipe_notes
from dcgrid.pipelines.sampling import visible_rows
from dcgrid.prompts.segments import check_tags, named_tags
from dcgrid.recipes import effect_names

_EMPTY = frozenset(
    (
        "a", "an", "and", "as", "at", "by", "for", "from", "in", "into", "is", "it", "near", "of",
        "on", "or", "out", "over", "same", "that", "the", "this", "to", "two", "under", "up",
        "whole", "with", "without",
    )
)  # fmt: skip
"""Words that say nothing of an edit on their own."""
_SHOWN = 100
"""Most characters of a text that a message quotes."""


def check_text(
    job: GridJob, model: Model, grids: Sequence[ResolvedGrid], tags: Sequence[str]
) -> tuple[str, ...]:
    """Check that the model reads the texts of all cells whole, and knows what edits are about.

    Returns:
        What a plan says of them.

    Raises:
        PromptError: A text is too long, or the model knows no word of an edit.
    """
    notes = check_lengths(job, model, grids, tags), check_words(job, model, grids, tags)
    return (*(note for note in notes if note), *recipe_notes(grids))


def check_words(
    job: GridJob, model: Model, grids: Sequence[ResolvedGrid], tags: Sequence[str]
) -> str:
    """Check that the model knows at least one word of every edit in the user's own words.

    Args:
        job: Holds the user's words.
        model: The model.
        grids: What is generated.
        tags: Tags that prompts may name.

    Returns:
        What a plan says of words that it does not know; else "".

    Raises:
        PromptError: It knows no word of an edit.
    """
    tokenizer = model.word_tokenizer(tags)
    if tokenizer is None:
        return ""
    for edit in (edit for grid in grids for edit in grid.edits if not edit.recipe):
        unknown = set(tokenizer.unknown_words(edit.clause))
        words = [edit.clause[t.start : t.end].lower() for t in tokenizer.tokens(edit.clause)]
        if unknown and not any(word not in unknown | _EMPTY for word in words):
            raise PromptError(
                f"{model.name} knows no word of {edit.clause!r}",
                hint=f"it knows those of its effects: {', '.join(effect_names())}; or name a "
                "larger model with --model",
            )
    unknown_words = ", ".join(map(repr, tokenizer.unknown_words(job.words)))
    if not unknown_words:
        return ""
    return f"Text: {model.name} does not know {unknown_words}; it changes nothing."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A text that is encoded on its own."""

    owner: str
    """What it is about: "cell 2 (rain)", or the whole grid."""
    text: str


def check_lengths(
    job: GridJob, model: Model, grids: Sequence[ResolvedGrid], tags: Sequence[str]
) -> str:
    """Check that the model reads the texts of all cells whole.

    Args:
        job: Holds the user's words.
        model: The model.
        grids: What is generated.
        tags: Tags that prompts may name.

    Returns:
        What a plan says if they cannot be counted before a download; else "".

    Raises:
        PromptError: A text is too long; the hint says what of it the user can shorten.
    """
    counter, spec = model.text_counter(tags), model.spec
    if counter is None:
        return (
            f"Text: counted once {model.name} is downloaded; a cell reads at most "
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
    counts = ", ".join(f"{name} {count}" for name, count in shares.items())
    largest = max(shares, key=lambda name: shares[name])
    return (
        f"of these tokens {counts}; the rest are the layout's: shorten {largest} by {over} or more"
    )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


_HINT = (
    f"--concepts FILE, the {TOKENS_NAME} of a trained Multi-DC LoRA, or write it without brackets"
)
_SHOWN_TAGS = 6
"""Tags that a plan names; the rest are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concepts:
    """The tags of a job."""

    reference: str = ""
    """Reference of their file; empty: no tag is known."""
    names: tuple[str, ...] = ()
    """Tags without brackets; empty: none, or the file has to be downloaded first."""
    remark: str = ""
    """What to expect of tags that nothing here was trained with; empty: something was."""

    def lines(self) -> list[str]:
        """Return the tags of a plan as sentences; nothing where there are none."""
        if not self.reference:
            return []
        if not self.names:
            return [f"Concepts: {self.reference}; its tags are checked once it is downloaded."]
        listed = ", ".join(f"[{name}]" for name in self.names[:_SHOWN_TAGS])
        more = f" and {len(self.names) - _SHOWN_TAGS} more" if len(self.names) > _SHOWN_TAGS else ""
        known = f"Concepts: {self.reference} knows the tags {listed}{more}."
        return [known, *([f"Warning: {self.remark}"] if self.remark else [])]

    def as_json(self) -> dict[str, Any]:
        """Return the tags for programs."""
        return {"file": self.reference, "tags": list(self.names), "warning": self.remark}


def plan_concepts(
    job: GridJob,
    model: Model,
    grids: Sequence[ResolvedGrid],
    adapters: Sequence[str],
    *,
    repeats: bool = False,
) -> Concepts:
    """Find the tags of a job and check that its prompts name no others.

    Args:
        job: Names the file, or LoRAs beside which it may be.
        model: The model.
        grids: What is generated.
        adapters: References of the Grid-Fill and Grid adapters; "none" is none.
        repeats: True: a run is repeated, whose texts are read as they were.

    Raises:
        AdapterError: The file does not exist, or an adapter is damaged.
        WeightsError: The file is damaged, holds no tags, or tags for another text encoder.
        PromptError: A prompt names a tag that is not known.
    """
    named = named_tags(texts_of(job, grids))
    reference = job.concepts
    if not reference and named and not repeats:
        reference = _beside(job, adapters)
    if not reference:
        if not repeats:
            check_tags(texts_of(job, grids), (), hint=_HINT)
        return Concepts()
    require_file(reference, kind="file of concepts")
    path = hub.locate_weights(reference)
    if path is None:
        return Concepts(reference=reference)
    tags = read_tags(path)
    check_width(path, tags, model.text_width)
    if not repeats:
        check_tags(texts_of(job, grids), tags.names, hint=_HINT)
    remark = _remark(job, named, adapters, reference) if named else ""
    return Concepts(reference=reference, names=tags.names, remark=remark)


def texts_of(job: GridJob, grids: Sequence[ResolvedGrid]) -> list[str]:
    """Return the texts of a job that may name tags: all but the layout's own words."""
    edits = [edit for grid in grids for edit in grid.edits]
    return [*job.slots.values(), *(text for edit in edits for text in (edit.clause, edit.negative))]


def check_named(job: GridJob, grids: Sequence[ResolvedGrid], known: Sequence[str]) -> None:
    """Check the prompts of a job against the tags of a file that came with a download.

    Raises:
        PromptError: A prompt names a tag that is not known.
    """
    check_tags(texts_of(job, grids), known, hint=_HINT)


def _beside(job: GridJob, adapters: Sequence[str]) -> str:
    """Return the file of tags beside a LoRA or an adapter of the job; "" if there is none."""
    loras = [parse_lora(text).reference for text in job.loras]
    names = [(one, f"{PurePath(one).stem}-tokens.safetensors") for one in loras]
    names += [(one, TOKENS_NAME) for one in (*loras, *adapters)]
    for reference, name in names:
        parsed = hub.parse_reference(reference)
        if reference == "none" or parsed.source == "hub":
            continue
        near = str(PurePath(parsed.path).parent / name)
        near = f"package:{near}" if parsed.source == "package" else near
        if hub.locate_weights(near) is not None:
            return near
    return ""


def _remark(job: GridJob, named: Sequence[str], adapters: Sequence[str], reference: str) -> str:
    """Return what to expect of named tags if neither Multi-DC acts nor an adapter knows them."""
    asked = {f"[{name}]" for name in named}
    active = [one.reference for one in map(parse_lora, job.loras) if one.strength]
    for one in (*active, *adapters):
        path = None if one == "none" else hub.locate_weights(one)
        spec = None if path is None else read_spec(path)
        if (spec is not None and asked <= set(spec.tokens)) or (path is None and one != "none"):
            return ""
    near = str(PurePath(reference).parent / "dc.safetensors")
    lora = near if hub.locate_weights(near) is not None else "FILE"
    return (
        f"{', '.join(sorted(asked))}: a tag is trained together with its Multi-DC LoRA, which does "
        "not act here, and the adapter was trained without it; it may change little, or for the "
        f"worse. To let the LoRA act: --lora {quote(lora)}"
    )
