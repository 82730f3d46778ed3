"""Paints whole grids with the Grid LoRA on the base, no cell given. Read `GridPainter.paint`.

Letters: B batch, K cells, C channels, M moving channels of noise, F Y X latent frames/rows/columns,
A adapters.

Paper: sec. 3.2 (Sampling Grids)
"""

import json
from typing import Any

import torch

from dcgrid.adapters.attach import set_routed
from dcgrid.adapters.files import load_adapter
from dcgrid.adapters.reading import hash_tensors, read_adapter
from dcgrid.flow.noise import draw_noise
from dcgrid.flow.sampler import SampleSettings, VelocityFn, sample, with_guidance
from dcgrid.flow.schedule import Schedule
from dcgrid.grid.modes import Routing
from dcgrid.grid.routing import route_matrix
from dcgrid.models.native.backbone import encode_rows
from dcgrid.models.native.config import PRESETS
from dcgrid.runtime.device import autocast, choose_dtype
from dcgrid.train.captions import world_captions
from dcgrid.train.grids import GRID, token_places
from dcgrid.train.job import DC_NAME
from dcgrid.train.networks import load_base
from dcgrid.train.panes import PaneSet
from dcgrid.train.sampled import SampledGrid
from dcgrid.train.sampling import SampleJob, SampleRecipe
from dcgrid.train.world.clips import MOTIONS, pick
from dcgrid.train.world.effects import EFFECT_NAMES
from dcgrid.train.world.fusion import ELEMENTS
from dcgrid.train.world.store import WorldStore


class GridPainter:
    """Holds the networks and paints one grid after another."""

    def __init__(self, job: SampleJob) -> None:
        self.job = job
        self.captions = world_captions()
        self.subjects = WorldStore(job.store).names["sprites"]
        base = load_base(job.model, job.out, job.device)
        self.dit, self.text, self.base_hash = base.dit, base.text, base.hash
        self.adapter_hashes = self._attach()
        self.dit.to(job.device).eval().requires_grad_(False)
        self.route_KA: torch.Tensor | None = None
        if job.mode == "composition":
            self.route_KA = route_matrix(GRID, Routing(mode="composition")).to(job.device)

    def _attach(self) -> list[str]:
        """Put the adapters on the transformer; return the hash of each."""
        job, hashes, names = self.job, [], []
        strengths = dict.fromkeys(job.adapters, 1.0)
        if job.recipe.dc_strength:
            strengths[job.out / DC_NAME] = job.recipe.dc_strength
        for path, strength in strengths.items():
            report = load_adapter(
                self.dit, path, base=job.model, base_hash=self.base_hash, strength=strength
            )
            names.append(report.spec.name)
            hashes.append(hash_tensors(read_adapter(path)[1]))
        if job.mode == "composition":
            set_routed(self.dit, names[: len(job.adapters)])
        return hashes

    def facts(self, number: int) -> dict[str, Any]:
        """Return everything that a grid is made with; what JSON can hold."""
        recipe = self.job.recipe
        facts = {
            "number": number,
            "stage": "sample",
            "mode": self.job.mode,
            "model": self.job.model,
            "texts": self._texts(number),
            "frames": recipe.frames,
            "size": recipe.size_of(number),
            "seed": recipe.seed,
            "num_inference_steps": recipe.num_inference_steps,
            "guidance_scale": recipe.guidance_scale,
            "noise_scale": recipe.noise_scale,
            "time_shift": recipe.time_shift,
            "dc_strength": recipe.dc_strength,
            "base": self.base_hash,
            "adapters": self.adapter_hashes,
        }
        read_back: dict[str, Any] = json.loads(json.dumps(facts))  # lists, as in a file
        return read_back

    def _texts(self, number: int) -> list[list[str]]:
        """Draw what a grid shows and return the texts of its cells."""
        generator = torch.Generator().manual_seed(_seed_of(self.job.recipe, number))
        words = [*self.subjects, "scene"]
        subject = words[pick(len(words), generator)]
        # What the world says of a camera move over a picture without a subject.
        motion = "camera move" if subject == "scene" else MOTIONS[pick(len(MOTIONS), generator)]
        effects, element = ("",) * 4, ""
        if self.job.mode == "composition":
            element = tuple(ELEMENTS)[pick(len(ELEMENTS), generator)]
        else:
            # As in `edit`: the clip as it is stands in the first cell.
            order = torch.randperm(len(EFFECT_NAMES), generator=generator).tolist()
            effects = ("", *(EFFECT_NAMES[i] for i in order[:3]))
        nothing = torch.empty(0)  # captions read words alone
        panes = PaneSet(
            latents_VCFYX=nothing,
            luck_VMFYX=nothing,
            effects=effects,
            subject=subject,
            motion=motion,
            element=element,
        )
        return self.captions.grid_rows(panes, (0, 1, 2, 3), generator)

    @torch.no_grad()
    def paint(self, number: int) -> SampledGrid:
        """Paint all cells of a grid.

        Paper: sec. 3.2 (Sampling Grids)
        """
        recipe, config = self.job.recipe, PRESETS[self.job.model]
        facts = self.facts(number)
        height, width = recipe.size_of(number)
        stride_T, stride_HW = config.autoencoder.total_stride_T, config.autoencoder.total_stride_HW
        shape = (
            1,
            GRID.count,
            config.autoencoder.latent_channels,
            (recipe.frames - 1) // stride_T + 1,
            height // stride_HW,
            width // stride_HW,
        )
        noise_BKCFYX = draw_noise(
            shape,
            _seed_of(recipe, number),
            device=self.job.device,
            motion=config.dit.noise_motion,
        )
        cells_BKCFYX = sample(
            self._guided(facts["texts"], noise_BKCFYX),
            torch.zeros_like(noise_BKCFYX),
            noise_BKCFYX,
            torch.ones(GRID.count, dtype=torch.bool),
            SampleSettings(
                schedule=Schedule(
                    num_inference_steps=recipe.num_inference_steps, shift=recipe.time_shift
                ),
                noise_scale=recipe.noise_scale,
            ),
        )
        still = shape[2] - len(config.dit.noise_motion)
        return SampledGrid(
            cells_KCFYX=cells_BKCFYX[0], luck_KMFYX=noise_BKCFYX[0, :, still:], facts=facts
        )

    def _guided(self, rows: list[list[str]], like_BKCFYX: torch.Tensor) -> VelocityFn:
        """Return the velocity of a grid with these texts, guided against the empty text."""
        device = self.job.device
        places = token_places(like_BKCFYX, GRID, self.dit)
        precision = choose_dtype("auto", device)

        def reading(rows: list[list[str]]) -> VelocityFn:
            with autocast(device, precision):
                text = encode_rows(self.text, rows, GRID.count)

            def velocity(cells_BKCFYX: torch.Tensor, time_BKF: torch.Tensor) -> torch.Tensor:
                with autocast(device, precision):
                    predicted: torch.Tensor = self.dit(
                        cells_BKCFYX, time_BKF, text, places, self.route_KA
                    )
                return predicted.float()

            return velocity

        fill_K = torch.ones(GRID.count, dtype=torch.bool)
        empty = reading([[""]] * GRID.count)
        return with_guidance(reading(rows), empty, self.job.recipe.guidance_scale, fill_K)


def _seed_of(recipe: SampleRecipe, number: int) -> int:
    """Return the seed of a grid; two recipes whose seeds differ share no grid."""
    return recipe.seed * 10_000 + number
