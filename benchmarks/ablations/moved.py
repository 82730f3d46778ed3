"""Score moved pairs: the subject stands elsewhere than in the given cell, and where is known.

By words: one clip is given, the other cells say "moved to the left" and the like. By analogy: a
move is seen between two given cells and is to be made on the third. Measured where the subject is
now and was not before, so that a copy in place has nothing of it:

    moved       PSNR in dB of that region
    identity    correlation with the truth over the whole subject where it stands now, each colour
                and frame less its mean: 1 the same picture, 0 nothing of it
    left        PSNR in dB where the subject was and is not any more

Letters: T frames, H W height/width, C the 3 colours.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.ablations.data import HeldOutScene, mean_figures
from benchmarks.ablations.variants import FEW, MANY, Variant
from benchmarks.progress import Silent
from dcgrid.eval.suites.compared_frames import to_pixels
from dcgrid.models.base import Backbone
from dcgrid.pipelines.resolve import Edit, ResolvedGrid, place, slug
from dcgrid.pipelines.sampling import (
    fill_grid,
    grid_request,
    to_frames,
    to_model_range,
)
from dcgrid.prompts import render_grid
from dcgrid.recipes import load_layout
from dcgrid.synthetic.moves import ANALOGY_WORDS, MOVES, STILL, SubjectScene

View = tuple[Tensor, Tensor]
"""A clip, uint8 THWC, and where its subject is, THW."""


def score_moves(
    variant: Variant, backbone: Backbone, held_out: HeldOutScene, seed: int
) -> dict[str, float]:
    """Return the figures of a scene, named as above, with the number of steps behind."""
    layout, scene = load_layout("edit-2x2"), held_out.scene
    # Moves that stand far apart in the table, so that not all are of one kind.
    fitting = scene.fitting_moves()
    words = [fitting[(turn * max(1, len(fitting) // 3)) % len(fitting)] for turn in range(3)]
    words = list(dict.fromkeys(words))
    grid = place("consistent", layout, layout.slots, [_edit(one) for one in words])
    given, truths = _view(scene), [_view(scene, one) for one in words]
    figures = _score(variant, backbone, grid, ([given], truths), seed)
    first, second, move = held_out.pair
    *seen, truth = [
        (to_pixels(clip), alpha[0])
        for clip, alpha in (one.view(m) for one in (first, second) for m in (STILL, move))
    ]
    grid = place("consistent", layout, layout.slots, [_edit(ANALOGY_WORDS[-1])], given=(0, 1, 2))
    clauses = [words or None for words in ANALOGY_WORDS]
    grid = replace(grid, prompt=render_grid(layout, layout.slots, clauses))
    analogy = _score(variant, backbone, grid, (seen, [truth]), seed)
    for steps in (FEW, MANY):
        if f"moved {steps}" in analogy:
            figures[f"analogy {steps}"] = analogy[f"moved {steps}"]
            figures[f"analogy identity {steps}"] = analogy[f"identity {steps}"]
    return figures


def _edit(words: str) -> Edit:
    return Edit(name=slug(words), clause=words, negative="", guidance_scale=1.0)


def _view(scene: SubjectScene, words: str = "") -> View:
    clip_CTHW, alpha_1THW = scene.view(MOVES.get(words, STILL))
    return to_pixels(clip_CTHW), alpha_1THW[0]


def with_steps(grid: ResolvedGrid, steps: int) -> ResolvedGrid:
    """Return a grid in so many steps, at the noise scale of the model."""
    edits = (replace(one, num_inference_steps=steps, noise_scale=None) for one in grid.edits)
    return replace(grid, edits=tuple(edits))


def _score(
    variant: Variant,
    backbone: Backbone,
    grid: ResolvedGrid,
    views: tuple[Sequence[View], Sequence[View]],
    seed: int,
) -> dict[str, float]:
    """Score a grid of given views against the true views of its edits."""
    given, truths = views
    # What a copy in place would copy: the last of the given cells has the ground and pose.
    before_THWC, before_THW = given[-1]
    rows = []
    for steps in (FEW, MANY):
        if variant.stand_in == "copy":
            found = [before_THWC] * len(truths)
        elif variant.stand_in == "truth":
            found = [_through_codec(backbone, clip_THWC) for clip_THWC, _ in truths]
        else:
            clips = [clip_THWC for clip_THWC, _ in given]
            asked = grid_request(with_steps(grid, steps), backbone.spec, clips, seed=seed)
            found = list(fill_grid(backbone, asked, Silent()).values())[: len(truths)]
        for clip_THWC, (truth_THWC, now_THW) in zip(found, truths, strict=True):
            figures = moved_figures(clip_THWC, truth_THWC, before_THW, now_THW)
            rows.append({f"{name} {steps}": value for name, value in figures.items()})
    return mean_figures(rows)


def _through_codec(backbone: Backbone, clip_THWC: Tensor) -> Tensor:
    return to_frames(backbone.decode(backbone.encode(to_model_range(clip_THWC))))


def moved_figures(
    found_THWC: Tensor, truth_THWC: Tensor, before_THW: Tensor, now_THW: Tensor
) -> dict[str, float]:
    """Score a generated view; see the head of this file.

    Args:
        found_THWC: What was generated, uint8.
        truth_THWC: What is right, uint8.
        before_THW: Where the subject is in the cell that it is moved from, 0 to 1.
        now_THW: Where it is to be, 0 to 1.

    Returns:
        The figures whose region is there: a subject that only grows leaves no place.
    """
    error_THW = (found_THWC.double() - truth_THWC.double()).square().mean(-1)
    regions = {
        "moved": (now_THW > 0.5) & (before_THW < 0.1),
        "left": (before_THW > 0.5) & (now_THW < 0.1),
    }
    figures = {
        name: float(10 * torch.log10(255**2 / error_THW[there_THW].mean().clamp_min(1e-3)))
        for name, there_THW in regions.items()
        if there_THW.any()
    }
    if (now_THW > 0.5).any():
        figures["identity"] = correlation(found_THWC, truth_THWC, now_THW > 0.5)
    return figures


def correlation(found_THWC: Tensor, truth_THWC: Tensor, there_THW: Tensor) -> float:
    """Return how alike two clips are in a region, -1 to 1; brightness and contrast do not count."""
    frames = []
    for found_HWC, truth_HWC, there_HW in zip(found_THWC, truth_THWC, there_THW, strict=True):
        if not there_HW.any():
            continue
        one, other = (part[there_HW].double() for part in (found_HWC, truth_HWC))
        one, other = one - one.mean(0), other - other.mean(0)
        frames.append(float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-9)))
    return sum(frames) / len(frames)
