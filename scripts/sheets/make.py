"""Make the pictures of docs/: edits of real clips as contact sheets, made by the very command.

Letters: T frames, H W height/width, C the 3 colours.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.clips import read_frames
from benchmarks.progress import Silent
from dcgrid.errors import OutputError
from dcgrid.io.atomic import whole_file
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.run import run_plan
from dcgrid.video.read import decode_all
from dcgrid.video.sheet import contact_sheet

SHEET_EFFECTS = ("rain", "night", "snow", "purple-smoke")
"""Edits of a contact sheet, below the original."""
SHEET_FRAMES = 3
MOVING_FPS, MOVING_QUALITY = 12, 62
"""Of pictures that play: frames a second, quality of WebP."""
LARGEST = 640
"""Longest side of a frame on a sheet, in pixels."""
QUALITY = 80
"""Of the WebP files, 0 to 100."""
TOGETHER = 3
"""Effects that one run edits a clip with."""


def write_sheet(path: Path, job: EditJob, effects: Sequence[str]) -> None:
    """Edit a clip and write the original and the edits below each other.

    Args:
        path: The WebP file; its folder is made.
        job: Names the clip, the model and all settings; its effects and files are not read.
        effects: Names of effects.

    Raises:
        DcgridError: As `dcgrid edit`.
    """
    source_THWC, edits = edit(job, effects)
    write_small(path, [source_THWC, *edits.values()], ["original", *edits], SHEET_FRAMES)


def write_effect(path: Path, job: EditJob, width: int = 320) -> None:
    """Edit a clip and write a moving picture: the clip and its edits side by side.

    Args:
        path: The WebP file; its folder is made.
        job: What to edit and how.
        width: Of each clip in it, in pixels.

    Raises:
        DcgridError: As `dcgrid edit`.
    """
    labels = ["your clip", *job.effects]
    with tempfile.TemporaryDirectory() as folder:
        made = replace(job, out=Path(folder), contact_sheet=False)
        files = run_plan(plan_run(prepare_run(made)), Silent()).files[: len(job.effects)]
        clips = [moments(job.input, job.start_s or 0.0), *map(moments, files)]
    count = min(map(len, clips))
    write_moving(path, [clip[:count] for clip in clips], labels, width)


def moments(path: Path, start_s: float = 0.0) -> list[Image.Image]:
    """Return the frames of a video that are on display at each twelfth of a second."""
    found: list[Image.Image] = []
    first_s = None
    for time_s, frame_HWC in decode_all(path):
        if time_s < start_s - 1e-3:
            continue
        first_s = time_s if first_s is None else first_s
        if time_s - first_s + 1e-3 >= len(found) / MOVING_FPS:
            found.append(Image.fromarray(frame_HWC.numpy()))
    return found


def write_moving(
    path: Path, clips: Sequence[Sequence[Image.Image]], labels: Sequence[str], width: int
) -> None:
    """Write clips of one length as one WebP file that plays, two in a row.

    Raises:
        OutputError: The file cannot be written.
    """
    _make_folder(path.parent)
    wide, high = clips[0][0].size
    size = (width, max(1, round(width * high / wide)))
    font = ImageFont.load_default(16)
    frames = []
    for pictures in zip(*clips, strict=True):
        frame = Image.new("RGB", (2 * size[0], -(-len(clips) // 2) * size[1]))
        for place, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            small = picture.resize(size, Image.Resampling.LANCZOS)
            pen = ImageDraw.Draw(small)
            pen.text((8, 5), label, "white", font, stroke_width=2, stroke_fill="black")
            frame.paste(small, ((place % 2) * size[0], (place // 2) * size[1]))
        frames.append(frame)
    with whole_file(path, overwrite=True) as part:
        frames[0].save(
            part, "webp", save_all=True, append_images=frames[1:],
            duration=round(1000 / MOVING_FPS), loop=0, quality=MOVING_QUALITY, method=6,
        )  # fmt: skip


def edit(job: EditJob, effects: Sequence[str]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Run `dcgrid edit`; return the frames of the clip and of each edit, at the clip's size."""
    edits = {}
    with tempfile.TemporaryDirectory() as folder:
        for first in range(0, len(effects), TOGETHER):
            chosen = tuple(effects[first : first + TOGETHER])
            one = replace(job, effects=chosen, out=Path(folder), contact_sheet=False)
            result = run_plan(plan_run(prepare_run(one)), Silent())
            edits |= {
                name: read_frames(file) for name, file in zip(chosen, result.files, strict=False)
            }
    count = len(next(iter(edits.values())))
    return read_frames(job.input)[:count], edits


def write_page(path: Path, text: str) -> None:
    """Write a page, all or nothing; its folder is made.

    Raises:
        OutputError: The page cannot be written.
    """
    _make_folder(path.parent)
    with whole_file(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")


def write_small(path: Path, clips: Sequence[Tensor], labels: Sequence[str], frames: int) -> None:
    """Write a contact sheet as a WebP file.

    Raises:
        OutputError: The file cannot be written.
    """
    _make_folder(path.parent)
    rows = [[_scaled(_spread(clip_THWC, frames), LARGEST)] for clip_THWC in clips]
    sheet_HWC = contact_sheet(rows, labels, frames_per_clip=frames)
    with whole_file(path, overwrite=True) as part:
        Image.fromarray(sheet_HWC.numpy()).save(part, "webp", quality=QUALITY, method=6)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise OutputError(
            f"the folder {folder} cannot be made ({reason})", hint="name another with --docs"
        ) from error


def _spread(clip_THWC: Tensor, count: int) -> Tensor:
    """Return frames at the middles of `count` equal parts: the first is rarely the best."""
    length = len(clip_THWC)
    return clip_THWC[[int((2 * part + 1) * length / (2 * count)) for part in range(count)]]


def _scaled(clip_THWC: Tensor, side: int) -> Tensor:
    """Scale a clip so that its longer side has `side` pixels at most."""
    height, width = clip_THWC.shape[1:3]
    factor = min(1.0, side / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    video_TCHW = rearrange(clip_THWC, "t h w c -> t c h w").float()
    scaled_TCHW = F.interpolate(video_TCHW, size, mode="bicubic", antialias=True)
    return rearrange(scaled_TCHW.round().clamp(0, 255).to(torch.uint8), "t c h w -> t h w c")
