"""The protocol of a backbone: all that pipelines, training and eval may know of a model.

Letters: B batch, K cells, C channels, T H W pixel frames/height/width, F Y X latent
frames/rows/columns, L text tokens, E text width, A adapters.

Read `ModelSpec` (facts) and then `Backbone` (four verbs). registry.py finds a model.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import nn
from torch.nn import functional

from dcgrid.prompts.segments import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerDefaults:
    """What a model is sampled with where neither the user nor a recipe says otherwise."""

    guidance_scale: float
    """Weight of the text; 1 is none."""
    num_inference_steps: int
    """Steps from noise to video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Facts about a model that plans, readers and samplers need; no tensors."""

    name: str
    """Name on the command line, e.g. "mini"."""
    family: Literal["native", "wan"] = "native"
    """Whose networks it has: the program's own, or Wan's."""
    stride_T: int
    """Pixel frames per latent frame; a clip has stride_T * n + 1 frames."""
    stride_HW: int
    """Pixels per latent row or column."""
    latent_channels: int
    """C of the latents."""
    patch: tuple[int, int, int]
    """Latent frames, rows, columns per token."""
    fps: float
    """Frames per second that the model was trained at; > 0."""
    default_frames: int
    """Frames of a clip when the user names no duration."""
    max_frames: int
    """Most frames of one clip."""
    cell_sizes: tuple[tuple[int, int], ...]
    """Cell sizes (height, width) in pixels trained on: landscape, portrait, square."""
    noise_scale: float
    """s in x_t = (1-t) x0 + t s e."""
    time_shift: float
    """Shift of the sampling schedule towards noise; 1 is none."""
    self_conditioning: bool = False
    """True: trained (base or adapter) to read its last estimate of the clean latents."""
    text_limit: int
    """Most text tokens of one segment."""
    per_cell_time: bool
    """True: trained (base or adapter) with given cells at time 0."""
    given_first: bool
    """True: trained (base or adapter) with given cells that read given cells alone, so a `Memory`
    saves their part of later calls (docs/decisions/0014)."""
    own_clause_only: bool
    """True: a cell reads the global text and its own clause, whatever the layout says; for models
    too small to tell the clauses of other cells from their own."""
    negative_text: bool
    """True: guidance steers away from an edit's negative text. False: from no text at all, for
    models that saw only dropped text in training."""
    cell_pitch: tuple[int, int] | None
    """Token rows and columns from one cell to the next; None: cells abut."""
    noise_motion: tuple[tuple[int, float], ...]
    """How the last channels of the noise move, see flow/noise.py; empty: all noise is white."""
    most_places: int | None = None
    """Most token rows or columns of a grid that its position table knows; None: any number."""
    offset_tokens: bool
    """True: a velocity is the mean over the plain grid of tokens and one set off by half a token,
    for models trained on both (docs/decisions/0010)."""
    carried_frames: int
    """Frames that a window of a long clip is given of the one before; stride_T * n + 1."""
    blended_frames: int
    """Frames after them that both windows generate and that are mixed; a multiple of stride_T."""
    generates_from_text: bool
    """True: it makes a subject that can be recognised from words alone."""
    filling: SamplerDefaults
    """For grids in which a clip is given."""
    from_text: SamplerDefaults
    """For grids in which none is."""
    leaves_out_blocks: bool = False
    """True: it heeds a memory's `cache_threshold`."""
    license: str
    """SPDX name of the weights' licence."""
    repo: str = ""
    """Hub repository of the weights; empty: inside the package."""
    revision: str = ""
    """Pinned commit of `repo`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellText:
    """The text that each cell reads, already encoded and padded."""

    tokens_BKLE: torch.Tensor
    """Token embeddings; float."""
    valid_BKL: torch.Tensor
    """True where a token is real, False where it is padding. At least one per cell."""

    def to(self, device: torch.device) -> "CellText":
        """Return the text on a device."""
        return CellText(
            tokens_BKLE=self.tokens_BKLE.to(device), valid_BKL=self.valid_BKL.to(device)
        )


def text_batch(texts: Sequence[CellText]) -> CellText:
    """Return texts as one batch, grid after grid, each padded to the longest."""
    longest = max(text.valid_BKL.shape[-1] for text in texts)
    tokens, valid = [], []
    for text in texts:
        missing = longest - text.valid_BKL.shape[-1]
        tokens.append(functional.pad(text.tokens_BKLE, (0, 0, 0, missing)))
        valid.append(functional.pad(text.valid_BKL, (0, missing)))
    return CellText(tokens_BKLE=torch.cat(tokens), valid_BKL=torch.cat(valid))


@dataclass(frozen=True, slots=True, kw_only=True)
class TagTable:
    """Tags that prompts may name, and their embeddings; see models/tags.py. G tags."""

    names: tuple[str, ...]
    """Without brackets, all different."""
    embeddings_GE: torch.Tensor
    """One row a tag, float32."""


def cell_texts(
    prompts: Sequence[Prompt], visible_BKS: Sequence[Sequence[Sequence[bool]]]
) -> list[list[str]]:
    """Return the segments that each cell reads, B * K lists; a cell without any reads ""."""
    rows = []
    for prompt, visible_KS in zip(prompts, visible_BKS, strict=True):
        texts = [prompt.segment_text(segment) for segment in prompt.segments]
        for visible_S in visible_KS:
            rows.append([t for t, seen in zip(texts, visible_S, strict=True) if seen] or [""])
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPlaces:
    """Where the tokens of a grid stand; made by grid/coordinates.py. S tokens, cell-major."""

    coordinates_S3: torch.Tensor
    """Frame, row, column of each token, for the rotary embedding; int64."""
    position_S: torch.Tensor
    """Place of each token in grid order (f y x), for windowed attention; int64."""
    margin: float = 0.0
    """Tokens on each side of a cell that are not of its picture (grid/coordinates.py)."""

    def to(self, device: torch.device) -> "TokenPlaces":
        """Return the places on a device."""
        return TokenPlaces(
            coordinates_S3=self.coordinates_S3.to(device),
            position_S=self.position_S.to(device),
            margin=self.margin,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a backbone keeps from one call to the next: what it knows of texts and given cells.

    One a sampling and grid of tokens: given cells and places of all its calls are the same.
    """

    kept: dict[Hashable, object] = field(default_factory=dict)
    """The backbone's own; empty at first."""
    alike: bool = False
    """True: what is given, and the text of given cells, is the same in every grid of a batch, so
    one of them is kept; for the two texts of guidance."""
    cache_threshold: float = 0.0
    """Above 0: a backbone that can may leave out blocks where its first one has changed by a
    smaller share since the last whole call (approximate); 0: it never does."""


