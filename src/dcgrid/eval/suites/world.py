"""Clips of the procedural world for suites: a subject that moves, and where it is.

    FOLDER/01-dog-face.mp4   masks/01-dog-face.mp4 (white: the subject)   captions.toml

The truth of an effect is rendered on the file as it is read back, so compression costs nothing.

Letters: C channels, T H W frames/height/width.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dcgrid.errors import OutputError, UsageError
from dcgrid.eval.suites.compared_frames import to_pixels, to_unit
from dcgrid.eval.suites.eval_clips import CAPTIONS, MASKS
from dcgrid.io.atomic import write_whole
from dcgrid.models.drift import RATE
from dcgrid.synthetic.animation import camera_move, composite_sprite
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import pick
from dcgrid.video.clip import ClipRules
from dcgrid.video.pixels import unit_of
from dcgrid.video.read import read_clip
from dcgrid.video.write import write_video

FRAMES, SIZE = 49, (288, 512)
"""Frames (4 s at 12 a second), height and width of a clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldJob:
    """Which clips are drawn."""

    store: Path
    """Folder of the world's pictures."""
    out: Path
    """Folder of the clips; must not hold any yet."""
    count: int = 6
    """How many."""
    seed: int = 0
    """Seed of everything that is drawn."""
    grounds: Sequence[Path] = ()
    """Real clips that subjects move over, in turn; none: photographs of the world."""


def draw_clips(job: WorldJob) -> tuple[Path, ...]:
    """Draw clips, their masks and captions.

    Returns:
        The clips.

    Raises:
        WeightsError: The world's pictures are not here.
        UsageError: The count is out of range.
        OutputError: The folder holds clips already, or cannot be written.
        InputVideoError: A real clip cannot be read.
    """
    if not 1 <= job.count <= 999:
        raise UsageError(f"--count {job.count} is out of range", hint="use --count 1 to 999")
    store = WorldStore(job.store)
    try:
        (job.out / MASKS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write in {job.out}: {error}", hint="use another --out"
        ) from error
    if (job.out / CAPTIONS).exists():
        raise OutputError(f"{job.out} holds clips already", hint="use another --out, or remove it")
    paths, captions = [], []
    for number in range(job.count):
        generator = torch.Generator().manual_seed(1_000_003 * job.seed + number)
        names = store.names["sprites"]
        name = names[pick(len(names), generator)]
        sprite_TCHW = unit_of(store.get("sprites", name))
        ground_CTHW = _ground(job, store, number, generator)
        clip_CTHW, alpha_1THW = composite_sprite(ground_CTHW, sprite_TCHW, generator=generator)
        words = " ".join(re.sub(r"[^a-z0-9 ]", " ", name).split())
        path = job.out / f"{number + 1:02d}-{words.replace(' ', '-')[:40]}.mp4"
        write_video(path, to_pixels(clip_CTHW), RATE, overwrite=True)
        mask_CTHW = (alpha_1THW > 0.5).float().expand(3, -1, -1, -1)
        write_video(job.out / MASKS / path.name, to_pixels(mask_CTHW), RATE, overwrite=True)
        captions.append(f'["{path.name}"]\nsubject = "{words}"\nmotion = "movement"\n')
        paths.append(path)
    write_whole(job.out / CAPTIONS, "\n".join(captions))
    return tuple(paths)


def _ground(job: WorldJob, store: WorldStore, number: int, generator: torch.Generator) -> Tensor:
    """Return what a subject moves over, CTHW in [0, 1]."""
    if not job.grounds:
        names = store.names["photos"]
        photo_CHW = store.get("photos", names[pick(len(names), generator)])
        return camera_move(unit_of(photo_CHW), FRAMES, SIZE, generator)
    rules = ClipRules(
        fps=RATE, stride=1, max_frames=FRAMES, cell_sizes=(SIZE,), default_frames=FRAMES
    )
    clip, _ = read_clip(job.grounds[number % len(job.grounds)], rules)
    return to_unit(clip.frames_THWC)
