"""Three networks, whoever wrote them, and the backbone that they are together.

Training knows a model by them; a native model, and the networks of a training run, generate grids
as a `NetworkBackbone`. No numbers of any model.

Letters: B batch, K cells, C channels, T H W pixel frames/height/width, F Y X latent
frames/rows/columns, L text tokens, E text width, A adapters.

models/native and models/wan have networks of these kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import nn

from dcgrid.models.base import (
    Backbone,
    CellText,
    Memory,
    ModelSpec,
    TagTable,
    TokenPlaces,
    cell_texts,
)
from dcgrid.models.text_masking import TokenMasking
from dcgrid.prompts.segments import Prompt
from dcgrid.runtime.device import autocast


class TransformerFacts(Protocol):
    """What stages ask of a transformer's configuration."""

    @property
    def latent_channels(self) -> int:
        """C of the latents."""

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows, columns per token."""

    @property
    def cell_pitch(self) -> int | None:
        """Token rows and columns from one cell to the next; None: cells abut."""

    @property
    def noise_motion(self) -> tuple[tuple[int, float], ...]:
        """How the last channels of the noise move; empty: all noise is white."""

    @property
    def self_conditioning(self) -> bool:
        """True: the input carries the last estimate of the clean latents, too."""


class GridTransformer(nn.Module):
    """Predicts the velocity of every cell of a grid."""

    config: TransformerFacts
    given_first: bool
    """Given cells read given cells alone."""

    @property
    def network(self) -> nn.Module:
        """The module that adapters attach to, by whose names they are kept."""
        return self

    def forward(
        self,
        cells_BKCFYX: torch.Tensor,
        time_BKF: torch.Tensor,
        text: CellText,
        places: TokenPlaces,
        route_KA: torch.Tensor | None = None,
        estimate_BKCFYX: torch.Tensor | None = None,
        memory: Memory | None = None,
    ) -> torch.Tensor:
        """Return the velocity of every cell, shape BKCFYX."""
        raise NotImplementedError


class TextReader(nn.Module):
    """Reads the text of cells; may learn tags, names that stand for what no word says."""

    tags: nn.ParameterList
    """One embedding a tag, shape E; empty until `add_tags`."""

    @property
    def tag_width(self) -> int:
        """E of the tags' embeddings."""
        raise NotImplementedError

    @property
    def tag_names(self) -> tuple[str, ...]:
        """Names of the tags, without brackets."""
        raise NotImplementedError

    def add_tags(self, tags: Sequence[str]) -> list[nn.Parameter]:
        """Let the reader know tags, in place of any that it knew; return their embeddings."""
        raise NotImplementedError

    def put_tags(self, tags: TagTable) -> None:
        """Take tags, in place of any that it knew; they are not trained further."""
        with torch.no_grad():
            for tag_E, row_E in zip(self.add_tags(tags.names), tags.embeddings_GE, strict=True):
                tag_E.copy_(row_E)
                tag_E.requires_grad_(False)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Return the words of a text that the model never saw."""
        raise NotImplementedError

    def read_rows(
        self,
        rows: Sequence[Sequence[str]],
        cells: int,
        masking: TokenMasking | None = None,
    ) -> CellText:
        """Encode the segments that each cell reads, each on its own.

        Args:
            rows: B * K lists of texts, grid after grid.
            cells: K.
            masking: Which tokens are left away in training; None: none.
        """
        raise NotImplementedError


class VideoCodec(nn.Module):
    """Turns clips into normalised latents and back."""

    latent_scale: torch.Tensor
    """Size of each channel in pixels, shape C: what an error there costs."""

    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode clips in [-1, 1] to normalised latents BCFYX."""
        raise NotImplementedError

    def decode(self, latents_BCFYX: torch.Tensor) -> torch.Tensor:
        """Decode normalised latents to clips in [-1, 1], BCTHW."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkParts:
    """The networks of a model."""

    dit: GridTransformer
    """Transformer."""
    text: TextReader
    """Text encoder."""
    autoencoder: VideoCodec = field(default_factory=VideoCodec)
    """Between clips and latents; the default can neither encode nor decode."""

    def modules(self) -> tuple[nn.Module, ...]:
        """Return all three."""
        return self.autoencoder, self.dit, self.text


class NetworkBackbone(Backbone):
    """Networks that fill grids; see `models.base.Backbone` for the verbs.

    Making one lays the networks to rest and freezes them; whoever goes on to train them puts that
    back. Adapters may be attached to them.

    Args:
        spec: Facts about the model.
        parts: Its networks, where they compute.
        dtype: Of matrix products.
        route_KA: Which adapter acts on which cell, where any is routed and no call says so.
    """

    def __init__(
        self,
        spec: ModelSpec,
        parts: NetworkParts,
        dtype: torch.dtype,
        route_KA: torch.Tensor | None = None,
    ) -> None:
        self._spec, self._always_first = spec, spec.given_first
        self.parts, self.dtype = parts, dtype
        for module in parts.modules():
            module.eval().requires_grad_(False)
        self._route_KA = None if route_KA is None else route_KA.to(self.device)

    @property
    def spec(self) -> ModelSpec:
        """Facts about the model."""
        return self._spec

    def use_given(self, *, clean: bool, first: bool) -> None:
        """Treat given cells as the adapter that was put on was trained with.

        Args:
            clean: They enter at time 0; else noised like the rest.
            first: They read given cells alone.
        """
        first = first or self._always_first
        self._spec = replace(self._spec, per_cell_time=clean, given_first=first)
        self.parts.dit.given_first = first

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

    @property
    def network(self) -> nn.Module:
        """The network that adapters attach to."""
        return self.parts.dit.network

    @property
    def folds(self) -> bool:
        """Return True: the weights are whole and on the device."""
        return True

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
        return next(self.parts.dit.parameters()).device

    @torch.no_grad()
    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode clips in [-1, 1] to normalised latents, float32, BCFYX; one clip at a time."""
        with autocast(self.device, self.dtype):
            clips = [self.parts.autoencoder.encode(clip) for clip in video_BCTHW.split(1)]
        return torch.cat(clips).float()

    @torch.no_grad()
    def decode(self, latents_BCFYX: torch.Tensor) -> torch.Tensor:
        """Decode normalised latents to clips in [-1, 1], float32, BCTHW; one clip at a time."""
        with autocast(self.device, self.dtype):
            clips = [self.parts.autoencoder.decode(clip) for clip in latents_BCFYX.split(1)]
        return torch.cat(clips).float()

    @torch.no_grad()
    def encode_text(
        self, prompts: Sequence[Prompt], visible_BKS: Sequence[Sequence[Sequence[bool]]]
    ) -> CellText:
        """Encode each segment on its own; cell k of prompt b reads the segments visible to it.

        A cell that may read nothing reads the empty text.
        """
        rows = cell_texts(prompts, visible_BKS)
        return self.parts.text.read_rows(rows, cells=len(visible_BKS[0]))

    def use_tags(self, tags: TagTable) -> None:
        """Let texts name tags; see `Backbone.use_tags`."""
        self.parts.text.put_tags(tags)

    @torch.no_grad()
    def velocity(
        self,
        cells_BKCFYX: torch.Tensor,
        time_BKF: torch.Tensor,
        text: CellText,
        places: TokenPlaces,
        route_KA: torch.Tensor | None = None,
        memory: Memory | None = None,
        estimate_BKCFYX: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict dx/dt of every cell, float32, BKCFYX."""
        route_KA = self._route_KA if route_KA is None else route_KA
        with autocast(self.device, self.dtype):
            predicted: torch.Tensor = self.parts.dit(
                cells_BKCFYX, time_BKF, text, places, route_KA, estimate_BKCFYX, memory
            )
        return predicted.float()
