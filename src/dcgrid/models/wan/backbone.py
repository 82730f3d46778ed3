"""A Wan checkout behind the common protocol. Read `WanBackbone`.

Letters: see models/base.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dcgrid.models.attention_choice import AttentionChoice, AttentionName
from dcgrid.models.base import (
    Backbone,
    CellText,
    Memory,
    ModelSpec,
    TagTable,
    TokenPlaces,
    cell_texts,
    text_batch,
)
from dcgrid.models.quantize import Quantize
from dcgrid.models.wan.checkpoint import WanFacts
from dcgrid.models.wan.compiled import CompiledBlock
from dcgrid.models.wan.context import Options, kept
from dcgrid.models.wan.fused import lay_side_by_side
from dcgrid.models.wan.latents import LatentScale, decode_clips, encode_clips
from dcgrid.models.wan.parallel import TokenSplit
from dcgrid.models.wan.parts import WanParts, load_parts
from dcgrid.models.wan.transformer import predict_velocity
from dcgrid.models.wan.trunk import WanText
from dcgrid.prompts.segments import Prompt
from dcgrid.runtime.offload import Offload

if TYPE_CHECKING:
    from dcgrid.models.wan.group import Group


class WanBackbone(Backbone):
    """A Wan model that fills grids; see `models.base.Backbone` for the verbs.

    Each cell is encoded and decoded alone, decoded in tiles where it is large.

    Args:
        spec: Facts about the model.
        parts: Its networks, where they are.
        attention: Which kernel attends; "sage" is approximate, the others are exact.
    """

    def __init__(self, spec: ModelSpec, parts: WanParts, attention: AttentionName = "auto") -> None:
        self._spec = spec
        self.parts = parts
        for module in (parts.transformer, parts.vae, parts.segments.encoder):
            module.eval().requires_grad_(False)
        self._scale = LatentScale.of(parts.vae)
        self._attention = AttentionChoice(name=attention)
        self._options = Options(fused=self.folds, skip_given=True, attend=self._attention)
        self._compiled: CompiledBlock | None = None
        self._tagged: WanText | None = None
        self._group: tuple[Group, int] | None = None
        if parts.offload == "none" and parts.quantize == "none":
            lay_side_by_side(parts.transformer.blocks)

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
        if self._group is not None:
            group, number = self._group
            group.use_given(number, clean=clean, first=first)
        self._spec = replace(self._spec, per_cell_time=clean, given_first=first)

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
        network: nn.Module = self.parts.transformer
        return network

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        if self.parts.device is not None:
            return self.parts.device
        return next(self.network.parameters()).device

    @property
    def heads(self) -> int:
        """Heads of grid attention, which several processes can share."""
        return int(self.parts.transformer.config.num_attention_heads)

    @property
    def folds(self) -> bool:
        """True: an adapter may be folded into the weights. False: it is attached beside them.

        Rounded weights, and those that are read from their files again and again, stay as they
        are; adapters are small and live on the device.
        """
        return self.parts.offload != "disk" and self.parts.quantize == "none"

    @property
    def streams(self) -> bool:
        """True: weights come to the device for every call, so one call for two texts is cheaper."""
        return self.parts.ring is not None and self.device.type != "cpu"

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found on the way: attention kernels, a compiler that failed."""
        return (*self._attention.notes, *(self._compiled.notes if self._compiled else ()))

    @property
    def attention(self) -> str:
        """The kernel that attends: the one asked for, or found fastest for most tokens so far."""
        chosen = self._attention.chosen
        if self._attention.name != "auto" or not chosen:
            return self._attention.name
        name = chosen[max(chosen, key=lambda shape: int(str(shape[-1])))]
        return "flash" if name.startswith("flash") else name

    @property
    def in_group(self) -> bool:
        """True: several processes compute it."""
        return self._group is not None

    def compute_in(self, group: "Group", number: int) -> None:
        """Let processes compute the model together from now on; none of them leaves out blocks.

        Args:
            group: The processes.
            number: Of the model, in each of them.
        """
        self._group = (group, number)
        self._spec = replace(self._spec, leaves_out_blocks=False)

    def compile_blocks(self, compiled: CompiledBlock | None = None) -> None:
        """Run blocks as compiled code from now on; the first call takes a minute or so.

        Args:
            compiled: How; None: torch's own compiler.
        """
        self._compiled = compiled or CompiledBlock()

    @torch.no_grad()
    def encode(self, video_BCTHW: Tensor) -> Tensor:
        """Encode clips in [-1, 1] to normalised latents, float32, BCFYX; one clip at a time."""
        with self.parts.residence.on("vae"):
            return encode_clips(self.parts.vae, self._scale, video_BCTHW)

    @torch.no_grad()
    def decode(self, latents_BCFYX: Tensor) -> Tensor:
        """Decode normalised latents to clips in [-1, 1], float32, BCTHW; one clip at a time."""
        with self.parts.residence.on("vae"):
            return decode_clips(self.parts.vae, self._scale, latents_BCFYX)

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
        with self.parts.residence.on("text"):
            if self._tagged is not None:
                return self._tagged.read_rows(rows, cells=len(visible_BKS[0]))
            return self.parts.segments.encode_rows(rows, cells=len(visible_BKS[0]))

    def use_tags(self, tags: TagTable) -> None:
        """Let texts name tags: embeddings of UMT5's input, which stays as it is."""
        self._tagged = WanText(self.parts.segments)
        self._tagged.put_tags(tags)

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
        """Predict dx/dt of every cell, float32, BKCFYX.

        Raises:
            ValueError: There is an estimate, for which Wan has no input; or a route, and several
                processes compute the model.
        """
        if estimate_BKCFYX is not None:
            raise ValueError("Wan takes no earlier estimate of the clean latents")
        if self._group is None:
            return self.predict(cells_BKCFYX, time_BKF, text, places, route_KA, memory)
        if route_KA is not None:
            raise ValueError("processes that generate together know no routes")
        return self.velocities(cells_BKCFYX, time_BKF, [text], places, memory)[0]

    @torch.no_grad()
    def predict(
        self,
        cells_BKCFYX: Tensor,
        time_BKF: Tensor,
        text: CellText,
        places: TokenPlaces,
        route_KA: Tensor | None = None,
        memory: Memory | None = None,
        split: TokenSplit | None = None,
    ) -> Tensor:
        """Predict the velocity in this process; `split`: its part, together with others."""
        with self.parts.residence.on("transformer"):
            return predict_velocity(
                self.parts.transformer,
                cells_BKCFYX,
                time_BKF,
                text,
                places,
                route_KA,
                memory,
                given_first=self._spec.given_first,
                blocks=self.parts.blocks(),
                each=self._compiled,
                options=replace(self._options, split=split),
            ).float()

    def velocities(
        self,
        cells_BKCFYX: Tensor,
        time_BKF: Tensor,
        texts: Sequence[CellText],
        places: TokenPlaces,
        memory: Memory | None = None,
        estimates: Sequence[Tensor | None] = (),
    ) -> list[Tensor]:
        """Predict dx/dt under each of some texts: as a batch of grids where weights are streamed.

        They travel to the device once then. Elsewhere a batch gains nothing on a GPU and costs a
        tenth on a CPU. Equal up to rounding, so which it is follows from where the weights are and
        not from a measurement, which may come out otherwise the next time.
        """
        if self._group is not None:
            group, number = self._group
            return group.velocities(number, cells_BKCFYX, time_BKF, texts, places, memory)
        if len(texts) == 1 or not self.streams:
            return super().velocities(cells_BKCFYX, time_BKF, texts, places, memory, estimates)
        count = len(texts)
        # The same object call after call, by which a memory knows a text again.
        _, joined = kept(
            memory, "joined", f"{list(map(id, texts))}", lambda: (texts, text_batch(texts))
        )
        at_once = self.velocity(
            torch.cat([cells_BKCFYX] * count),
            torch.cat([time_BKF] * count),
            joined,
            places,
            memory=memory,
        )
        return list(at_once.chunk(count))


def load_wan(
    facts: WanFacts,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    offload: Offload = "none",
    quantize: Quantize = "none",
    attention: AttentionName = "auto",
) -> WanBackbone:
    """Load a checkout in the layout of diffusers.

    Args:
        facts: What its folder says.
        device: Where it computes.
        dtype: Of transformer and text encoder; norms and times stay float32, and so does the
            autoencoder.
        offload: Where the weights are meanwhile, see parts.py. For sampling only.
        quantize: How the weights of the transformer's blocks are stored.
        attention: Which kernel attends.

    Raises:
        UsageError: The extra dcgrid[wan] is not installed.
        WeightsError: A file is missing, damaged, or of another family.
    """
    parts = load_parts(facts, dtype, device=device, offload=offload, quantize=quantize)
    return WanBackbone(facts.spec, parts, attention)
