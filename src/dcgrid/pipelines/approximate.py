"""What may be left out of a sampling at the price of other pixels. All of it is off by default.

An effect recipe turns it on in its [sampler] table; the manifest of a run says so under `sampler`.
No figure is promised: what it costs in quality depends on model, clip and text.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """What is left out."""

    guidance_until: float = 0.0
    """Flow time, 0..1, below which there is no guidance: one call a step there in place of two; 0:
    there is guidance in every step."""
    cache_threshold: float = 0.0
    """Share, 0..1, by which the change of the first block may differ from the last whole call's for
    all other blocks to be left out; 0: never. It is looked at in generated cells only."""


def agreed(wishes: Iterable[tuple[float | None, float | None]]) -> Shortcuts:
    """Return the shortcuts of a grid, which its edits share: as far as each of them allows.

    Args:
        wishes: `guidance_until` and `cache_threshold` of each edit; None: it allows none.
    """
    untils, thresholds = zip(*((a or 0.0, b or 0.0) for a, b in wishes), strict=True)
    return Shortcuts(guidance_until=min(untils), cache_threshold=min(thresholds))
