"""Contact sheets of compositions and stories, made by the very commands, from files to files.

Letters: T frames, H W height/width, C the 3 colours.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.clips import read_frames
from benchmarks.progress import Silent
from benchmarks.sheets.make import write_small
from dcgrid.models.loading import model_spec
from dcgrid.pipelines.job import ComposeJob
from dcgrid.pipelines.plan import clip_rules, plan_run, prepare_run
from dcgrid.pipelines.run import carry_out
from dcgrid.pipelines.script import Scene, StoryJob
from dcgrid.pipelines.story import plan_story, prepare_story, tell_story
from dcgrid.train.world.fusion import ELEMENTS, draw_element
from dcgrid.video.read import read_clip
from dcgrid.video.write import write_video

FRAMES, MOST_BYTES = 4, 200_000
"""Frames of a clip on a sheet, and how large its file may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two clips that are composed."""

    first: str
    """File name of clip A."""
    second: str
    """Key of `fusion.ELEMENTS`, or the file name of clip B."""

    @property
    def picture(self) -> str:
        """File name of the sheet."""
        names = [name.rsplit(".", 1)[0].replace("_", "-") for name in (self.first, self.second)]
        return f"{'-'.join(names)}.png"


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
"""The compositions of docs/; all but the last with an element that the world draws."""
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
        words = {}
        if pair.second in ELEMENTS:
            second = _drawn(pair.second, first, Path(folder), seed)
            element = ELEMENTS[pair.second]
            words = {"concept": element.phrases[0], "concept_motion": element.motion}
        job = ComposeJob(
            first=first, second=second, seed=seed, out=Path(folder), contact_sheet=False,
            save_grid=True, **words,
        )  # fmt: skip
        result = carry_out(plan_run(prepare_run(job)), Silent())
        fusions = [read_frames(file) for file in result.files[:2]]
        grid_THWC = read_frames(result.files[2])
    height, width = fusions[0].shape[1:3]
    rows = [grid_THWC[:, :height, :width], grid_THWC[:, :height, width:], *fusions]
    write_small(path, rows, ["A", "B", "fusion", "fusion-2"], FRAMES, MOST_BYTES)


def write_tale(path: Path, tale: Tale, clips_dir: Path, seed: int) -> None:
    """Run `dcgrid story` and write the clip and its scenes below each other.

    Raises:
        DcgridError: As the command.
    """
    clip = clips_dir / tale.clip
    with tempfile.TemporaryDirectory() as folder:
        job = StoryJob(
            name="tale",
            folder=Path(folder),
            source=clip,
            scenes=tuple(Scene(effect=name) for name in tale.scenes),
            seed=seed,
            contact_sheet=False,
        )
        result = tell_story(plan_story(prepare_story(job)), Silent())
        scenes = [read_frames(file) for file in result.files[: len(tale.scenes)]]
    given, _ = read_clip(clip, clip_rules(model_spec("mini")))
    write_small(path, [given.frames_THWC, *scenes], ["clip", *tale.scenes], FRAMES, MOST_BYTES)


def films_page(title: str, pictures: Sequence[tuple[str, str]], command: str) -> str:
    """Return a page of pictures with a caption each."""
    lines = [f"# {title}", "", f"Made by `{command}`; do not edit. Credits: "
             "[pictures/CREDITS.md](pictures/CREDITS.md).", ""]  # fmt: skip
    for picture, caption in pictures:
        lines += [caption, "", f"![{caption}]({picture})", ""]
    return "\n".join(lines)


def _drawn(element: str, like: Path, folder: Path, seed: int) -> Path:
    """Write an element of the world as a clip of the size that the model takes `like` at."""
    clip, _ = read_clip(like, clip_rules(model_spec("mini")))
    like_CTHW = clip.frames_THWC.permute(3, 0, 1, 2).float() / 255
    seconds_T = torch.arange(like_CTHW.shape[1]) / float(clip.fps)
    drawn_CTHW = draw_element(element, like_CTHW, seconds_T, torch.Generator().manual_seed(seed))
    frames_THWC = (drawn_CTHW * 255).round().to(torch.uint8).permute(1, 2, 3, 0)
    write_video(folder / f"{element}.mp4", frames_THWC, clip.fps)
    return folder / f"{element}.mp4"
