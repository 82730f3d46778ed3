"""What training knows of a model: three networks, whoever wrote them. No numbers of any model.

Letters: B batch, K cells, C channels, T H W pixel frames/height/width, F Y X latent
frames/rows/columns, L text tokens, E text width, A adapters.

models/native and models/wan have networks of these kinds.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from dcgrid.models.base import CellText, Memory, TokenPlaces
from dcgrid.models.text_masking import TokenMasking


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
