"""Generate grids with the networks of a training run, on the path that every command takes.

Letters: K cells, A adapters; THWC is a clip as uint8.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dcgrid.io.progress import NullProgress
from dcgrid.models.base import CellText, Memory, ModelSpec, TagTable, TokenPlaces, cell_texts
from dcgrid.models.registry import training_spec
from dcgrid.models.tags import put_tags
from dcgrid.models.trunk import GridTransformer, TextReader, VideoCodec
from dcgrid.pipelines.job import GridJob
from dcgrid.pipelines.resolve import resolve
from dcgrid.pipelines.sampling import FillSettings, GridRequest, fill_grid, grid_request
from dcgrid.prompts import Prompt
from dcgrid.runtime.device import autocast, choose_dtype


class LiveBackbone:
    """A training run's networks as a `Backbone`: adapters are attached.

    Making one lays the networks to rest and freezes them, as for any backbone; whoever goes on to
    train them puts that back.
    """

    def __init__(
        self,
        model: str,
        dit: GridTransformer,
        text: TextReader,
        codec: VideoCodec,
        route_KA: Tensor | None = None,
    ) -> None:
        """Take the networks.

        Args:
            model: Name of the model.
            dit: Transformer, adapters and all.
            text: Text encoder.
            codec: Autoencoder.
            route_KA: Which adapter acts on which cell, where any is routed.
        """
        self._dit, self._text, self._codec = dit, text, codec
        for network in (dit, text, codec):
            network.eval().requires_grad_(False)
        self._spec = training_spec(model)
        self._usual_first = self._spec.given_first
        self._dtype = choose_dtype("auto", self.device)
        self._route_KA = None if route_KA is None else route_KA.to(self.device)

    @property
    def spec(self) -> ModelSpec:
        """Facts about the model."""
        return self._spec

    @property
    def network(self) -> nn.Module:
        """The network that adapters are on."""
        return self._dit.network

    @property
    def folds(self) -> bool:
        """Return False: what is trained stays beside the weights."""
        return False

    @property
    def attention(self) -> str:
        """Return "auto": torch's own pick."""
        return "auto"

    @property
    def notes(self) -> tuple[str, ...]:
        """Return nothing: there is nothing to find out."""
        return ()

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self._dit.parameters()).device

    def use_given(self, *, clean: bool, first: bool) -> None:
        """Treat given cells as the adapters are trained with; see `Backbone.use_given`."""
        first = first or self._usual_first
        self._spec = replace(self._spec, per_cell_time=clean, given_first=first)
        self._dit.given_first = first

    def use_sampling(
        self, *, noise_scale: float, time_shift: float, self_conditioning: bool
    ) -> None:
        """Let samplers take the numbers of the adapter that was put on; see `models.base`."""
        self._spec = replace(
            self._spec,
            noise_scale=noise_scale,
            time_shift=time_shift,
            self_conditioning=self_conditioning,
        )

    def use_tags(self, tags: TagTable) -> None:
        """Let texts name tags, in place of those that the run trains with."""
        put_tags(self._text, tags)

    @torch.no_grad()
    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Encode clips in [-1, 1] to normalised latents, float32, BCFYX; one clip at a time."""
        with autocast(self.device, self._dtype):
            return torch.cat([self._codec.encode(clip) for clip in video_BCTHW.split(1)]).float()

    @torch.no_grad()
    def decode(self, latents_BCFYX: Tensor) -> Tensor:
        """Decode normalised latents to clips in [-1, 1], float32, BCTHW; one clip at a time."""
        with autocast(self.device, self._dtype):
            return torch.cat([self._codec.decode(one) for one in latents_BCFYX.split(1)]).float()

    @torch.no_grad()
    def encode_text(
        self, prompts: Sequence[Prompt], visible_BKS: Sequence[Sequence[Sequence[bool]]]
    ) -> CellText:
        """Encode each segment on its own; cell k of prompt b reads the segments visible to it."""
        return self._text.read_rows(cell_texts(prompts, visible_BKS), cells=len(visible_BKS[0]))

    @torch.no_grad()
    def velocity(
        self,
        cells_BKCFYX: Tensor,
        time_BKF: Tensor,
        text: CellText,
        places: TokenPlaces,
        route_KA: Tensor | None = None,
        memory: Memory | None = None,
        estimate_BKCFYX: Tensor | None = None,
    ) -> Tensor:
        """Predict dx/dt of every cell, float32, BKCFYX; without a route with the run's own."""
        route_KA = self._route_KA if route_KA is None else route_KA
        with autocast(self.device, self._dtype):
            predicted: Tensor = self._dit(
                cells_BKCFYX, time_BKF, text, places, route_KA, estimate_BKCFYX, memory
            )
        return predicted.float()


def generate_cells(
    backbone: LiveBackbone,
    job: GridJob,
    given: Sequence[Tensor],
    size_THW: tuple[int, int, int],
) -> list[Tensor]:
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
    request = _request(backbone, job, given, size_THW)
    settings = FillSettings(seed=job.seed, device=backbone.device)
    filled = fill_grid(backbone, request, settings, NullProgress())
    # Clones: what was made in inference mode may not be changed outside.
    generated = {one.cell: one.frames_THWC.clone() for one in filled}
    return [{**request.given, **generated}[cell] for cell in range(request.layout.count)]


def _request(
    backbone: LiveBackbone,
    job: GridJob,
    given: Sequence[Tensor],
    size_THW: tuple[int, int, int],
) -> GridRequest:
    """Return what a job asks of the model, with its clips or without any."""
    grid = resolve(job)
    if given:
        return grid_request(grid, backbone.spec, given)
    blank_THWC = torch.zeros(*size_THW, 3, dtype=torch.uint8)
    request = grid_request(grid, backbone.spec, [blank_THWC] * len(grid.given))
    # The cells that are no longer given are guided as the first edit is.
    scales = dict.fromkeys(grid.given, request.guidance_scale[grid.tries[0][0]])
    return replace(
        request,
        given={},
        size_THW=size_THW,
        guidance_scale={**scales, **request.guidance_scale},
    )
