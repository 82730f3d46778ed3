"""Videos of a study: all written anew alike, so that nothing about a file tells who made it.

A copy of the bytes would not do: size, encoder, sound and comments of a file tell the method that
wrote it. Letters: T frames, H height, W width; the last 3 are red, green, blue.
"""

import os
from pathlib import Path

import torch
from torch.nn import functional as F

from dcgrid.eval.study.order import Draw
from dcgrid.video.clip import Clip, ClipRules
from dcgrid.video.probe import probe
from dcgrid.video.read import read_clip
from dcgrid.video.write import write_video

MOST_FRAMES = 900
"""Frames of a video that are shown: half a minute at 30 a second; the rest is cut off."""

_MOST_FPS = 60.0
_FPS_OF_A_STILL = 10.0
# Squares of a twelfth of the shorter side: a face is a few of them.
_SQUARES = 12
# The same for all: the order of writing would tell which file is whose.
_MODIFIED_S = 1_000_000_000


def read_shown(path: Path) -> Clip:
    """Read a video as it is shown: its own size and rate, at most `MOST_FRAMES` frames.

    Raises:
        InputVideoError: It is missing or cannot be read.
    """
    info = probe(path)
    rules = ClipRules(
        fps=min(info.fps_avg or _FPS_OF_A_STILL, _MOST_FPS),
        stride=1,
        max_frames=MOST_FRAMES,
        cell_sizes=((info.height, info.width),),
    )
    return read_clip(path, rules)[0]


def write_shown(path: Path, clip: Clip) -> None:
    """Write a video for the page: no sound, no comment, a time of change that says nothing.

    Raises:
        OutputError: It cannot be written.
    """
    write_video(path, clip.frames_THWC, clip.fps)
    os.utime(path, (_MODIFIED_S, _MODIFIED_S))


def damage(frames_THWC: torch.Tensor, seed: int) -> torch.Tensor:
    """Return a copy in which neither identity nor motion is left: coarse squares, shuffled frames.

    Args:
        frames_THWC: RGB, uint8, shape (T, H, W, 3).
        seed: What the order of frames is drawn with.
    """
    order = Draw(seed).shuffled(range(len(frames_THWC)))
    height, width = frames_THWC.shape[1:3]
    side = max(1, min(height, width) // _SQUARES)
    few = (max(1, height // side), max(1, width // side))
    coarse = []
    for index in order:
        frame_1CHW = frames_THWC[index].permute(2, 0, 1)[None].float()
        squares_1CYX = F.adaptive_avg_pool2d(frame_1CHW, few)
        coarse_1CHW = F.interpolate(squares_1CYX, (height, width), mode="nearest")
        coarse.append(coarse_1CHW[0].permute(1, 2, 0).round().to(torch.uint8))
    return torch.stack(coarse)
