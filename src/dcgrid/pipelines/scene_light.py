"""What of a second clip is composed with: all of an element on dark ground, the light of a scene.

Small models learned to compose with fire, sparks and smoke on dark ground. Of a house on fire in
a street they would take the street as well, so it is made dark first: what is bright and moves, or
flickers, stays; of fire only what is of its colour.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.models.particles import ramp
from dcgrid.pipelines.clips import clip_rules
from dcgrid.pipelines.job import GridJob
from dcgrid.video.read import read_clip

if TYPE_CHECKING:
    from dcgrid.models.base import ModelSpec
    from dcgrid.video.clip import ClipPlan

DARK, DARK_SHARE = 60, 0.5
"""A clip is an element on dark ground if this part of its first frame is darker than so, of 255."""
LOOKED_AT = 25
"""Frames that say where something moves; about two seconds."""
NEIGHBOURS = 5
"""Pixels of a cell around what moves that belong to it."""
LEAST = 0.004
"""Share of the picture that has to be bright and to move: under it, a scene is taken whole."""
FIERY = frozenset(
    (
        "fire", "flame", "flames", "bonfire", "campfire", "burning", "candle", "torch", "ember",
        "embers", "spark", "sparks",
    )
)  # fmt: skip
"""Words of concepts that are red and yellow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneLight:
    """What of a scene is used: what is bright where something moves."""

    moving_HW: Tensor
    """Where that is, in [0, 1], at the size of a cell."""
    fiery: bool
    """True: only what is redder than it is blue."""

    def matte(self, frames_THWC: Tensor) -> Tensor:
        """Return how much of each pixel of frames, uint8, of any size, is used, THW in [0, 1]."""
        shown_THWC = frames_THWC.float() / 255
        matte_THW = ramp(shown_THWC.amax(-1), 0.4, 0.8)
        if self.fiery:
            matte_THW = matte_THW * ramp(shown_THWC[..., 0] - shown_THWC[..., 2], 0.12, 0.35)
        size = matte_THW.shape[1:]
        large_11HW = F.interpolate(self.moving_HW[None, None], size=size, mode="bilinear")
        return matte_THW * large_11HW[0, 0]

    def of(self, frames_THWC: Tensor) -> Tensor:
        """Return frames, uint8, with nothing but that."""
        lit_THWC = frames_THWC.float() * self.matte(frames_THWC)[..., None]
        return lit_THWC.round().to(torch.uint8)


def is_dark(frames_THWC: Tensor) -> bool:
    """Return True if frames, uint8, show an element on dark ground."""
    return float((frames_THWC[0].float().mean(-1) < DARK).float().mean()) >= DARK_SHARE


def scene_light(frames_THWC: Tensor, concept: str) -> SceneLight | None:
    """Return what is used of a clip that is composed with.

    Args:
        frames_THWC: Its first frames at the size of a cell, uint8.
        concept: Words for what it shows.

    Returns:
        None: all of it is, for it is dark around what it shows, or nothing moves in it that is
        bright.
    """
    if is_dark(frames_THWC):
        return None
    change_HW = frames_THWC.amax(-1).float().div(255).std(0, correction=0)
    near = 2 * NEIGHBOURS - 1
    wide_1HW = F.max_pool2d(change_HW[None], near, 1, NEIGHBOURS - 1)
    wide_1HW = F.avg_pool2d(wide_1HW, near, 1, NEIGHBOURS - 1, count_include_pad=False)
    fiery = not FIERY.isdisjoint(concept.lower().split())
    found = SceneLight(moving_HW=ramp(wide_1HW[0], 0.05, 0.15), fiery=fiery)
    return found if float(found.matte(frames_THWC).mean()) >= LEAST else None


def scene_notes(job: GridJob, spec: "ModelSpec", clips: Sequence["ClipPlan"]) -> tuple[str, ...]:
    """Return what is taken of a second clip that is more than an element on dark ground.

    About two seconds of it are decoded.
    """
    if spec.generates_from_text:
        return ()
    rules = replace(
        clip_rules(spec), cell_sizes=(clips[1].cell_size,), default_frames=LOOKED_AT, longest=None
    )
    clip, _ = read_clip(job.inputs[1], rules, start_s=clips[1].start_s)
    frames_THWC, name = clip.frames_THWC[:LOOKED_AT], job.inputs[1].name
    if is_dark(frames_THWC):
        return ()
    light = scene_light(frames_THWC, job.slots.get("effect", ""))
    if light is None:
        return (
            f"B: {name} is a whole scene in which nothing bright moves; {spec.name} learned "
            "elements on dark ground (fire, sparks, smoke), and takes the light and the colours of "
            "all of it.",
        )
    share = 100 * float(light.matte(frames_THWC).mean())
    return (
        f"B: {name} is a whole scene; what is bright and moves in it is taken, {share:.1f}% of the "
        "picture.",
    )
