"""Words that a small model never learned, found in the plan.

A model whose vocabulary is a list of words reads any other word as "unknown". An edit of which it
knows nothing would be whatever it makes of no text; so that is refused.
"""

from collections.abc import Sequence

from dcgrid.errors import PromptError
from dcgrid.models.base import ModelSpec
from dcgrid.models.text_count import word_tokenizer
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.lengths import check_lengths
from dcgrid.pipelines.resolve import ResolvedGrid, recipe_notes
from dcgrid.recipes import effect_names

_EMPTY = frozenset(
    (
        "a", "an", "and", "as", "at", "by", "for", "from", "in", "into", "is", "it", "near", "of",
        "on", "or", "out", "over", "same", "that", "the", "this", "to", "two", "under", "up",
        "whole", "with", "without",
    )
)  # fmt: skip
"""Words that say nothing of an edit on their own."""


def check_words(job: GridJob, grids: Sequence[ResolvedGrid], tags: Sequence[str]) -> str:
    """Check that the model knows at least one word of every edit in the user's own words.

    Args:
        job: Names the model, and holds the user's words.
        grids: What is generated.
        tags: Tags that prompts may name.

    Returns:
        What a plan says of words that it does not know; else "".

    Raises:
        PromptError: It knows no word of an edit.
    """
    tokenizer = word_tokenizer(job.model, tags)
    if tokenizer is None:
        return ""
    for edit in (edit for grid in grids for edit in grid.edits if not edit.recipe):
        unknown = set(tokenizer.unknown_words(edit.clause))
        words = [edit.clause[t.start : t.end].lower() for t in tokenizer.tokens(edit.clause)]
        if unknown and not any(word not in unknown | _EMPTY for word in words):
            raise PromptError(
                f"{job.model} knows no word of {edit.clause!r}",
                hint=f"it knows those of its effects: {', '.join(effect_names())}; or name a "
                "larger model with --model",
            )
    unknown_words = ", ".join(map(repr, tokenizer.unknown_words(job.words)))
    if not unknown_words:
        return ""
    return f"Text: {job.model} does not know {unknown_words}; it changes nothing."


def check_text(
    job: GridJob, grids: Sequence[ResolvedGrid], spec: ModelSpec, tags: Sequence[str]
) -> tuple[str, ...]:
    """Check that the model reads the texts of all cells whole, and knows what edits are about.

    Returns:
        What a plan says of them.

    Raises:
        PromptError: A text is too long, or the model knows no word of an edit.
    """
    notes = check_lengths(job, grids, spec, tags), check_words(job, grids, tags)
    return (*(note for note in notes if note), *recipe_notes(grids))
