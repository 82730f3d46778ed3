"""Generates whole grids with the Grid LoRA on the base, no cell given. Read `GridSampler.generate`.

Letters: B batch, K cells, C channels, M moving channels of noise, F Y X latent frames/rows/columns,
A adapters.

Paper: sec. 3.2 (Sampling Grids)
"""

from typing import Any

import torch

from dcgrid.adapters.attach import set_routed
from dcgrid.adapters.files import load_adapter
from dcgrid.adapters.reading import hash_tensors, read_adapter
from dcgrid.grid.modes import Routing
from dcgrid.grid.routing import route_matrix
from dcgrid.synthetic.effects import EFFECT_NAMES
from dcgrid.synthetic.fusion import ELEMENTS
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import MOTIONS, chance, pick
from dcgrid.train.captions import world_captions
from dcgrid.train.concept_texts import ConceptTexts
from dcgrid.train.data.record import read_record
from dcgrid.train.grids import GRID
from dcgrid.train.networks import load_base
from dcgrid.train.sample_latents import (
    as_read_back,
    draw_grid_noise,
    generate_cells,
    generate_facts,
)
from dcgrid.train.sampled import SampledGrid
from dcgrid.train.sampling import SampleJob, sampler_numbers
from dcgrid.train.tags import hash_tags, load_concept_tags, unknown_notes
from dcgrid.train.variants import VariantSet


class GridSampler:
    """Holds the networks and generates one grid after another."""

    def __init__(self, job: SampleJob) -> None:
        self.job, self.numbers = job, sampler_numbers(job)
        self.captions = world_captions(own_clause_only=job.facts.own_clause_only)
        self.subjects = WorldStore(job.store).names["sprites"]
        base = load_base(job.model, job.out, job.device)
        self.dit, self.text, self.base_hash = base.dit, base.text, base.hash
        self.tag_facts: dict[str, Any] = {}
        if job.recipe.dc_strength:
            load_concept_tags(job.tokens, job.dc, self.text)
            self.tag_facts = {"tags": hash_tags(job.tokens)}
        self.adapter_hashes = self._attach()
        for network in (self.text, self.dit):
            network.to(job.device).eval().requires_grad_(False)
        self.concepts: ConceptTexts | None = None
        if job.recipe.concept_share:
            known = read_record(job.tokens, f"{job.command('dc')} --resume")
            # Attenuated to nothing, there is nothing that tags stand for: words name a concept.
            tagged = job.recipe.dc_strength > 0
            self.concepts = ConceptTexts(
                known, tagged=tagged, mixed=True, own_clause_only=job.facts.own_clause_only
            )
        self.route_KA: torch.Tensor | None = None
        if job.mode == "composition":
            self.route_KA = route_matrix(GRID, Routing(mode="composition")).to(job.device)

    def _attach(self) -> list[str]:
        """Put the adapters on the transformer; return the hash of each."""
        job, hashes, names = self.job, [], []
        strengths = dict.fromkeys(job.adapters, 1.0)
        if job.recipe.dc_strength:
            strengths[job.dc] = job.recipe.dc_strength
        for path, strength in strengths.items():
            report = load_adapter(
                self.dit.network,
                path,
                base=job.facts.name,
                base_hash=self.base_hash,
                strength=strength,
            )
            names.append(report.spec.name)
            hashes.append(hash_tensors(read_adapter(path)[1]))
        if job.mode == "composition":
            set_routed(self.dit.network, names[: len(job.adapters)])
        return hashes

    def facts(self, number: int) -> dict[str, Any]:
        """Return everything that a grid is made with; what JSON can hold."""
        job, recipe = self.job, self.job.recipe
        facts = generate_facts(job, number, self.numbers)
        facts |= {"texts": self._texts(number), "base": self.base_hash}
        # Grids without concepts say nothing of them: those of earlier runs stay what they are.
        facts |= {"adapters": self.adapter_hashes, **self.tag_facts}
        if recipe.concept_share:
            facts |= {"concept_share": recipe.concept_share}
        return as_read_back(facts)

    def notes(self) -> tuple[str, ...]:
        """Return what a person should know of the texts, before anything is generated."""
        texts = () if self.concepts is None else self.concepts.all_texts()
        return (*self.numbers.notes, *unknown_notes(texts, self.text))

    def _texts(self, number: int) -> list[list[str]]:
        """Draw what a grid shows and return the texts of its cells."""
        generator = torch.Generator().manual_seed(self.job.recipe.seed_of(number))
        # Without concepts no chance is drawn for them: such grids stay what they were.
        if self.concepts is not None and chance(generator) < self.job.recipe.concept_share:
            return self.concepts.draw(self.job.mode, generator).rows
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
        variants = VariantSet(
            latents_VCFYX=nothing,
            drift_VMFYX=nothing,
            effects=effects,
            subject=subject,
            motion=motion,
            element=element,
        )
        return self.captions.grid_rows(variants, (0, 1, 2, 3), generator)

    def generate(self, number: int) -> SampledGrid:
        """Generate all cells of a grid at once.

        Paper: sec. 3.2 (Sampling Grids)
        """
        facts = self.facts(number)
        noise_BKCFYX = draw_grid_noise(self.job, number)
        networks = self.dit, self.text
        cells_BKCFYX = generate_cells(
            networks, facts["texts"], noise_BKCFYX, self.numbers, GRID, self.route_KA
        )
        still = noise_BKCFYX.shape[2] - len(self.dit.config.noise_motion)
        return SampledGrid(
            cells_KCFYX=cells_BKCFYX[0], drift_KMFYX=noise_BKCFYX[0, :, still:], facts=facts
        )
