"""Score an adapter on held-out clips against the known truth.

fill: the clip is given, six effects are generated, PSNR in the subject's region and outside it.
moved: see moved.py.
composition: nothing is given; a noised grid of A, B and two fusions is cleaned in one go, and the
leak says how much of the way from A to its fusion the generated A has gone:

    leak of B in A = <generated A - A, fusion - A> / |fusion - A|^2       0: none   1: all of it

Letters: B batch (1 here), K cells, C channels, F Y X latent frames/rows/columns, T H W pixel
frames/height/width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.ablations.data import HeldOutClip, HeldOutScene, mean_figures, region_db
from benchmarks.ablations.moved import score_moves, with_steps
from benchmarks.ablations.training import MODEL, Networks, shown_rows
from benchmarks.ablations.variants import FEW, MANY, Variant
from benchmarks.edits import cell_drift
from benchmarks.progress import Silent
from benchmarks.truth import render_truth
from dcgrid.eval.suites.compared_frames import to_pixels, to_unit
from dcgrid.flow.path import noisy
from dcgrid.grid.routing import Routing, route_matrix
from dcgrid.models.base import CellText, cell_texts
from dcgrid.models.native.rows import encode_rows
from dcgrid.models.registry import find_model
from dcgrid.models.trunk import NetworkBackbone, NetworkParts
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.resolve import resolve_edits
from dcgrid.pipelines.sampling import (
    fill_grid,
    grid_request,
    to_frames,
    to_model_range,
    token_places,
)
from dcgrid.prompts.segments import Prompt
from dcgrid.runtime.device import choose_dtype
from dcgrid.synthetic.fusion import ELEMENTS, draw_element, fuse_around, fuse_lit
from dcgrid.train.data.captions import Captions, world_captions
from dcgrid.train.data.variants import VariantSet
from dcgrid.train.stages.flow_matching import GRID

EFFECTS = (("night", "golden-hour", "noir"), ("rain", "snow", "smoke"))
"""Edits that are measured, a grid of three each: light, then weather with chance in it."""
LEAK_TIMES = (0.6, 0.75, 0.9)
"""Flow times from which a noised composition is cleaned."""
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What every variant is measured on."""

    clips: Sequence[HeldOutClip]
    scenes: Sequence[HeldOutScene]
    """For moved pairs."""
    seed: int
    """Of noise."""


class Reader(NetworkBackbone):
    """A backbone that encodes text as a variant has it."""

    def __init__(self, backbone: NetworkBackbone, variant: Variant) -> None:
        super().__init__(backbone.spec, backbone.parts, backbone.dtype)
        self._variant = variant

    def encode_text(
        self, prompts: Sequence[Prompt], visible_BKS: Sequence[Sequence[Sequence[bool]]]
    ) -> CellText:
        """Encode what each cell reads, in one piece where the variant joins it."""
        if not self._variant.joined:
            return super().encode_text(prompts, visible_BKS)
        rows = [[" ".join(row)] for row in cell_texts(prompts, visible_BKS)]
        return encode_rows(self.parts.text, rows, cells=len(visible_BKS[0]))


def measure(variant: Variant, networks: Networks, inputs: Inputs) -> dict[str, float]:
    """Return the figures of a variant: PSNR in dB, leaks as shares."""
    if variant.family == "moved":
        backbone = Reader(backbone_of(networks, variant), variant)
        return mean_figures(
            [score_moves(variant, backbone, one, inputs.seed) for one in inputs.scenes]
        )
    score = _score_edits if variant.family == "fill" else _score_leaks
    return mean_figures([score(variant, networks, clip, inputs.seed) for clip in inputs.clips])


def backbone_of(networks: Networks, variant: Variant) -> NetworkBackbone:
    """Return the networks behind the protocol, one grid of tokens."""
    spec = replace(find_model(MODEL).spec, offset_tokens=False, noise_scale=variant.inference_noise)
    parts = NetworkParts(
        autoencoder=networks.autoencoder,
        dit=networks.dit,
        text=networks.text,
    )
    backbone = NetworkBackbone(spec, parts, choose_dtype("auto", CPU))
    backbone.use_given(clean=variant.given == "clean", first=variant.given_first)
    return backbone


