"""Where a benchmark runs, and how large."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Device and size of a run."""

    device: torch.device
    small: bool
    """True: sizes that take seconds, to see that it runs."""
    repeats: int = 7
    """Times that each way is timed; the median counts."""
