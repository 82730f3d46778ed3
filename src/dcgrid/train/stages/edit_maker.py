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
from dcgrid.flow.sampler import SampleSettings, VelocityFn, sample
from dcgrid.flow.schedule import Schedule
from dcgrid.flow.self_conditioning import self_conditioned, unconditioned
from dcgrid.grid.offset import MARGIN, narrow_cells, widen_cells
from dcgrid.models.loading import training_spec
from dcgrid.models.trunk import VideoCodec
from dcgrid.runtime.device import autocast
from dcgrid.synthetic.world_clips import WorldClip
from dcgrid.train.data.captions import Captions
from dcgrid.train.data.variants import VariantSet
from dcgrid.train.job import TrainJob
from dcgrid.train.networks import load_base
from dcgrid.train.stages.grids import GRID, token_places


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeEdits:
    """Edits of a clip."""

    clips_NCTHW: Tensor
    """What the model made, in [0, 1]."""
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
        self.dit, self.text = base.dit, base.text
        self.dit.given_first = report.spec.given_first or job.facts.given_first
        self.dit.to(job.device).eval().requires_grad_(False)
        self.autoencoder, self.captions = autoencoder, captions
        self.spec, self.dtype = training_spec(job.model), job.dtype
        self.feeds_back = report.spec.self_conditioning
        self.settings = SampleSettings(
            schedule=Schedule(
                num_inference_steps=self.spec.filling.num_inference_steps,
                shift=report.spec.inference_time_shift or self.spec.time_shift,
            ),
            noise_scale=report.spec.sampled_noise_scale,
            given=report.spec.given,
        )

    @torch.no_grad()
    def edit(
        self,
        given_CTHW: Tensor,
        effects: Sequence[str],
        drawn: WorldClip,
        generator: torch.Generator,
    ) -> MadeEdits:
        """Edit a clip in [0, 1], a cell for each effect; there must be as many as free cells."""
        with autocast(given_CTHW.device, self.dtype):
            given_BCFYX = self.autoencoder.encode(given_CTHW[None] * 2 - 1).float()
        count = GRID.count
        cells_BKCFYX = torch.zeros(1, count, *given_BCFYX.shape[1:], device=given_CTHW.device)
        cells_BKCFYX[:, 0] = given_BCFYX
        noise_BKCFYX = torch.randn(cells_BKCFYX.shape, generator=generator)
        motion = self.dit.config.noise_motion
        if motion:
            for cell_CFYX in noise_BKCFYX[0]:
                moving_MFYX = draw_moving(cell_CFYX.shape[1:], motion, generator)
                cell_CFYX[-len(motion) :] = moving_MFYX
        fill_K = torch.arange(count) > 0
        filled_BKCFYX = sample(
            self._velocity(self._rows(effects, drawn, generator), given_CTHW.device),
            cells_BKCFYX,
            noise_BKCFYX.to(cells_BKCFYX.device),
            fill_K,
            self.settings,
        )
        with autocast(given_CTHW.device, self.dtype):
            clips = [self.autoencoder.decode(cell[None]) for cell in filled_BKCFYX[0, 1:]]
        return MadeEdits(
            clips_NCTHW=(torch.cat(clips).float() / 2 + 0.5).clamp(0, 1),
            drift=tuple(one[-len(motion) :] if motion else None for one in noise_BKCFYX[0, 1:]),
        )

    def _rows(
        self, effects: Sequence[str], drawn: WorldClip, generator: torch.Generator
    ) -> list[list[str]]:
        """Return the texts that each cell reads."""
        nothing = torch.empty(0)  # captions read words alone
        variants = VariantSet(
            latents_VCFYX=nothing,
            drift_VMFYX=nothing,
            effects=("", *effects),
            subject=drawn.subject,
            motion=drawn.motion,
        )
        return self.captions.grid_rows(variants, range(GRID.count), generator)

    def _velocity(self, rows: list[list[str]], device: torch.device) -> VelocityFn:
        """Return the velocity under these texts: the mean over the grids of tokens."""
        patch = self.dit.config.patch
        with autocast(device, self.dtype):
            text = self.text.read_rows(rows, GRID.count)

        def velocity(
            cells_BKCFYX: Tensor, time_BKF: Tensor, estimate_BKCFYX: Tensor | None
        ) -> Tensor:
            found = []
            for offset in (False, True) if self.spec.offset_tokens else (False,):
                shown, read = cells_BKCFYX, estimate_BKCFYX
                if offset:
                    shown = widen_cells(shown, patch)
                    read = None if read is None else widen_cells(read, patch)
                places = token_places(shown, GRID, self.dit, MARGIN if offset else 0.0)
                with autocast(shown.device, self.dtype):
                    one = self.dit(shown, time_BKF, text, places, None, read).float()
                found.append(narrow_cells(one, patch) if offset else one)
            return torch.stack(found).mean(0)

        return self_conditioned(velocity) if self.feeds_back else unconditioned(velocity)
