"""Validation videos: the same few grids, generated now and then by the network as it is.

    <run>/validation/000500.png     frames of every cell, beside the truth where there is one
    <run>/validation/000500.mp4     the grids one below the other, on their right the truth

Grids are generated as `edit` and `compose` generate them. Nothing here draws from the run's chance.
Read `Validation`.

Letters: K cells, C channels, M moving channels of noise, T H W pixel frames/height/width, F Y X
latent frames/rows/columns; THWC is a clip as uint8.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from dcgrid.adapters.attach import set_strength
from dcgrid.errors import DcgridError
from dcgrid.io.progress import NullProgress
from dcgrid.models.base import ModelSpec
from dcgrid.models.trunk import (
    GridTransformer,
    NetworkBackbone,
    NetworkParts,
    TextReader,
    VideoCodec,
)
from dcgrid.pipelines.job import ComposeJob, EditJob
from dcgrid.pipelines.resolve import resolve
from dcgrid.pipelines.sampling import fill_grid, grid_noise, grid_request, latent_size
from dcgrid.runtime.device import choose_dtype
from dcgrid.runtime.processes import ALONE, Processes
from dcgrid.synthetic.effects import EFFECT_NAMES
from dcgrid.synthetic.fusion import ELEMENTS, draw_element, fuse_around, fuse_lit
from dcgrid.synthetic.world_clips import WorldClip, WorldClips, pick
from dcgrid.train.data.generated_grids import SampledGrid, SampledGrids
from dcgrid.train.evaluation import at_rest
from dcgrid.train.settings import TrainRecipe
from dcgrid.train.stages.flow_matching import GRID, generate_cells
from dcgrid.video.pixels import pixels_of_unit
from dcgrid.video.sheet import tile_grid, write_contact_sheet
from dcgrid.video.write import write_video

FOLDER_NAME = "validation"
"""Folder of the pictures in a run's folder."""
VALIDATION_GRIDS = 2
"""Grids that are generated each time."""
VALIDATION_SEED = 30_001
"""Seed of the first grid and of its noise, whatever the run's seed is."""
_CELLS, _COLUMNS = 4, 2
_LABEL = 48
"""Longest label of a cell on the sheet."""
FROM_TEXT: Mapping[str, Any] = MappingProxyType({"num_inference_steps": 8, "guidance_scale": 3.0})
"""How a grid is sampled that no clip is given of. Recipes of effects have values for edits, where
one step may do; stage `sample` takes more steps than a look at a run is worth."""
_SHOWN_FRAMES = 4
"""Frames of a cell on the sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveNetworks:
    """The networks of a run that goes on, adapters and all."""

    spec: ModelSpec
    """Facts about the model."""
    dit: GridTransformer
    """Transformer."""
    text: TextReader
    """Text encoder."""
    autoencoder: VideoCodec
    """Between clips and latents."""
    route_KA: torch.Tensor | None = None
    """Which adapter acts on which cell, where any is routed."""
    given_clean: bool = True
    """True: given cells enter clean at time 0; False: noised like the rest."""
    noise_scale: float
    """s of samplers, as the run's file will say it."""
    time_shift: float
    """Shift of samplers' times, likewise."""
    self_conditioning: bool = False
    """True: the network reads its last estimate, as in training."""
    multi_dc: str = ""
    """Name of the Multi-DC LoRA that acts in training; empty: none does."""
    dc_strength: float = 0.0
    """Its strength in training; samplers leave it away."""

    def backbone(self, spec: ModelSpec) -> NetworkBackbone:
        """Return the networks as a backbone, with the numbers that the run's file will name.

        They are laid to rest and frozen; see `as_they_were`.
        """
        parts = NetworkParts(dit=self.dit, text=self.text, autoencoder=self.autoencoder)
        dtype = choose_dtype("auto", next(self.dit.parameters()).device)
        found = NetworkBackbone(spec, parts, dtype, self.route_KA)
        found.use_given(clean=self.given_clean, first=self.dit.given_first)
        found.use_sampling(
            noise_scale=self.noise_scale,
            time_shift=self.time_shift,
            self_conditioning=self.self_conditioning,
        )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationGrid:
    """A grid to be generated, in the words of `edit` or `compose`; its layout is 2x2."""

    given: tuple[torch.Tensor, ...]
    """Clips THWC of the first cells; empty: every cell is generated."""
    effects: tuple[str, ...] = ()
    """Effects of the cells after the first; empty: the grid is a composition. Beside `rows`: what
    is said of each of the four cells."""
    subject: str
    """What the clip shows."""
    motion: str
    """What it does."""
    concept: str = ""
    """In a composition: what the second cell shows."""
    concept_motion: str = ""
    """What that does."""
    size_THW: tuple[int, int, int]
    """Frames, height and width of a cell."""
    seed: int
    """Seed of the noise."""
    truth: Mapping[int, torch.Tensor] = field(default_factory=dict)
    """What generated cells should show, THWC by cell, as far as it is known."""
    rows: Sequence[list[str]] = ()
    """Texts that each cell reads, in place of all words above; none: the words say it."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What each cell shows, in a word or two; of texts, where cells differ: the end."""
        if self.rows:
            return tuple(text[-_LABEL:] for text in self.effects)
        if self.effects:
            return (self.subject, *self.effects)
        return (f"A, {self.subject}", f"B, {self.concept}", "fusion", "fusion-2")


