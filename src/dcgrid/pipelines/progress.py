"""How pipelines tell what they are doing; the command line shows it, tests collect it."""

from typing import Protocol


class Progress(Protocol):
    """Receives stages, steps and remarks."""

    def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        """Begin a stage with so many steps (None: unknown), which may be bytes."""

    def update(self, done: int, total: int | None = None) -> None:
        """Tell how many steps of the present stage are done."""

    def note(self, line: str) -> None:
        """Tell something about the work, one line."""

    def warn(self, line: str) -> None:
        """Tell something that may make the result worse, one line."""


class Silent:
    """Tells nobody: somebody else shows how far the work is."""

    def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        """Begin a stage."""

    def update(self, done: int, total: int | None = None) -> None:
        """Tell how many steps are done."""

    def note(self, line: str) -> None:
        """Tell something about the work."""

    def warn(self, line: str) -> None:
        """Tell something that may make the result worse."""
