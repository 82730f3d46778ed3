"""What the benchmarks do with the pipelines' progress: keep quiet, or take the time."""

import sys
import time

from dcgrid.io.progress import NullProgress


class Silent(NullProgress):
    """Shows nothing but warnings."""

    def warn(self, line: str) -> None:
        """Show a warning."""
        print(f"warning: {line}", file=sys.stderr)


class StageTimes(Silent):
    """Takes the seconds of each stage: from its start to the start of the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage = ""
        self._since = 0.0

    def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        """End the stage before and begin this one."""
        self.stop()
        self._stage, self._since = stage, time.perf_counter()

    def stop(self) -> None:
        """End the last stage."""
        if self._stage:
            spent = time.perf_counter() - self._since
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + spent
        self._stage = ""
