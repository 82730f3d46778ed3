"""What a rendered prompt is: one text, which part of it belongs to which cell, the tags it names.

Read `Prompt` first. Rendering (template.py) makes prompts; text encoders and grid/routing read
them. Nothing here knows about templates, tensors or models.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from dcgrid.errors import PromptError
from dcgrid.prompts.parser import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of characters of a prompt with one owner."""

    start: Annotated[int, Ge(0)]
    """First character, an index into `Prompt.text`; >= 0."""
    end: int
    """One past the last character; > start."""
    cell: Annotated[int, Ge(0)] | None
    """Index of the cell (row-major) that the text describes; None: global, read by every cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A rendered grid prompt. Segments are sorted, do not overlap and cover all but whitespace."""

    text: str
    """The whole prompt, as a person reads it."""
    segments: tuple[Segment, ...]
    """Who owns which characters."""
    negative: str = ""
    """What guidance steers away from; empty: the unconditional text."""

    def segment_text(self, segment: Segment) -> str:
        """Return the characters of one segment."""
        return self.text[segment.start : segment.end]


_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_SHOWN = 24
"""Most known tags that a hint lists."""


def named_tags(texts: Iterable[str]) -> tuple[str, ...]:
    """Return what stands in square brackets, without them, each once and in order."""
    names = (name for text in texts for name in _BRACKETS.findall(text))
    return tuple(dict.fromkeys(names))


def check_tags(texts: Iterable[str], known: Collection[str], *, hint: str) -> None:
    """See that every name in brackets is a known tag.

    Args:
        texts: Texts of cells, without the names of cells.
        known: Names of tags, without brackets.
        hint: What to do where no tag is known at all.

    Raises:
        PromptError: One is not: the model would read it as words that it may never have seen.
    """
    for text in texts:
        for name in named_tags([text]):
            if name in known:
                continue
            if not known:
                raise PromptError(
                    f"{text[:120]!r} names the tag [{name[:80]}], and no tags are loaded", hint=hint
                )
            listed = ", ".join(f"[{tag}]" for tag in list(known)[:_SHOWN])
            more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
            raise PromptError(
                f"{text[:120]!r} names [{name[:80]}], a tag that is not known"
                f"{nearest(name, known)}",
                hint=f"known tags: {listed}{more}",
            )