GenerateFn = Callable[[LiveNetworks, ValidationGrid], Sequence[torch.Tensor]]
"""Generates a grid as `edit` or `compose` would; returns its cells, THWC, given ones as they are.

It may set modes and gradients of the networks as it likes: they are put back."""


def generate_as_edit(networks: LiveNetworks, grid: ValidationGrid) -> list[torch.Tensor]:
    """Generate a validation grid on the path of `edit` and `compose`; see `GenerateFn`."""
    shared: dict[str, Any] = {
        "seed": grid.seed,
        "subject": grid.subject,
        "motion": grid.motion,
        **({} if grid.given else FROM_TEXT),
    }
    job: EditJob | ComposeJob
    if grid.effects:
        job = EditJob(input=Path(), effects=grid.effects, **shared)
    else:
        shared |= {"concept": grid.concept, "concept_motion": grid.concept_motion}
        job = ComposeJob(first=Path(), second=Path(), **shared)
    return generate_job(networks.backbone(networks.spec), job, grid.given, grid.size_THW)


def generate_job(
    backbone: NetworkBackbone,
    job: EditJob | ComposeJob,
    given: Sequence[torch.Tensor],
    size_THW: tuple[int, int, int],
) -> list[torch.Tensor]:
    """Generate the grid that a job asks for, its clips already in memory.

    Args:
        backbone: The model.
        job: Says what the cells show, with which sampler values and seed; its files are not read.
        given: Clips THWC, uint8, in the order of the layout's given cells; empty: the model
            generates these cells, too.
        size_THW: Frames, height and width of a cell.

    Returns:
        All cells in order, THWC, uint8, on the CPU.

    Raises:
        RecipeError: An effect or the layout is unknown or wrong.
        UsageError: The job is for no grid that can be generated.
        LayoutError: Cells of this size cannot be laid out.
    """
    grid = resolve(job)
    request = grid_request(grid, backbone.spec, given, seed=job.seed, size_THW=size_THW)
    generated = fill_grid(backbone, request, NullProgress())
    # Clones: what was made in inference mode may not be changed outside.
    return [
        request.given[cell] if cell in request.given else generated[cell].clone()
        for cell in range(request.layout.count)
    ]