def _score_edits(
    variant: Variant, networks: Networks, clip: HeldOutClip, seed: int
) -> dict[str, float]:
    """Edit a clip with one step and with several."""
    backbone = Reader(backbone_of(networks, variant), variant)
    rows: list[dict[str, float]] = []
    for effects in EFFECTS:
        grid = resolve_edits(EditJob(input=Path(), effects=effects, seed=seed, guidance_scale=1.0))
        for steps in (FEW, MANY):
            if steps == FEW and variant.given == "replace":
                continue  # at t = 1 the given cell would be noise alone
            request = grid_request(
                with_steps(grid, steps), backbone.spec, [clip.frames_THWC], seed=seed
            )
            filled = fill_grid(backbone, request, Silent())
            for (cell, made_THWC), effect in zip(filled.items(), effects, strict=True):
                drift = cell_drift(backbone.spec, clip.frames_THWC, grid, seed, cell)
                if drift is None:
                    raise ValueError("this benchmark needs the moving noise of mini")
                truth = render_truth(clip.frames_THWC, effect, backbone.spec.fps, drift)
                figures = region_db(made_THWC, truth, clip.alpha_THW)
                rows.append({f"{name} {steps}": value for name, value in figures.items()})
    return mean_figures(rows)


@torch.no_grad()
def _score_leaks(
    variant: Variant, networks: Networks, clip: HeldOutClip, seed: int
) -> dict[str, float]:
    """Clean noised compositions of a clip with two elements."""
    captions, rows = world_captions(own_clause_only=True), []
    names = tuple(ELEMENTS)
    for turn in range(2):
        element = names[(seed + 2 * len(clip.subject) + 3 * turn) % len(names)]
        generator = torch.Generator().manual_seed(seed + turn)
        truths = _composition(clip, element, generator)
        rows += _cleaned(variant, networks, clip, truths, (element, captions, generator))
    return mean_figures(rows)


def _composition(clip: HeldOutClip, element: str, generator: torch.Generator) -> list[Tensor]:
    """Return A, B and both fusions, uint8 THWC."""
    scene_CTHW = to_unit(clip.frames_THWC)
    seconds_T = torch.arange(scene_CTHW.shape[1]) / find_model(MODEL).spec.fps
    drawn_CTHW = draw_element(element, scene_CTHW, seconds_T, generator)
    clips = [scene_CTHW, drawn_CTHW, *(f(scene_CTHW, drawn_CTHW) for f in (fuse_around, fuse_lit))]
    return [to_pixels(clip_CTHW) for clip_CTHW in clips]


def _cleaned(
    variant: Variant,
    networks: Networks,
    clip: HeldOutClip,
    truths: Sequence[Tensor],
    text: tuple[str, Captions, torch.Generator],
) -> list[dict[str, float]]:
    """Noise a composition to several times, clean it, and score cells A and B."""
    element, captions, generator = text
    backbone = backbone_of(networks, variant)
    latents = [backbone.encode(to_model_range(clip_THWC)) for clip_THWC in truths]
    clean_BKCFYX = torch.stack(latents, dim=1)
    # What the codec leaves is what a perfect network would give back.
    known = [to_frames(backbone.decode(latent)) for latent in latents]
    variants = VariantSet(
        latents_VCFYX=clean_BKCFYX[0],
        drift_VMFYX=torch.empty(0),
        effects=("",) * 4,
        subject=clip.subject,
        motion="move",
        element=element,
    )
    rows = shown_rows(captions.grid_rows(variants, (0, 1, 2, 3), generator), variant)
    spoken = encode_rows(networks.text, rows, GRID.count)
    places = token_places(
        GRID, clean_BKCFYX.shape[3:], backbone.spec.patch, backbone.spec.cell_pitch
    )
    route = route_matrix(GRID, Routing(mode="composition")) if variant.routed else None
    noise_BKCFYX = torch.randn(clean_BKCFYX.shape, generator=generator)
    scores = []
    for time in LEAK_TIMES:
        time_BKF = torch.full((1, GRID.count, clean_BKCFYX.shape[3]), time)
        noised = noisy(clean_BKCFYX, noise_BKCFYX, time_BKF, 1.0)
        velocity = backbone.velocity(noised, time_BKF, spoken, places, route)
        found = noised - time * velocity
        cells = [to_frames(backbone.decode(found[:, k])) for k in range(2)]
        scores.append(
            {
                "leak of B in A": leak(cells[0], known[0], known[2]),
                "leak of A in B": leak(cells[1], known[1], known[2]),
                **{
                    f"{name} of A": value
                    for name, value in region_db(cells[0], known[0], clip.alpha_THW).items()
                },
                "all of B": region_db(cells[1], known[1], clip.alpha_THW)["all"],
            }
        )
    return scores


def leak(found_THWC: Tensor, own_THWC: Tensor, fused_THWC: Tensor) -> float:
    """Return how far a cell has gone from what it should show towards the fusion, as a share."""
    way = fused_THWC.double() - own_THWC.double()
    gone = found_THWC.double() - own_THWC.double()
    return float((gone * way).sum() / way.square().sum().clamp_min(1e-9))
