"""The rich console of tables and progress bars: what it shows is cleaned as every other line is.

Imported where one is needed, for rich costs time.
"""

import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from dcgrid.cli.output import printable


class CleanConsole(Console):
    """A console on the stdout, or stderr, of this moment (tests replace them)."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(file=sys.stderr if stderr else sys.stdout, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the pieces of what is shown, without control characters of others."""
        for piece in super().render(renderable, options):
            if piece.control:
                yield piece
            else:
                lines = piece.text.split("\n")  # rich's own
                yield Segment("\n".join(map(printable, lines)), piece.style)