class Backbone(Protocol):
    """A video model that fills grids."""

    @property
    def spec(self) -> ModelSpec:
        """Facts about the model."""

    @property
    def network(self) -> nn.Module:
        """The network that adapters attach to."""

    @property
    def folds(self) -> bool:
        """True: an adapter may be folded into the weights. False: it is attached beside them."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def attention(self) -> str:
        """Which kernel attends; "auto" as long as none was chosen."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found out on the way, a sentence each: kernels, a compiler that failed."""

    def use_given(self, *, clean: bool, first: bool) -> None:
        """Treat given cells as the adapter that was put on was trained with.

        Args:
            clean: They enter at time 0; else noised like the rest.
            first: They read given cells alone.
        """

    def use_sampling(
        self, *, noise_scale: float, time_shift: float, self_conditioning: bool
    ) -> None:
        """Let samplers take the numbers of the adapter that was put on; they read them in `spec`.

        Args:
            noise_scale: s in x_t = (1-t) x0 + t s e.
            time_shift: Shift of the schedule towards noise; 1 is none.
            self_conditioning: True: it reads its last estimate of the clean latents.
        """

    def use_tags(self, tags: TagTable) -> None:
        """Let texts name tags, in place of any that it knew; texts without them are unchanged."""

    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode clips in [-1, 1] to normalised latents of shape BCFYX."""

    def decode(self, latents_BCFYX: torch.Tensor) -> torch.Tensor:
        """Decode normalised latents to clips in [-1, 1] of shape BCTHW."""

    def encode_text(
        self, prompts: Sequence[Prompt], visible_BKS: Sequence[Sequence[Sequence[bool]]]
    ) -> CellText:
        """Encode each segment on its own; cell k of prompt b reads the segments visible to it."""

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
        """Predict dx/dt of every cell, shape BKCFYX, at flow times in [0, 1].

        An earlier estimate of the clean latents is for models whose `spec` says self-conditioning.

        Where the time is 0 the velocity means nothing. A memory changes no number, unless its
        `cache_threshold` lets it.
        """

    def velocities(
        self,
        cells_BKCFYX: torch.Tensor,
        time_BKF: torch.Tensor,
        texts: Sequence[CellText],
        places: TokenPlaces,
        memory: Memory | None = None,
        estimates: Sequence[torch.Tensor | None] = (),
    ) -> list[torch.Tensor]:
        """Predict what `velocity` does under each of some texts; here in one call after another.

        Args:
            cells_BKCFYX: As in `velocity`, the same under all texts.
            time_BKF: Likewise.
            texts: One text, or the two of guidance.
            places: As in `velocity`.
            memory: Likewise.
            estimates: An estimate for each text; none: there is none of any.
        """
        pairs = zip(texts, estimates or [None] * len(texts), strict=True)
        return [
            self.velocity(
                cells_BKCFYX, time_BKF, text, places, memory=memory, estimate_BKCFYX=estimate
            )
            for text, estimate in pairs
        ]
