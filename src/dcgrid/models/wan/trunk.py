"""A Wan checkout's networks as training knows them. Read `load_trunk` and `load_codec`.

Letters: see models/trunk.py; S tokens, D width.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dcgrid.models.base import CellText, Memory, ModelSpec, TokenPlaces
from dcgrid.models.text_masking import TokenMasking
from dcgrid.models.trunk import GridTransformer, TextReader, VideoCodec
from dcgrid.models.wan.checkpoint import WanFacts
from dcgrid.models.wan.latents import LatentScale, decode_clips, encode_clips
from dcgrid.models.wan.parts import load_networks, load_vae
from dcgrid.models.wan.text import SegmentEncoder
from dcgrid.models.wan.transformer import Context, predict_velocity, run_block

Foreign: TypeAlias = Any
"""A module of diffusers or transformers, whose parts their types do not tell."""
RunBlock = Callable[[Foreign, Tensor, Context], Tensor]
"""Carries tokens BSD through one block."""

_TAG = re.compile(r"\[([^\[\]]+)\]")
_MOST_TEXTS = 4096
"""Encoded segments that are kept; those of captions come again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WanTransformerFacts:
    """See `models.trunk.TransformerFacts`."""

    latent_channels: int
    patch: tuple[int, int, int]
    cell_pitch: int | None = None
    noise_motion: tuple[tuple[int, float], ...] = ()
    self_conditioning: bool = False


class WanTransformer(GridTransformer):
    """Wan's transformer; adapters are named as in diffusers.

    `run_block`, and the `blocks` that it gets, may be replaced by ones that keep less for the
    backward pass, or gather weights that several processes share (train/scale.py).
    """

    def __init__(self, transformer: Foreign, spec: ModelSpec) -> None:
        super().__init__()
        self.transformer = transformer
        self.config = WanTransformerFacts(latent_channels=spec.latent_channels, patch=spec.patch)
        self.given_first = spec.given_first
        self.run_block: RunBlock = run_block
        self.blocks: tuple[Foreign, ...] | None = None

    @property
    def network(self) -> nn.Module:
        """The diffusers module."""
        network: nn.Module = self.transformer
        return network

    def forward(
        self,
        cells_BKCFYX: Tensor,
        time_BKF: Tensor,
        text: CellText,
        places: TokenPlaces,
        route_KA: Tensor | None = None,
        estimate_BKCFYX: Tensor | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Return the velocity of every cell, shape BKCFYX; there is no self-conditioning."""
        return predict_velocity(
            self.transformer,
            cells_BKCFYX,
            time_BKF,
            text,
            places,
            route_KA,
            memory,
            given_first=self.given_first,
            blocks=self.blocks,
            each=self.run_block,
        )


class WanText(TextReader):
    """UMT5, and tags that are learnt as embeddings of its input.

    Segments without tags are encoded once and kept on the CPU.
    """

    def __init__(self, segments: SegmentEncoder) -> None:
        super().__init__()
        self.segments = segments
        self.encoder = segments.encoder
        self.tags = nn.ParameterList()
        self._names: tuple[str, ...] = ()
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def tag_width(self) -> int:
        """Width of UMT5's embeddings."""
        return int(self.encoder.config.d_model)

    @property
    def tag_names(self) -> tuple[str, ...]:
        """Names of the tags, without brackets."""
        return self._names

    def add_tags(self, tags: Sequence[str]) -> list[nn.Parameter]:
        """Let the encoder know tags, in place of any that it knew; all start at zero.

        Raises:
            ValueError: A name stands twice.

        Paper: sec. 3.1 (unique tokens)
        """
        if len(set(tags)) != len(tags):
            raise ValueError(f"tags stand twice: {tags}")
        device = next(self.encoder.parameters()).device
        # Weights that are read from disk at every visit have no device in between.
        device = torch.device("cpu") if device.type == "meta" else device
        self._names = tuple(tags)
        self.tags = nn.ParameterList(
            nn.Parameter(torch.zeros(self.tag_width, device=device)) for _ in tags
        )
        return list(self.tags)

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Return no word: UMT5 knows pieces of words, and so all words."""
        del text
        return ()

    def read_rows(
        self,
        rows: Sequence[Sequence[str]],
        cells: int,
        masking: TokenMasking | None = None,
    ) -> CellText:
        """Encode what each cell reads; see `SegmentEncoder.encode_rows`."""
        return self.segments.encode_rows(rows, cells, self._encode, masking)

    def _encode(self, text: str) -> Tensor:
        """Return the embeddings LE of one segment."""
        named = [m for m in _TAG.finditer(text) if m.group(1) in self._names]
        if named:
            return self._encode_tagged(text, named)
        if text not in self._known:
            self._known[text] = self.segments.encode(text).cpu()
            if len(self._known) > _MOST_TEXTS:
                self._known.popitem(last=False)
        self._known.move_to_end(text)
        return self._known[text].to(next(self.encoder.parameters()).device)

    def _encode_tagged(self, text: str, named: Sequence[re.Match[str]]) -> Tensor:
        """Encode a segment in which tags stand; gradients reach them through the frozen encoder."""
        words = self.encoder.get_input_embeddings()
        pieces, end = [], 0
        for match in named:
            pieces.append(self._words(words, text[end : match.start()]))
            tag_E = self.tags[self._names.index(match.group(1))]
            pieces.append(tag_E[None].to(words.weight))
            end = match.end()
        pieces.append(self._words(words, text[end:]))
        pieces.append(words(torch.tensor([self.segments.end_token], device=words.weight.device)))
        embedded_1LE = torch.cat(pieces)[None]
        valid_1L = torch.ones(embedded_1LE.shape[:2], device=embedded_1LE.device)
        states: Tensor = self.encoder(inputs_embeds=embedded_1LE, attention_mask=valid_1L)[0]
        return states[0]

    def _words(self, words: Foreign, text: str) -> Tensor:
        ids = torch.tensor(self.segments.tokens(text), dtype=torch.long)
        found: Tensor = words(ids.to(words.weight.device))
        return found


class WanCodec(VideoCodec):
    """Wan's autoencoder; every channel of its latents counts the same."""

    def __init__(self, vae: Foreign) -> None:
        super().__init__()
        self.vae = vae
        self._scale = LatentScale.of(vae)
        self.register_buffer("latent_scale", torch.ones(int(vae.config.z_dim)), persistent=False)

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Encode clips in [-1, 1] to normalised latents, float32, BCFYX; one clip at a time."""
        return encode_clips(self.vae, self._scale, video_BCTHW)

    def decode(self, latents_BCFYX: Tensor) -> Tensor:
        """Decode normalised latents to clips in [-1, 1], float32, BCTHW; one clip at a time."""
        return decode_clips(self.vae, self._scale, latents_BCFYX)


def load_trunk(
    facts: WanFacts, *, device: torch.device, dtype: torch.dtype
) -> tuple[WanTransformer, WanText]:
    """Load transformer and text encoder of a checkout, frozen and at rest.

    Args:
        facts: What its folder says.
        device: Where they go.
        dtype: Of both; adapters have their own.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: A file is missing, damaged, or of another family.
    """
    transformer, segments = load_networks(facts.folder, dtype)
    trunk = WanTransformer(transformer, facts.spec), WanText(segments)
    for network in trunk:
        network.to(device).eval().requires_grad_(False)
    return trunk


def load_codec(facts: WanFacts, *, device: torch.device) -> WanCodec:
    """Load the autoencoder of a checkout alone, frozen and at rest, float32.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: A file is missing, damaged, or of another family.
    """
    return WanCodec(load_vae(facts.folder)).to(device).eval().requires_grad_(False)
