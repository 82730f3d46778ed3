"""A Wan checkout behind the common protocol. Read `WanBackbone`.

Letters: see models/base.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dcgrid.errors import UsageError, WeightsError
from dcgrid.models.base import CellText, Memory, ModelSpec, TokenPlaces, cell_texts
from dcgrid.models.wan.checkpoint import read_checkout
from dcgrid.models.wan.text import SegmentEncoder
from dcgrid.models.wan.transformer import predict_velocity
from dcgrid.prompts.segments import Prompt

Foreign: TypeAlias = Any
"""A module of diffusers or transformers, whose parts their types do not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WanParts:
    """The networks of a checkout."""

    transformer: Foreign
    """`diffusers.WanTransformer3DModel`."""
    vae: Foreign
    """`diffusers.AutoencoderKLWan`."""
    segments: SegmentEncoder
    """Tokenizer and `transformers.UMT5EncoderModel`."""


class WanBackbone:
    """A Wan model that fills grids; see `models.base.Backbone` for the verbs.

    Each cell is encoded and decoded alone, decoded in tiles where it is large.
    """

    def __init__(self, spec: ModelSpec, parts: WanParts) -> None:
        self._spec = spec
        self.parts = parts
        for module in (parts.transformer, parts.vae, parts.segments.encoder):
            module.eval().requires_grad_(False)
        config = parts.vae.config
        shape = (1, spec.latent_channels, 1, 1, 1)
        self._mean = torch.tensor(config.latents_mean).reshape(shape)
        self._spread = torch.tensor(config.latents_std).reshape(shape)

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
        self._spec = replace(self._spec, per_cell_time=clean, given_first=first)

    @property
    def network(self) -> nn.Module:
        """The network that adapters attach to."""
        network: nn.Module = self.parts.transformer
        return network

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.network.parameters()).device

    @torch.no_grad()
    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Encode clips in [-1, 1] to normalised latents, float32, BCFYX; one clip at a time."""
        vae = self.parts.vae
        clips = [vae.encode(c.to(vae.dtype)).latent_dist.mode() for c in video_BCTHW.split(1)]
        latents_BCFYX = torch.cat(clips).float()
        return (latents_BCFYX - self._mean.to(latents_BCFYX)) / self._spread.to(latents_BCFYX)

    @torch.no_grad()
    def decode(self, latents_BCFYX: Tensor) -> Tensor:
        """Decode normalised latents to clips in [-1, 1], float32, BCTHW; one clip at a time."""
        vae, clips = self.parts.vae, []
        for latents in latents_BCFYX.float().split(1):
            latents = latents * self._spread.to(latents) + self._mean.to(latents)
            clips.append(vae.decode(latents.to(vae.dtype), return_dict=False)[0])
        return torch.cat(clips).float().clamp(-1, 1)

    @torch.no_grad()
    def encode_text(
        self, prompts: Sequence[Prompt], visible_BKS: Sequence[Sequence[Sequence[bool]]]
    ) -> CellText:
        """Encode each segment on its own; cell k of prompt b reads the segments visible to it.

        A cell that may read nothing reads the empty text.

        Raises:
            PromptError: A cell's text is longer than Wan reads.
        """
        rows = cell_texts(prompts, visible_BKS)
        return self.parts.segments.encode_rows(rows, cells=len(visible_BKS[0]))

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Return no word: UMT5 knows pieces of words, and so all words."""
        del text
        return ()

    @torch.no_grad()
    def velocity(
        self,
        cells_BKCFYX: Tensor,
        time_BKF: Tensor,
        text: CellText,
        places: TokenPlaces,
        route_KA: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Predict dx/dt of every cell, float32, BKCFYX."""
        return predict_velocity(
            self.parts.transformer,
            cells_BKCFYX,
            time_BKF,
            text,
            places,
            route_KA,
            memory,
            given_first=self._spec.given_first,
        ).float()

    def upsample(self, video_BCTHW: Tensor) -> Tensor:
        """Return the clips as they are: Wan's cells are large enough."""
        return video_BCTHW


def load_wan(folder: Path, *, device: torch.device | str, dtype: torch.dtype) -> WanBackbone:
    """Load a checkout in the layout of diffusers.

    Args:
        folder: The checkout.
        device: Where the weights go.
        dtype: Of transformer and text encoder; norms and times stay float32, and so does the
            autoencoder.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: A file is missing, damaged, or of another family.
    """
    facts = read_checkout(folder)
    diffusers, transformers = _libraries()
    try:
        transformer: Foreign = diffusers.WanTransformer3DModel.from_pretrained(
            folder / "transformer", torch_dtype=dtype, use_safetensors=True, local_files_only=True
        )
        vae: Foreign = diffusers.AutoencoderKLWan.from_pretrained(
            folder / "vae", torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        encoder: Foreign = transformers.UMT5EncoderModel.from_pretrained(
            folder / "text_encoder", dtype=dtype, use_safetensors=True, local_files_only=True
        )
        tokenizer: Foreign = transformers.AutoTokenizer.from_pretrained(
            folder / "tokenizer", local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"cannot load {folder}: {str(error)[:300]}", hint="fetch the model again"
        ) from error
    _check_finite(folder, transformer)
    vae.enable_tiling()
    for module in (transformer, vae, encoder):
        module.to(device)
    parts = WanParts(transformer=transformer, vae=vae, segments=SegmentEncoder(tokenizer, encoder))
    return WanBackbone(facts.spec, parts)


def _libraries() -> tuple[Foreign, Foreign]:
    try:
        import diffusers
        import ftfy  # noqa: F401  # text is cleaned with it
        import transformers
    except ImportError as error:
        raise UsageError(
            f"Wan models need {error.name}", hint="pip install 'dcgrid[wan]'"
        ) from error
    # Their bars and warnings would tear ours; what matters comes back as an exception.
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    return diffusers, transformers


def _check_finite(folder: Path, transformer: nn.Module) -> None:
    for name, parameter in transformer.named_parameters():
        if not parameter.isfinite().all():
            raise WeightsError(
                f"{folder}: the transformer's {name} holds numbers that are not finite",
                hint="fetch the model again",
            )
