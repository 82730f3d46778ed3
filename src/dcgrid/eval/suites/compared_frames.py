"""The clips as they are compared: source, truth, element and mask, all at one size and rate.

Everything stays at the size of a cell and at the model's rate: what is measured is what the model
alone makes, before any upsampling. Clips are cropped to the cell, so that no padding is scored.

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from dcgrid.errors import InputVideoError, UsageError
from dcgrid.eval.suites.eval_clips import EvalClip
from dcgrid.eval.suites.suite import FUSION_NAMES, EvalRequest, Task
from dcgrid.models.base import ModelSpec
from dcgrid.pipelines.clips import one_pass_rules
from dcgrid.recipes import load_effect
from dcgrid.synthetic.effects import DETERMINISTIC, render_effect
from dcgrid.synthetic.effects_fields import cell_scale
from dcgrid.synthetic.fusion import ELEMENTS, draw_element, fuse_around, fuse_lit
from dcgrid.video.clip import ClipPlan, ClipRules
from dcgrid.video.pixels import pixels_of_unit, unit_of
from dcgrid.video.read import plan_clip, probe, read_clip

_FUSIONS = dict(zip(FUSION_NAMES, (fuse_around, fuse_lit), strict=True))


def plan_source(request: EvalRequest, spec: ModelSpec, clip: EvalClip) -> ClipPlan:
    """Plan what of a clip the methods are given: one window of the model's.

    Raises:
        InputVideoError: Not a readable video.
        UsageError: The duration is out of range.
    """
    return plan_clip(probe(clip.path), one_pass_rules(spec), None, request.duration_s)


def given_frames(request: EvalRequest, spec: ModelSpec, clip: EvalClip) -> Tensor:
    """Return a clip as the methods are given it, THWC, uint8, at the size of a cell.

    Raises:
        InputVideoError: Not a readable video.
    """
    return read_clip(clip.path, one_pass_rules(spec), duration_s=request.duration_s)[0].frames_THWC


def source_frames(request: EvalRequest, spec: ModelSpec, clip: EvalClip) -> Tensor:
    """Return a clip at the size of the results, THWC, uint8.

    Raises:
        InputVideoError: Not a readable video.
    """
    rules = result_rules(request, spec, clip)
    return read_clip(clip.path, rules, duration_s=request.duration_s)[0].frames_THWC


def result_rules(request: EvalRequest, spec: ModelSpec, clip: EvalClip) -> ClipRules:
    """Return the rules by which clips are read at the size of the results."""
    return replace(one_pass_rules(spec), cell_sizes=(plan_source(request, spec, clip).cell_size,))


def read_mask(request: EvalRequest, spec: ModelSpec, clip: EvalClip, frames: int) -> Tensor | None:
    """Return where a clip's subject is, bool THW at the size of the results; None: not known.

    A picture, or a video that is too short, holds its last frame.

    Raises:
        InputVideoError: The mask cannot be read.
    """
    if clip.mask is None:
        return None
    rules = result_rules(request, spec, clip)
    try:
        mask_THWC = read_clip(clip.mask, rules, duration_s=request.duration_s)[0].frames_THWC
    except InputVideoError as error:
        raise InputVideoError(f"mask {clip.mask}: {error.message}", hint=error.hint) from error
    held_THWC = mask_THWC[-1:].expand(max(0, frames - len(mask_THWC)), -1, -1, -1)
    return torch.cat([mask_THWC[:frames], held_THWC]).float().mean(dim=3) > 127


def effect_truth(task: Task, source_THWC: Tensor, fps: float) -> Tensor:
    """Render a task's effect on a clip, THWC, uint8.

    Raises:
        UsageError: It has no single right answer.
    """
    name = truth_effect(task)
    # The generator is not used by effects without chance.
    generator = torch.Generator()
    clip_CTHW = to_unit(source_THWC)
    scale = cell_scale(clip_CTHW)
    return to_pixels(render_effect(name, clip_CTHW, generator=generator, fps=fps, scale=scale))


def truth_effect(task: Task) -> str:
    """Return the name of a task's effect, for which a truth is known.

    Raises:
        UsageError: There is none.
        RecipeError: The recipe is unknown or wrong.
    """
    name = load_effect(task.effect).name
    if name not in DETERMINISTIC:
        known = ", ".join(sorted(DETERMINISTIC))
        raise UsageError(
            f"effect {name!r} has no single right answer to compare with",
            hint=f"a suite of kind truth takes {known}",
        )
    return name


def element_frames(task: Task, given_THWC: Tensor, fps: float, seed: int) -> Tensor:
    """Draw the element of a composition for a clip, THWC, uint8.

    Raises:
        UsageError: There is no such element.
    """
    check_element(task)
    clip_CTHW = to_unit(given_THWC)
    seconds_T = torch.arange(clip_CTHW.shape[1]) / fps
    generator = torch.Generator().manual_seed(seed)
    return to_pixels(draw_element(task.element, clip_CTHW, seconds_T, generator))


def check_element(task: Task) -> None:
    """Refuse an element that the procedural world does not draw.

    Raises:
        UsageError: It is one.
    """
    if task.element not in ELEMENTS:
        raise UsageError(
            f"no element is called {task.element!r}", hint=f"elements: {', '.join(ELEMENTS)}"
        )


def element_words(task: Task) -> Mapping[str, str]:
    """Return what a user would say of an element, by the field of a ComposeJob."""
    element = ELEMENTS[task.element]
    return {"concept": element.phrases[0], "concept_motion": element.motion}


def fusion_truths(given_THWC: Tensor, element_THWC: Tensor) -> dict[str, Tensor]:
    """Return the known fusions of a clip and an element, THWC, uint8, by name."""
    scene_CTHW, shown_CTHW = to_unit(given_THWC), to_unit(element_THWC)
    return {name: to_pixels(fuse(scene_CTHW, shown_CTHW)) for name, fuse in _FUSIONS.items()}


def to_unit(clip_THWC: Tensor) -> Tensor:
    """Turn a clip THWC, uint8, into CTHW in [0, 1]."""
    return unit_of(rearrange(clip_THWC, "t h w c -> c t h w"))


def to_pixels(clip_CTHW: Tensor) -> Tensor:
    """Turn a clip CTHW in [0, 1] into THWC, uint8, rounded to nearest."""
    return rearrange(pixels_of_unit(clip_CTHW), "c t h w -> t h w c")
