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
from PIL import Image
from torch import Tensor

from benchmarks.clips import read_frames
from benchmarks.progress import Silent
from dcgrid.errors import OutputError
from dcgrid.io.atomic import whole_file
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.run import run_plan
from dcgrid.video.sheet import contact_sheet

SHEET_EFFECTS = ("rain", "night", "snow", "purple-smoke")
"""Edits of a contact sheet, below the original."""
SHEET_FRAMES, PREVIEW_FRAMES = 3, 2
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


def write_previews(folder: Path, job: EditJob, effects: Sequence[str]) -> list[Path]:
    """Edit a clip with every effect and write one picture each: the original, then the edit.

    Args:
        folder: Where `<effect>.webp` go; it is made.
        job: As for `write_sheet`.
        effects: Names of effects.

    Returns:
        The files.

    Raises:
        DcgridError: As `dcgrid edit`.
    """
    paths = []
    source_THWC, edits = edit(job, effects)
    for name, edit_THWC in edits.items():
        paths.append(folder / f"{name}.webp")
        write_small(paths[-1], [source_THWC, edit_THWC], ["original", name], PREVIEW_FRAMES)
    return paths


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
