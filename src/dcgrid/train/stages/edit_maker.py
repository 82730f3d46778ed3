"""Edits of clips by a model as it is trained so far: what stage `upsampler` gets to see.

One grid of three effects, sampled as `dcgrid edit` samples it by default.

Letters: N edits, C channels, M moving channels of noise, T H W frames/height/width, B batch, K
cells, F Y X latent frames/rows/columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcgrid.adapters.files import load_adapter
from dcgrid.flow.noise import draw_moving
from dcgrid.models.registry import training_spec
from dcgrid.models.trunk import NetworkBackbone, NetworkParts, VideoCodec
from dcgrid.pipelines.loading import use_adapter
from dcgrid.synthetic.world_clips import WorldClip
from dcgrid.train.data.captions import Captions
from dcgrid.train.data.variants import VariantSet
from dcgrid.train.job import TrainJob
from dcgrid.train.networks import load_base
from dcgrid.train.stages.flow_matching import GRID, generate_cells


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeEdits:
    """Edits of a clip."""

    clips_NCTHW: Tensor
    """What the model made, in [0, 1]."""
    given_CTHW: Tensor
    """The clip that was edited, as the autoencoder gives it back."""
    drift: tuple[Tensor | None, ...]
    """The moving noise MFYX that each was made from, if any moves: an effect rendered from it shows
    what it should show."""


class EditMaker:
    """Edits clips with the weights in a training folder, adapter and all.

    Raises:
        WeightsError: A file is missing or damaged.
        AdapterError: The adapter is of other weights.
    """

    def __init__(self, job: TrainJob, autoencoder: VideoCodec, captions: Captions) -> None:
        base = load_base(job.model, job.out, job.device, job.dtype)
        report = load_adapter(
            base.dit.network,
            job.out / "fill.safetensors",
            base=job.facts.name,
            base_hash=base.hash,
        )
        base.dit.to(job.device)
        parts = NetworkParts(dit=base.dit, text=base.text, autoencoder=autoencoder)
        self.backbone = NetworkBackbone(training_spec(job.model), parts, job.dtype)
        use_adapter(self.backbone, report.spec)
        self.captions = captions

    @torch.no_grad()
    def edit(
        self,
        given_CTHW: Tensor,
        effects: Sequence[str],
        drawn: WorldClip,
        generator: torch.Generator,
    ) -> MadeEdits:
        """Edit a clip in [0, 1], a cell for each effect; there must be as many as free cells."""
        backbone = self.backbone
        given_BCFYX = backbone.encode(given_CTHW[None] * 2 - 1)
        shape = (1, GRID.count, *given_BCFYX.shape[1:])
        noise_BKCFYX = torch.randn(shape, generator=generator)
        motion = backbone.spec.noise_motion
        if motion:
            for cell_CFYX in noise_BKCFYX[0]:
                moving_MFYX = draw_moving(cell_CFYX.shape[1:], motion, generator)
                cell_CFYX[-len(motion) :] = moving_MFYX
        filled_BKCFYX = generate_cells(
            backbone,
            self._rows(effects, drawn, generator),
            noise_BKCFYX.to(given_CTHW.device),
            GRID,
            backbone.spec.filling.num_inference_steps,
            given_BCFYX=given_BCFYX,
        )
        # What was given is decoded, too.
        latents_NCFYX = torch.cat([filled_BKCFYX[0, 1:], given_BCFYX])
        decoded_NCTHW = (backbone.decode(latents_NCFYX) / 2 + 0.5).clamp(0, 1)
        return MadeEdits(
            clips_NCTHW=decoded_NCTHW[:-1],
            given_CTHW=decoded_NCTHW[-1],
            drift=tuple(one[-len(motion) :] if motion else None for one in noise_BKCFYX[0, 1:]),
        )

    def _rows(
        self, effects: Sequence[str], drawn: WorldClip, generator: torch.Generator
    ) -> list[list[str]]:
        """Return the texts that each cell reads."""
        variants = VariantSet.of_words(("", *effects), drawn.subject, drawn.motion)
        return self.captions.grid_rows(variants, range(GRID.count), generator)
