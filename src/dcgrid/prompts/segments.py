"""What a rendered prompt is: one text, and which characters of it belong to which cell.

Read `Prompt` first. Rendering (prompts/template.py) makes prompts; text encoders and
grid/visibility read them. Nothing here knows about templates, tensors or models.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge


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
