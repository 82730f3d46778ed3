"""Contact sheets of compositions and stories, made by the very commands, from files to files.

Letters: T frames, H W height/width, C the 3 colours.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clips import read_frames
from benchmarks.progress import Silent
from benchmarks.stories import tell_scenes
from dcgrid.pipelines.elements import ELEMENT_CLIPS, element_clip
from dcgrid.pipelines.job import ComposeJob
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.run import run_plan
from scripts.sheets.make import write_small

FRAMES = 3
"""Frames of a clip on a sheet."""
SECONDS = 2.75
"""What of a pair is composed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two clips that are composed."""

    first: str
    """File name of clip A."""
    second: str
    """Name of an element clip that comes with the program, or the file name of clip B."""

    @property
    def picture(self) -> str:
        """File name of the sheet."""
        names = [name.rsplit(".", 1)[0].replace("_", "-") for name in (self.first, self.second)]
        return f"{'-'.join(names)}.webp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tale:
    """A story that is told of a clip."""

    clip: str
    """File name of the character's clip."""
    scenes: tuple[str, ...]
    """Effects, one a scene."""


PAIRS = (
    Pair(first="asl_book.mkv", second="sparks"),
    Pair(first="bigbuckbunny.mp4", second="fire"),
    Pair(first="sam2_dog.mp4", second="light"),
    Pair(first="flower.mp4", second="ripples"),
    Pair(first="asl_eat.mkv", second="smoke"),
    Pair(first="headpose_female.gif", second="flower.mp4"),
)
"""The compositions of docs/; all but the last with a clip that comes with the program."""
TALES = (
    Tale(clip="asl_book.mkv", scenes=("golden-hour", "rain", "night", "fire-glow")),
    Tale(clip="bigbuckbunny.mp4", scenes=("fog", "snow", "violet-night")),
    Tale(clip="sam2_dog.mp4", scenes=("golden-hour", "smoke", "blue-light", "snow")),
    Tale(clip="headpose_female.gif", scenes=("noir", "red-light", "underwater")),
)
"""The stories of docs/."""


def write_fusions(path: Path, pair: Pair, clips_dir: Path, seed: int) -> None:
    """Run `dcgrid compose` and write A, B and both fusions below each other.

    Raises:
        DcgridError: As the command.
    """
    with tempfile.TemporaryDirectory() as folder:
        first = clips_dir / pair.first
        second = clips_dir / pair.second
        words: Mapping[str, str] = {}
        if pair.second in ELEMENT_CLIPS:
            element = element_clip(pair.second)
            second = element.path
            words = {"concept": element.phrase, "concept_motion": element.motion}
        job = ComposeJob(
            first=first, second=second, seed=seed, out=Path(folder), contact_sheet=False,
            duration_s=SECONDS, **words,
        )  # fmt: skip
        result = run_plan(plan_run(prepare_run(job)), Silent())
        fusions = [read_frames(file) for file in result.files[:2]]
        count = len(fusions[0])
        rows = [read_frames(first)[:count], read_frames(second)[:count], *fusions]
    write_small(path, rows, ["A", "B", "fusion", "fusion-2"], FRAMES)


def write_tale(path: Path, tale: Tale, clips_dir: Path, seed: int) -> None:
    """Run `dcgrid story` and write the clip and its scenes below each other.

    Raises:
        DcgridError: As the command.
    """
    clip = clips_dir / tale.clip
    scenes = tell_scenes(clip, tale.scenes, seed, guided=True)
    source_THWC = read_frames(clip)[: len(scenes[0])]
    write_small(path, [source_THWC, *scenes], ["clip", *tale.scenes], FRAMES)


def films_page(title: str, pictures: Sequence[tuple[str, str]], command: str) -> str:
    """Return a page of pictures with a caption each."""
    lines = [f"# {title}", "", f"Made by `{command}`; do not edit. Credits: "
             "[pictures/CREDITS.md](pictures/CREDITS.md).", ""]  # fmt: skip
    for picture, caption in pictures:
        lines += [caption, "", f"![{caption}]({picture})", ""]
    return "\n".join(lines)