class Validation:
    """Generates the grids of one run and writes the pictures.

    Args:
        folder: The run's folder.
        recipe: Its recipe; grids have the shape of the last phase.
        networks: What it trains, and what that stands on.
        source: Where clips come from; or grids of stage `cells`, for a run that sees no others.
        generate: Generates a grid.
        say: Called if a picture could not be made.
        processes: Those that train together. All of them generate, for they may share the weights;
            the first one writes.
    """

    def __init__(
        self,
        folder: Path,
        recipe: TrainRecipe,
        networks: LiveNetworks,
        source: WorldClips | SampledGrids,
        generate: GenerateFn,
        say: Callable[[str], None],
        processes: Processes = ALONE,
    ) -> None:
        self.folder, self._processes = folder / FOLDER_NAME, processes
        self._recipe, self._networks, self._source = recipe, networks, source
        self._generate, self._say = generate, say
        self._grids: list[ValidationGrid] = []

    def forget(self) -> None:
        """Remove the pictures of an earlier run."""
        for path in self.folder.glob("[0-9]*"):
            if path.suffix in (".png", ".mp4"):
                path.unlink(missing_ok=True)

    def __call__(self, step: int) -> None:
        """Generate the grids with the weights as they are and write sheet and video of a step.

        A picture is not worth a run: what goes wrong with it is said, and that is all. A disk that
        is full ends the run at its next checkpoint. Of several processes, one that fails in the
        middle of generating ends the run all the same: the others would wait for it.
        """
        try:
            if not self._grids:
                self._grids = self._drawn()
            with as_they_were(self._networks):
                generated = [
                    self._from_texts(grid) if grid.rows else self._generate(self._networks, grid)
                    for grid in self._grids
                ]
            if self._processes.is_first:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._write(self.folder / f"{step:06d}", generated)
        except DcgridError as error:
            self._say(f"no validation video of step {step}: {error}")
        except Exception as error:  # of any kind, out of memory for one: the run goes on
            if self._processes.count > 1:
                raise
            self._say(f"no validation video of step {step}: {type(error).__name__}: {error}")

    @property
    def _world(self) -> WorldClips:
        """The clips of a run that sees some."""
        if not isinstance(self._source, WorldClips):
            raise ValueError("a run on made grids alone has no clips")
        return self._source

    def _drawn(self) -> list[ValidationGrid]:
        """Return the grids: the same in every run of this stage, mode and shape."""
        if isinstance(self._source, WorldClips):
            return [self._draw(number) for number in range(VALIDATION_GRIDS)]
        made = self._source.first(self._recipe.phases[-1], VALIDATION_GRIDS)
        return [self._made(grid, VALIDATION_SEED + number) for number, grid in enumerate(made)]

    def _made(self, grid: SampledGrid, seed: int) -> ValidationGrid:
        """Return a grid under the texts of a made one, whose cells are the truth."""
        phase = self._recipe.phases[-1]
        device = next(self._networks.dit.parameters()).device
        return ValidationGrid(
            effects=tuple(grid.facts.get("cell_texts", ("",) * _CELLS)),
            given=(),
            subject="",
            motion="",
            size_THW=(phase.frames, *grid.size),
            seed=seed,
            truth=dict(enumerate(self._decoded(grid.cells_KCFYX.to(device)))),
            rows=grid.rows,
        )

    def _from_texts(self, grid: ValidationGrid) -> list[torch.Tensor]:
        """Generate all cells of a grid from its texts, as stage `sample` does."""
        networks = self._networks
        device = next(networks.dit.parameters()).device
        spec = networks.spec
        size_FYX = latent_size(spec, grid.size_THW)
        noise_BKCFYX = grid_noise(spec, GRID.count, size_FYX, grid.seed).to(device)
        backbone = networks.backbone(replace(spec, offset_tokens=False))
        steps, scale = FROM_TEXT["num_inference_steps"], FROM_TEXT["guidance_scale"]
        made_BKCFYX = generate_cells(backbone, list(grid.rows), noise_BKCFYX, GRID, steps, scale)
        return self._decoded(made_BKCFYX[0])

    @torch.no_grad()
    def _decoded(self, cells_KCFYX: torch.Tensor) -> list[torch.Tensor]:
        """Decode cells one by one to frames THWC, uint8, on the CPU."""
        clips = (self._networks.autoencoder.decode(cell[None]) for cell in cells_KCFYX)
        return [_frames((clip_BCTHW[0].float() + 1) / 2) for clip_BCTHW in clips]

    def _draw(self, number: int) -> ValidationGrid:
        """Draw one of the grids about a clip of the world."""
        generator = torch.Generator().manual_seed(VALIDATION_SEED + number)
        phase, filling = self._recipe.phases[-1], self._recipe.stage == "fill"
        named = bool(self._world.store.names["sprites"])
        draw = self._world.draw_subject if named else self._world.draw
        drawn = draw(phase.frames, phase.sizes[0], generator)
        make = self._composition if self._recipe.mode == "composition" else self._edits
        return make(drawn, VALIDATION_SEED + number, generator, filling=filling)

    def _edits(
        self, drawn: WorldClip, seed: int, generator: torch.Generator, *, filling: bool
    ) -> ValidationGrid:
        """Return a grid of one clip under three effects, the truth made of the same noise."""
        order = torch.randperm(len(EFFECT_NAMES), generator=generator).tolist()
        effects = tuple(EFFECT_NAMES[i] for i in order[: _CELLS - 1])
        truth: dict[int, torch.Tensor] = {}
        if filling:
            for cell, name in enumerate(effects, start=1):
                drift = self._drift(drawn.clip_CTHW, seed, cell, generator)
                made = self._world.render(name, drawn, generator, drift)
                truth[cell] = _frames(made)
        return ValidationGrid(
            given=(_frames(drawn.clip_CTHW),) if filling else (),
            effects=effects,
            subject=drawn.subject,
            motion=drawn.motion,
            size_THW=_size(drawn.clip_CTHW),
            seed=seed,
            truth=truth,
        )

    def _drift(
        self, clip_CTHW: torch.Tensor, seed: int, cell: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Return the moving noise MFYX that a cell is generated from, where the model has any.

        Rain then falls in the truth where it should fall in the generated cell.
        """
        spec = self._networks.spec
        if not spec.noise_motion:
            return self._world.draw_drift(clip_CTHW, 1, generator)[0]
        size_FYX = latent_size(spec, _size(clip_CTHW))
        noise_BKCFYX = grid_noise(spec, _CELLS, size_FYX, seed)
        return noise_BKCFYX[0, cell, -len(spec.noise_motion) :].to(clip_CTHW.device)

    def _composition(
        self, drawn: WorldClip, seed: int, generator: torch.Generator, *, filling: bool
    ) -> ValidationGrid:
        """Return a grid of a clip, an element alone, and two fusions of them."""
        element = tuple(ELEMENTS.values())[pick(len(ELEMENTS), generator)]
        clip_CTHW, truth = drawn.clip_CTHW, {}
        seconds_T = self._world.seconds(clip_CTHW.shape[1])
        element_CTHW = draw_element(element.name, clip_CTHW, seconds_T, generator)
        if filling:
            fusions = (fuse(clip_CTHW, element_CTHW) for fuse in (fuse_around, fuse_lit))
            truth = {cell: _frames(made) for cell, made in enumerate(fusions, start=2)}
        return ValidationGrid(
            given=(_frames(clip_CTHW), _frames(element_CTHW)) if filling else (),
            subject=drawn.subject,
            motion=drawn.motion,
            concept=element.phrases[0],
            concept_motion=element.motion,
            size_THW=_size(clip_CTHW),
            seed=seed,
            truth=truth,
        )

    def _write(self, stem: Path, generated: Sequence[Sequence[torch.Tensor]]) -> None:
        rows, labels, films = [], [], []
        for number, (grid, cells) in enumerate(zip(self._grids, generated, strict=True), start=1):
            sides = [tile_grid(cells, _CELLS // _COLUMNS, _COLUMNS)]
            if grid.truth:
                shown = [grid.truth.get(cell, clip) for cell, clip in enumerate(cells)]
                sides.append(tile_grid(shown, _CELLS // _COLUMNS, _COLUMNS))
            films.append(torch.cat(sides, dim=2))
            for cell, (clip, label) in enumerate(zip(cells, grid.labels, strict=True)):
                rows.append([clip, grid.truth[cell]] if cell in grid.truth else [clip])
                kind = " (given)" if cell < len(grid.given) else ""
                labels.append(f"{number}: {label}{kind}")
        shown_frames = min(_SHOWN_FRAMES, self._grids[0].size_THW[0])
        heads = ["generated", *[""] * (shown_frames - 1)] + ["truth"] * bool(self._grids[0].truth)
        write_contact_sheet(
            stem.with_suffix(".png"),
            rows,
            labels,
            heads=heads,
            frames_per_clip=shown_frames,
            overwrite=True,
        )
        fps = self._networks.spec.fps
        write_video(stem.with_suffix(".mp4"), torch.cat(films, dim=1), fps, overwrite=True)


@contextmanager
def as_they_were(networks: LiveNetworks) -> Iterator[None]:
    """Lay the networks to rest; put back what of modes and gradients anybody set inside."""
    parts = (networks.dit, networks.text, networks.autoencoder)
    trained = {p: p.requires_grad for part in parts for p in part.parameters()}
    try:
        with at_rest(*parts), _attenuated(networks):
            yield
    finally:
        for parameter, requires_grad in trained.items():
            parameter.requires_grad_(requires_grad)


@contextmanager
def _attenuated(networks: LiveNetworks) -> Iterator[None]:
    """Leave the Multi-DC LoRA away, as samplers do. Paper: sec. 3.2, Table 1."""
    if not networks.multi_dc:
        yield
        return
    set_strength(networks.dit.network, networks.multi_dc, 0.0)
    try:
        yield
    finally:
        set_strength(networks.dit.network, networks.multi_dc, networks.dc_strength)


def _frames(clip_CTHW: torch.Tensor) -> torch.Tensor:
    """Turn a clip in [0, 1] into frames THWC, uint8, on the CPU."""
    return pixels_of_unit(clip_CTHW).permute(1, 2, 3, 0).contiguous().cpu()


def _size(clip_CTHW: torch.Tensor) -> tuple[int, int, int]:
    frames, height, width = clip_CTHW.shape[1:]
    return frames, height, width
