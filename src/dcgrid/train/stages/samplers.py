"""Run stages `cells` and `sample`, which generate grids that others train on. Read `run_sampling`.

Each grid has a seed of its own and is written as soon as it is generated: a stopped run goes on
where it was. A person looks at the sheet and drops the bad ones.

Letters: B batch, K cells, C channels, M moving channels of noise, F Y X latent frames/rows/columns,
A adapters, T H W frames/height/width.

Paper: sec. 2 (grids generated with Multi-DC), sec. 3.2 (data of the Grid LoRA, Sampling Grids)
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from dcgrid.adapters.attach import set_routed
from dcgrid.adapters.files import load_adapter
from dcgrid.adapters.reading import hash_tensors, read_adapter
from dcgrid.errors import UsageError, WeightsError
from dcgrid.grid.layout import GridLayout
from dcgrid.grid.routing import Routing, route_matrix
from dcgrid.io.locks import run_lock
from dcgrid.models.registry import training_spec
from dcgrid.models.trunk import NetworkParts
from dcgrid.prompts.segments import check_tags
from dcgrid.synthetic.effects import EFFECT_NAMES
from dcgrid.synthetic.fusion import ELEMENTS
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import MOTIONS, chance, pick
from dcgrid.train.data.captions import ConceptTexts, world_captions
from dcgrid.train.data.concept_manifest import chosen_concepts, read_record
from dcgrid.train.data.generated_grids import (
    DROPPED,
    SampledGrid,
    grid_files,
    grid_path,
    has_facts,
    read_grid,
    write_grid,
)
from dcgrid.train.data.variants import VariantSet
from dcgrid.train.networks import (
    hash_tags,
    load_autoencoder,
    load_base,
    load_concept_tags,
    unknown_notes,
)
from dcgrid.train.stages.flow_matching import GRID, SINGLE, generate_cells
from dcgrid.train.stages.generate import (
    CellRecipe,
    GenerateJob,
    SampleRecipe,
    draw_grid_noise,
    generate_facts,
    missing_for_sampling,
    sampler_numbers,
)
from dcgrid.video.pixels import pixels_of_signed
from dcgrid.video.sheet import write_contact_sheet

SHEET_NAME = "sheet.png"
"""Picture of all grids of a folder."""
SHEET_FRAMES = 2
"""Frames that stand for a cell on the sheet."""


def run_sampling(
    job: GenerateJob, say: Callable[[str], None], on_grid: Callable[[int, int], None]
) -> list[Path]:
    """Generate the grids that are not there yet, draw the sheet, and return the grids' files.

    A grid that is there with the same facts is kept, one with others is replaced (or removed, if
    the recipe has fewer now), and one that was dropped is not sampled again.

    Args:
        job: What to do.
        say: Called with what happens.
        on_grid: Called with grids done and grids in all.

    Raises:
        WeightsError: Weights, an adapter or the world are missing or damaged.
        AdapterError: An adapter is of other weights.
        RecipeError: The recipe names a concept that Multi-DC does not know.
        OutputError: Another run works in the folder, or a file cannot be written.
    """
    for path, command in missing_for_sampling(job):
        raise WeightsError(f"stage {job.stage} needs {path}, which is not there", hint=command)
    with run_lock(job.folder):
        recipe = job.recipe
        if isinstance(recipe, CellRecipe):
            sampler: _Sampler = CellSampler(job, recipe)
        else:
            sampler = WholeGridSampler(job, recipe)
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
            say(f"{kept} of {job.recipe.grids} grids are there, {len(dropped)} dropped")
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
            frames_THWC = rearrange(pixels_of_signed(video_BCTHW), "1 c t h w -> t h w c")
            cells.append(frames_THWC.cpu())
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


class _Sampler:
    """Holds the networks of a stage and generates one grid after another."""

    job: GenerateJob
    concepts: ConceptTexts | None

    def __init__(self) -> None:
        job = self.job
        self.numbers = sampler_numbers(job)
        base = load_base(job.model, job.out, job.device)
        self.dit, self.text = base.dit, base.text
        self.made_with: dict[str, Any] = {"base": base.hash}
        if job.recipe.dc_strength:
            load_concept_tags(job.tokens, job.dc, self.text)
            self.made_with["tags"] = hash_tags(job.tokens)
        self.made_with["adapters"] = hashes = []
        names = []
        for path in job.numbered:
            report = load_adapter(
                self.dit.network,
                path,
                base=job.facts.name,
                base_hash=base.hash,
                strength=job.recipe.dc_strength if path == job.dc else 1.0,
            )
            names.append(report.spec.name)
            hashes.append(hash_tensors(read_adapter(path)[1]))
        route_KA: torch.Tensor | None = None
        if len(job.adapters) > 1:
            set_routed(self.dit.network, names[: len(job.adapters)])
            route_KA = route_matrix(GRID, Routing(mode="composition"))
        parts = NetworkParts(dit=self.dit.to(job.device), text=self.text.to(job.device))
        spec = training_spec(job.model)
        self.backbone = self.numbers.backbone(spec, parts, job.device, route_KA)

    def notes(self) -> tuple[str, ...]:
        """Return what a person should know of the texts, before anything is generated."""
        texts = () if self.concepts is None else self.concepts.all_texts()
        return (*self.numbers.notes, *unknown_notes(texts, self.text))

    def facts(self, number: int) -> dict[str, Any]:
        """Return everything that a grid is made with; what JSON can hold."""
        generator = torch.Generator().manual_seed(self.job.recipe.seed_of(number))
        facts = generate_facts(self.job, number, self.numbers) | self._texts(generator)
        # As they come out of a file: tuples are lists there.
        read_back: dict[str, Any] = json.loads(json.dumps(facts | self.made_with))
        return read_back

    def _texts(self, generator: torch.Generator) -> dict[str, Any]:
        """Draw what a grid shows; return the texts of its cells and what they came from."""
        raise NotImplementedError

    def generate(self, number: int) -> SampledGrid:
        """Generate a grid. Paper: sec. 3.2 (Sampling Grids)."""
        facts, noise_KCFYX = self.facts(number), self._noise(number)
        cells_KCFYX = self._cells(facts, noise_KCFYX)
        still = noise_KCFYX.shape[1] - len(self.dit.config.noise_motion)
        return SampledGrid(cells_KCFYX=cells_KCFYX, drift_KMFYX=noise_KCFYX[:, still:], facts=facts)

    def _noise(self, number: int) -> torch.Tensor:
        return draw_grid_noise(self.job, number)[0]

    def _cells(self, facts: dict[str, Any], noise_KCFYX: torch.Tensor) -> torch.Tensor:
        """Generate all cells of a grid at once."""
        return self._generated(facts["texts"], noise_KCFYX[None], GRID)[0]

    def _generated(
        self, rows: list[list[str]], noise_BKCFYX: torch.Tensor, layout: GridLayout
    ) -> torch.Tensor:
        steps, scale = self.numbers.num_inference_steps, self.numbers.guidance_scale
        return generate_cells(self.backbone, rows, noise_BKCFYX, layout, steps, scale)


class CellSampler(_Sampler):
    """Generates the cells of a grid one by one with the Multi-DC LoRA.

        consistent     concept      its edit      composition    concept A    concept B
                       its edit     its edit                     A with B     A with B

    No cell sees another: each is a clip of its own, as stage `dc` trained on them, on a layout of
    1 x 1. What they have in common is their tags and, with `shared_noise`, where they start from.

    Raises:
        WeightsError: A file is missing or damaged, the tokens say no words of their concepts.
        AdapterError: The Multi-DC LoRA is of other weights.
        RecipeError: The recipe names a tag that Multi-DC does not know, or no concept fits.
    """

    def __init__(self, job: GenerateJob, recipe: CellRecipe) -> None:
        self.job, self.recipe = job, recipe
        known = read_record(job.tokens, f"{job.command('dc')} --resume   # writes them")
        self.concepts: ConceptTexts = ConceptTexts(
            chosen_concepts(known, recipe.concepts),
            recipe.places,
            own_clause_only=job.facts.own_clause_only,
        )
        super().__init__()
        check_tags(self.concepts.all_texts(), self.text.tag_names, hint="load its tokens first")

    def _texts(self, generator: torch.Generator) -> dict[str, Any]:
        texts = self.concepts.draw(self.job.mode, generator)
        return {
            "texts": texts.rows,
            "cell_texts": texts.cells,
            "concepts": texts.concepts,
            "shared_noise": self.recipe.shared_noise,
        }

    def _noise(self, number: int) -> torch.Tensor:
        noise_KCFYX = super()._noise(number)
        moving = len(self.dit.config.noise_motion)
        return (
            share_noise(noise_KCFYX, self.job.mode, moving)
            if self.recipe.shared_noise
            else noise_KCFYX
        )

    def _cells(self, facts: dict[str, Any], noise_KCFYX: torch.Tensor) -> torch.Tensor:
        """Generate each cell from its own text alone: cells are a batch of grids of one."""
        rows = [[text] for text in facts["cell_texts"]]
        return self._generated(rows, noise_KCFYX[:, None], SINGLE)[:, 0]


class WholeGridSampler(_Sampler):
    """Generates whole grids with the Grid LoRA on the base, no cell given."""

    def __init__(self, job: GenerateJob, recipe: SampleRecipe) -> None:
        self.job, self.recipe = job, recipe
        self.captions = world_captions(own_clause_only=job.facts.own_clause_only)
        self.subjects = WorldStore(job.store).names["sprites"]
        self.concepts = None
        if recipe.concept_share:
            known = read_record(job.tokens, f"{job.command('dc')} --resume")
            # Attenuated to nothing, there is nothing that tags stand for: words name a concept.
            self.concepts = ConceptTexts(
                known,
                tagged=recipe.dc_strength > 0,
                mixed=True,
                own_clause_only=job.facts.own_clause_only,
            )
        super().__init__()

    def _texts(self, generator: torch.Generator) -> dict[str, Any]:
        # Grids without concepts say nothing of them: those of earlier runs stay what they are.
        share = self.recipe.concept_share
        facts = {"concept_share": share} if share else {}
        # Nor is a share drawn for them.
        if self.concepts is not None and chance(generator) < share:
            return {"texts": self.concepts.draw(self.job.mode, generator).rows, **facts}
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
        shown = VariantSet.of_words(effects, subject, motion, element)
        return {"texts": self.captions.grid_rows(shown, (0, 1, 2, 3), generator), **facts}


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
