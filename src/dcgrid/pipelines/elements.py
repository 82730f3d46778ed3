"""Clips of fire, sparks and the like that come with the program: what `compose` takes without a B.

They are made by `scripts/elements.py`: what `mini` learned to compose, six seconds of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dcgrid.errors import UsageError
from dcgrid.recipes import shipped_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementClip:
    """A clip of the program's own."""

    name: str
    """What `--concept` calls it."""
    phrase: str
    """What the prompt calls it."""
    motion: str
    """What it does."""

    @property
    def path(self) -> Path:
        """Its file."""
        return shipped_dir() / "elements" / f"{self.name}.mp4"


ELEMENT_CLIPS: Mapping[str, ElementClip] = MappingProxyType(
    {
        name: ElementClip(name=name, phrase=phrase, motion=motion)
        for name, phrase, motion in (
            ("sparks", "a shower of golden sparks", "spark motion"),
            ("fire", "a burning flame", "fire motion"),
            ("smoke", "a drift of smoke", "smoke motion"),
            ("snowflakes", "a fall of snowflakes", "snow motion"),
            ("raindrops", "a fall of rain", "rain motion"),
            ("ripples", "a ripple of water", "water motion"),
            ("light", "a moving light", "light motion"),
        )
    }
)
"""All of them, by name."""


def element_clip(name: str) -> ElementClip:
    """Return the clip that `--concept NAME` means where no second video is named.

    Raises:
        UsageError: There is none of that name.
    """
    known = ELEMENT_CLIPS.get(name.strip().lower())
    if known is None:
        problem = f"no clip of {name!r} comes with dcgrid" if name.strip() else "no B is named"
        raise UsageError(
            problem,
            hint=f"name a second video, or --concept with one of {', '.join(ELEMENT_CLIPS)}",
        )
    return known
