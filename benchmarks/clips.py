"""Which real clips are measured, and that training saw none of them.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dcgrid.errors import InputVideoError, UsageError
from dcgrid.models.base import ModelSpec
from dcgrid.pipelines.clips import one_pass_rules
from dcgrid.pipelines.job import check_input
from dcgrid.synthetic.mattes import Matting
from dcgrid.synthetic.sources import TRAINING_CLIPS
from dcgrid.video.read import decode_all, read_clip

CLIPS_DIR = Path(__file__).parents[2] / "shared" / "clips"
"""Where the clips are: beside the checkout."""

HELD_OUT = (
    "asl_book.mkv",
    "asl_again.mkv",
    "asl_eat.mkv",
    "bikes.mp4",
    "cockatoo.mp4",
    "flower.mp4",
    "sam2_dog.mp4",
    "bigbuckbunny.mp4",
    "carphone.mp4",
    "rabbit320.mp4",
    "cogvideo_kitten.mp4",
    "phone_white_dog_1080p_vfr.mp4",
)
"""The clips that scores are given for. Left out: more takes of the same three people, the same
footage in another container, files that are about their format (edge_*)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchClip:
    """One clip, at the size and rate that the model is given."""

    path: Path
    """The file."""
    frames_THWC: torch.Tensor
    """RGB, uint8."""
    matte_THW: torch.Tensor | None = None
    """Where its person is, in [0, 1]; None: nobody, or not known."""


def find_clips(names: Sequence[str], folder: Path = CLIPS_DIR, *, allow_seen: bool) -> list[Path]:
    """Return the files that names stand for.

    Args:
        names: Paths, or names of files in `folder`; none: `HELD_OUT`.
        folder: Where named clips are.
        allow_seen: True: take clips that training saw, too.

    Raises:
        InputVideoError: A file does not exist or cannot be read.
        UsageError: Training saw a clip and `allow_seen` is False.
    """
    paths = [_find(name, folder) for name in names or HELD_OUT]
    seen = [path.name for path in paths if is_seen(path)]
    if seen and not allow_seen:
        raise UsageError(
            f"training may have seen {', '.join(seen)}: its score would prove nothing",
            hint="leave it out, or add --allow-seen (dcgrid.synthetic.sources.TRAINING_CLIPS)",
        )
    return paths


def is_seen(path: Path) -> bool:
    """Return True if training may have seen this footage, in this container or another."""
    # The same footage lies there in several containers: stream_of_water.mp4 and .webm.
    return path.stem in {Path(name).stem for name in TRAINING_CLIPS}


def read_frames(path: Path) -> Tensor:
    """Return all frames of a file as they are, THWC, uint8; they must fit in memory."""
    return torch.stack([frame_HWC for _, frame_HWC in decode_all(path)])


def read_bench_clip(
    path: Path, spec: ModelSpec, duration_s: float | None = None, network: Path | None = None
) -> BenchClip:
    """Read a clip at the size of a cell, cropped to it.

    Args:
        path: The video file.
        spec: The model that will be given the clip.
        duration_s: Seconds from the start; None: the model's default.
        network: Makes its matte; None: it has none.

    Raises:
        InputVideoError: Not a readable video.
    """
    clip, _ = read_clip(path, one_pass_rules(spec), duration_s=duration_s)
    matte_THW = find_matte(clip.frames_THWC, network)
    return BenchClip(path=path, frames_THWC=clip.frames_THWC, matte_THW=matte_THW)


def _find(name: str, folder: Path) -> Path:
    for path in (Path(name), folder / name):
        if path.exists():
            check_input(path)
            return path
    raise InputVideoError(
        f"{name} is neither a file nor a clip in {folder}",
        hint="name video files, or say where the clips are with --clips-dir",
    )


def find_matte(frames_THWC: Tensor, network: Path | None) -> Tensor | None:
    """Return the matte of the person in a clip, THW in [0, 1]; None: nobody, or no network.

    Args:
        frames_THWC: The clip, uint8.
        network: File of the network that makes mattes.
    """
    if network is None:
        return None
    return Matting(network)(frames_THWC.permute(3, 0, 1, 2).float() / 255)
