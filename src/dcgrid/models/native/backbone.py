"""The native backbone: autoencoder, DiT and text encoder behind the common protocol.

Letters: see models/base.py. Nothing here chooses devices; whoever loads a model does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from dcgrid.models.base import CellText, Memory, ModelSpec, TagTable, TokenPlaces, cell_texts
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.rows import encode_rows
from dcgrid.models.native.text import TextEncoder
from dcgrid.models.tags import put_tags
from dcgrid.prompts.segments import Prompt
from dcgrid.runtime.device import autocast

if TYPE_CHECKING:
    from dcgrid.models.native.t5 import T5TextEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeParts:
    """The networks of a native model."""

    autoencoder: Autoencoder
    dit: DiT
    text: "TextEncoder | T5TextEncoder"

    def modules(self) -> tuple[nn.Module, ...]:
        """Return all three."""
        return self.autoencoder, self.dit, self.text


class NativeBackbone:
    """A native model that fills grids; see `models.base.Backbone` for the verbs."""

    def __init__(self, spec: ModelSpec, parts: NativeParts, dtype: torch.dtype) -> None:
        self._spec = spec
        self.parts = parts
        self.dtype = dtype
        for module in parts.modules():
            module.eval().requires_grad_(False)

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
        first = first or self.parts.dit.config.given_first
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
        return self.parts.dit

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
        """Where the weights are."""
        return self.parts.dit.patch_in.weight.device

    @torch.no_grad()
    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode clips in [-1, 1] to normalised latents, float32, BCFYX; one clip at a time."""
        with self._precision():
            clips = [self.parts.autoencoder.encode(clip) for clip in video_BCTHW.split(1)]
        return torch.cat(clips).float()

    @torch.no_grad()
    def decode(self, latents_BCFYX: torch.Tensor) -> torch.Tensor:
        """Decode normalised latents to clips in [-1, 1], float32, BCTHW; one clip at a time."""
        with self._precision():
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
        return encode_rows(self.parts.text, rows, cells=len(visible_BKS[0]))

    def use_tags(self, tags: TagTable) -> None:
        """Let texts name tags; see `Backbone.use_tags`."""
        put_tags(self.parts.text, tags)

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
        with self._precision():
            predicted: torch.Tensor = self.parts.dit(
                cells_BKCFYX, time_BKF, text, places, route_KA, estimate_BKCFYX, memory
            )
        return predicted.float()

    def _precision(self) -> torch.autocast:
        return autocast(self.device, self.dtype)
