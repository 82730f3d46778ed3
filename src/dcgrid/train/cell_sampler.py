"""Generates the cells of a grid one by one with the Multi-DC LoRA. Read `CellSampler.generate`.

    consistent     concept      its edit      composition    concept A    concept B
                   its edit     its edit                     A with B     A with B

No cell sees another: each is a clip of its own, as stage `dc` learned them, on a layout of 1 x 1.
What they have in common is their tags and, with `shared_noise`, where they start from.

Letters: B batch, K cells, C channels, M moving channels of noise, F Y X latent frames/rows/columns.

Paper: sec. 3.1 (Multi-DC LoRA), sec. 2 (grids generated with it), sec. 3.2 (data of the Grid LoRA)
"""

from typing import Any

import torch
from einops import rearrange

from dcgrid.adapters.files import load_adapter
from dcgrid.prompts.tags import check_tags
from dcgrid.train.concept_texts import ConceptTexts, GridTexts
from dcgrid.train.data.record import chosen_concepts, read_record
from dcgrid.train.grids import SINGLE
from dcgrid.train.networks import load_base
from dcgrid.train.sample_latents import (
    as_read_back,
    draw_grid_noise,
    generate_cells,
    generate_facts,
)
from dcgrid.train.sampled import SampledGrid
from dcgrid.train.sampling import CellJob, sampler_numbers
from dcgrid.train.tags import concept_facts, load_concept_tags, unknown_notes


class CellSampler:
    """Holds the networks and generates the cells of one grid after another.

    Raises:
        WeightsError: A file is missing or damaged, the tokens say no words of their concepts.
        AdapterError: The Multi-DC LoRA is of other weights.
        RecipeError: The recipe names a tag that Multi-DC does not know, or no concept fits.
    """

    def __init__(self, job: CellJob) -> None:
        self.job, self.numbers = job, sampler_numbers(job)
        base = load_base(job.model, job.out, job.device)
        self.dit, self.text = base.dit, base.text
        load_concept_tags(job.tokens, job.dc, self.text)
        known = read_record(job.tokens, f"{job.command('dc')} --resume   # writes them")
        self.texts = ConceptTexts(
            chosen_concepts(known, job.recipe.concepts),
            job.recipe.places,
            own_clause_only=job.facts.own_clause_only,
        )
        check_tags(self.texts.all_texts(), self.text.tag_names, hint="load its tokens first")
        load_adapter(
            self.dit.network,
            job.dc,
            base=job.facts.name,
            base_hash=base.hash,
            strength=job.recipe.dc_strength,
        )
        self.made_with = {"base": base.hash, **concept_facts(job.tokens, job.dc)}
        for network in (self.text, self.dit):
            network.to(job.device).eval().requires_grad_(False)

    def notes(self) -> tuple[str, ...]:
        """Return what a person should know of the texts, before anything is generated."""
        return (*self.numbers.notes, *unknown_notes(self.texts.all_texts(), self.text))

    def facts(self, number: int) -> dict[str, Any]:
        """Return everything that a grid is made with; what JSON can hold."""
        texts = self._texts(number)
        facts = {
            **generate_facts(self.job, number, self.numbers),
            "texts": texts.rows,
            "cell_texts": texts.cells,
            "concepts": texts.concepts,
            "shared_noise": self.job.recipe.shared_noise,
            **self.made_with,
        }
        return as_read_back(facts)

    def _texts(self, number: int) -> GridTexts:
        generator = torch.Generator().manual_seed(self.job.recipe.seed_of(number))
        return self.texts.draw(self.job.mode, generator)

    def generate(self, number: int) -> SampledGrid:
        """Generate the cells of a grid, each from its own text alone."""
        facts = self.facts(number)
        moving = len(self.dit.config.noise_motion)
        noise_KCFYX = draw_grid_noise(self.job, number)[0]
        if self.job.recipe.shared_noise:
            noise_KCFYX = share_noise(noise_KCFYX, self.job.mode, moving)
        cells_BKCFYX = generate_cells(
            (self.dit, self.text),
            [[text] for text in facts["cell_texts"]],
            rearrange(noise_KCFYX, "b c f y x -> b 1 c f y x"),
            self.numbers,
            SINGLE,
        )
        return SampledGrid(
            cells_KCFYX=rearrange(cells_BKCFYX, "b 1 c f y x -> b c f y x"),
            drift_KMFYX=noise_KCFYX[:, noise_KCFYX.shape[1] - moving :],
            facts=facts,
        )


def share_noise(noise_KCFYX: torch.Tensor, mode: str, moving: int) -> torch.Tensor:
    """Let cells that show one subject start from the same noise.

    Where a subject stands and how it moves comes from the noise, so cells that start alike are
    alike. In an edit grid all cells start as the first. In a composition the fusions start as A.
    Moving channels say where drops and sparks are: edits keep their own, fusions have those of B.

    Args:
        noise_KCFYX: Noise of its own for each cell.
        mode: What the grid shows.
        moving: How many of the last channels move.

    Returns:
        A new tensor of the same shape.
    """
    still = noise_KCFYX.shape[1] - moving
    shared_KCFYX = noise_KCFYX.clone()
    alike = slice(1, None) if mode == "consistent" else slice(2, None)
    shared_KCFYX[alike, :still] = noise_KCFYX[0, :still]
    if mode == "composition":
        shared_KCFYX[alike, still:] = noise_KCFYX[1, still:]
    return shared_KCFYX
