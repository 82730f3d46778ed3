"""Run stages `cells` and `sample`, which generate grids that others train on. Read `run_sampling`.

Each grid has a seed of its own and is written as soon as it is generated: a stopped run goes on
where it was. A person looks at the sheet and drops the bad ones.

Letters: B batch, K cells, C channels, M moving channels of noise, F Y X latent frames/rows/columns,
A adapters, T H W frames/height/width.

Paper: sec. 2 (grids generated with Multi-DC), sec. 3.2 (data of the Grid LoRA, Sampling Grids)
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from einops import rearrange

from dcgrid.adapters.attach import set_routed
from dcgrid.adapters.files import load_adapter
from dcgrid.adapters.reading import hash_tensors, read_adapter
from dcgrid.errors import UsageError, WeightsError
from dcgrid.grid.modes import Routing
from dcgrid.grid.routing import route_matrix
from dcgrid.io.locks import run_lock
from dcgrid.prompts.tags import check_tags
from dcgrid.synthetic.effects import EFFECT_NAMES
from dcgrid.synthetic.fusion import ELEMENTS
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import MOTIONS, chance, pick
from dcgrid.train.data.captions import ConceptTexts, GridTexts, world_captions
from dcgrid.train.data.generated_grids import (
    DROPPED,
    SampledGrid,
    grid_files,
    grid_path,
    has_facts,
    read_grid,
    write_grid,
)
from dcgrid.train.data.manifest import chosen_concepts, read_record
from dcgrid.train.data.variants import VariantSet
from dcgrid.train.networks import (
    concept_facts,
    hash_tags,
    load_autoencoder,
    load_base,
    load_concept_tags,
    unknown_notes,
)
from dcgrid.train.stages.flow_matching import GRID, SINGLE, frozen, generate_cells
from dcgrid.train.stages.generate import (
    CellJob,
    GenerateJob,
    SampleJob,
    as_read_back,
    draw_grid_noise,
    generate_facts,
    missing_for_sampling,
    sampler_numbers,
)
from dcgrid.video.sheet import write_contact_sheet

SHEET_NAME = "sheet.png"
"""Picture of all grids of a folder."""
SHEET_FRAMES = 2
"""Frames that stand for a cell on the sheet."""


class Sampler(Protocol):
    """What generates the grids of a stage."""

    def notes(self) -> tuple[str, ...]:
        """Return what a person should know before anything is generated."""

    def facts(self, number: int) -> dict[str, Any]:
        """Return everything that a grid is made with."""

    def generate(self, number: int) -> SampledGrid:
        """Generate a grid."""


def _sampler_of(job: GenerateJob) -> Sampler:
    if isinstance(job, CellJob):
        return CellSampler(job)
    if isinstance(job, SampleJob):
        return GridSampler(job)
    raise ValueError(f"nothing generates for {type(job).__name__}")


def run_sampling(
    job: GenerateJob, say: Callable[[str], None], on_grid: Callable[[int, int], None]
) -> list[Path]:
    """Generate the grids that are not there yet, draw the sheet, and return the grids' files.

    A grid that is there with the same facts is kept, one with others is replaced (or removed, if
    the recipe asks for fewer now), and one that was dropped is not sampled again.

    Args:
        job: What to do.
        say: Told what happens.
        on_grid: Told of grids done and grids in all.

    Raises:
        WeightsError: Weights, an adapter or the world are missing or damaged.
        AdapterError: An adapter is of other weights.
        RecipeError: The recipe asks for a concept that Multi-DC does not know.
        OutputError: Another run works in the folder, or a file cannot be written.
    """
    for path, command in missing_for_sampling(job):
        raise WeightsError(f"stage {job.stage} needs {path}, which is not there", hint=command)
    with run_lock(job.folder):
        sampler = _sampler_of(job)
        for line in sampler.notes():
            say(line)
        dropped = grid_files(job.folder / DROPPED)
        numbers = [n for n in range(1, job.recipe.grids + 1) if n not in dropped]
        kept = 0
        for number, path in grid_files(job.folder).items():
            if has_facts(path, sampler.facts(number)):
                kept += number in numbers
            elif number not in numbers:
                path.unlink()
                say(f"removed {path}: it was made with other weights or another recipe")
        if dropped or kept:
            say(f"{kept} of {job.recipe.grids} grids are there, {len(dropped)} were dropped")
        for done, number in enumerate(numbers, start=1):
            path = grid_path(job.folder, number)
            if not has_facts(path, sampler.facts(number)):
                write_grid(path, sampler.generate(number))
            on_grid(done, len(numbers))
        write_sheet(job)
    return list(grid_files(job.folder).values())


def drop_grids(job: GenerateJob, numbers: Sequence[int]) -> list[Path]:
    """Move bad grids out of the way and draw the sheet anew; nothing is sampled.

    Returns:
        The files of the grids that are left.

    Raises:
        UsageError: A number names no grid; then none is moved.
        WeightsError: The autoencoder is missing, which draws the sheet, or a grid is damaged.
        OutputError: Another run works in the folder, or it cannot be written.
    """
    files = grid_files(job.folder)
    for number in numbers:
        if number not in files:
            raise UsageError(
                f"--drop {number}: there is no grid {number} in {job.folder}",
                hint=f"look at {job.folder / SHEET_NAME} for the numbers",
            )
    # Without it there is no sheet: better before anything has moved.
    load_autoencoder(job.model, job.out, job.device)
    with run_lock(job.folder):
        (job.folder / DROPPED).mkdir(exist_ok=True)
        for number in dict.fromkeys(numbers):
            files[number].replace(grid_path(job.folder / DROPPED, number))
        write_sheet(job)
    return list(grid_files(job.folder).values())


@torch.no_grad()
def write_sheet(job: GenerateJob) -> None:
    """Draw every grid of the folder as a row of a picture, its number above it.

    Raises:
        WeightsError: The autoencoder or a grid is missing or damaged.
        OutputError: The picture cannot be written.
    """
    autoencoder = load_autoencoder(job.model, job.out, job.device)
    rows, labels = [], []
    for number, path in grid_files(job.folder).items():
        cells = []
        for cell_CFYX in read_grid(path).cells_KCFYX:
            video_BCTHW = autoencoder.decode(cell_CFYX[None].to(job.device))
            frames_THWC = rearrange((video_BCTHW + 1) * 127.5, "1 c t h w -> t h w c")
            cells.append(frames_THWC.round().clamp(0, 255).to(torch.uint8).cpu())
        rows.append([_first_and_last(cell) for cell in cells])
        labels.append(f"{number:04d}")
    path = job.folder / SHEET_NAME
    if rows:
        write_contact_sheet(path, rows, labels, frames_per_clip=SHEET_FRAMES, overwrite=True)
    else:
        path.unlink(missing_ok=True)


def _first_and_last(frames_THWC: torch.Tensor) -> torch.Tensor:
    """Return what the sheet shows of a cell; all frames of many grids would not fit in memory."""
    picks = torch.linspace(0, len(frames_THWC) - 1, min(SHEET_FRAMES, len(frames_THWC)))
    return frames_THWC[picks.round().long()]


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
        frozen((self.text, self.dit), job.device)

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
            self.numbers.sampling(self.job.device),
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
        frozen((self.text, self.dit), job.device)
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
        cells_BKCFYX = generate_cells(
            (self.dit, self.text),
            facts["texts"],
            noise_BKCFYX,
            self.numbers.sampling(self.job.device),
            GRID,
            route_KA=self.route_KA,
        )
        still = noise_BKCFYX.shape[2] - len(self.dit.config.noise_motion)
        return SampledGrid(
            cells_KCFYX=cells_BKCFYX[0], drift_KMFYX=noise_BKCFYX[0, :, still:], facts=facts
        )
