"""Stage `upsampler`: the guided upsampler, on edits whose truth is known at the source's size.

    source clip at 4 times a cell   -- rendered effect -->  truth, as large
        | averaged down                                       | averaged down
    given cell   -- a model's own edit, or the truth with faults -->   generated cell

The network sees crops of the given cell, as the autoencoder gives it back, of the generated cell
and of the source, and its result is compared with the crop of the truth. Some guides show something
else than what was edited, on purpose; and not always is the noise known to it: models that are not
ours have none that drifts.

Letters: N edits of a clip, B crops, P planes of particles, C channels, T H W frames/height/width.

Paper: sec. 3.4 (how its upsampler was trained is not said). Differs: docs/decisions/0021.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dcgrid.io.progress import counted
from dcgrid.models.drift import DriftingNoise
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.particles import FIELDS, PLANES, draw_planes, soft_fields
from dcgrid.models.trunk import VideoCodec
from dcgrid.models.upsampler import GuidedUpsampler
from dcgrid.models.weights import save_weights
from dcgrid.synthetic.degradations import coded, misplaced, random_look, with_faults
from dcgrid.synthetic.effects import DETERMINISTIC, EFFECT_NAMES
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClip, WorldClips, chance, pick
from dcgrid.train.data.captions import Captions, captions_of, world_captions
from dcgrid.train.facts import preset_of
from dcgrid.train.job import (
    Reporter,
    TrainJob,
    facts_of,
)
from dcgrid.train.loop import train
from dcgrid.train.networks import (
    load_autoencoder,
    start_from,
)
from dcgrid.train.settings import Phase, TrainRecipe, UpsamplerLoss
from dcgrid.train.stages.autoencoder_stage import (
    error_of_differences,
)
from dcgrid.train.stages.edit_maker import EditMaker
from dcgrid.video.pixels import pixels_of_unit, signed_of, unit_of

SCALE = 4
"""Rows and columns of the truth for each of the cell's."""
CROP = 48
"""Side of a crop, in pixels of the cell; smaller in a cell that is."""
STOCK = 48
"""Edited clips kept, from which crops are cut; the oldest leaves first."""
STOCK_LEAST = 8
"""Clips that there must be before any serves again."""
STORED_FRAMES = 3
"""Frames kept of a clip."""
CROP_BYTES = 40_000_000
"""What a crop of usual size keeps for the backward pass, roughly."""
EDITS = 3
"""Edits of each clip."""
OFTEN = {
    "rain": 2.0,
    "snow": 2.0,
    "sparks": 2.0,
    "smoke": 6.0,
    "purple-smoke": 6.0,
    "backlight": 6.0,
}
"""How often an effect is drawn beside others: those whose small things train slowest."""
CODED_GIVEN_SHARE = 0.9
"""How often the given cell is what the autoencoder makes of it, as in an edit; else it is the
picture itself, for whoever has no autoencoder at hand."""
MIX = {"footage": 0.35, "photo": 0.3, "sprite": 0.1, "person": 0.25}
"""Share of each kind of clip: animated subjects are small pictures, without detail at full size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crops:
    """A batch; pictures in [-1, 1]."""

    given_BCHW: Tensor
    """Of the given cell, most as the autoencoder gives it back."""
    generated_BCHW: Tensor
    """Of the generated one."""
    source_BCHW: Tensor
    """The guide, `SCALE` times the size."""
    truth_BCHW: Tensor
    """What should come out."""
    apart_B: Tensor
    """True where the guide shows something else."""
    fields_BPHW: Tensor
    """Soft fields of the noise, in [-4, 4]; zero where it is not known."""
    planes_BPHW: Tensor
    """Planes of particles at `SCALE` times the size, in [0, 1]; zero where they are not known."""
    texts: tuple[str, ...]
    """Words of each edit; "" where the noise is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edits:
    """A clip and edits of it, uint8."""

    source_CTHW: Tensor
    """The clip at full size."""
    truth_NCTHW: Tensor
    """Its edits, rendered at full size."""
    given_CTHW: Tensor
    """The clip at the size of a cell, as it was given to what made the edits."""
    generated_NCTHW: Tensor
    """The same at the size of a cell, as a model makes them."""
    fields_NPTHW: Tensor
    """Soft fields of the noise of each, at the size of a cell, 32 levels a unit around 128."""
    planes_NPTHW: Tensor
    """Planes of particles of the noise of each, at full size."""
    names: tuple[str, ...]
    """The effect of each; "" where it is none that words say."""


@dataclass(slots=True, kw_only=True)
class _Kept:
    """One clip of the stock."""

    shape: tuple[int, int, int]
    """Frames, and height and width of the cell."""
    origin: Tensor
    """Random state from which it was drawn and edited."""
    edits: _Edits | None
    """None: known from a checkpoint only, not made again yet."""


class UpsamplerStage:
    """The loss of the guided upsampler.

    Args:
        model: What is trained.
        autoencoder: Whose faults the generated cells have.
        maker: Edits clips as `dcgrid edit` does; None: every edit is the truth with faults.
        captions: Writes the words of edits.
        world: Where clips come from.
        recipe: Weights and shares.
    """

    def __init__(
        self,
        model: GuidedUpsampler,
        autoencoder: VideoCodec,
        maker: EditMaker | None,
        captions: Captions,
        world: WorldClips,
        recipe: TrainRecipe,
    ) -> None:
        self.model: GuidedUpsampler = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.autoencoder = autoencoder
        self.maker = maker
        self.captions = captions
        self.world = world
        self.recipe = recipe
        self._stock: list[_Kept] = []

    @property
    def knobs(self) -> UpsamplerLoss:
        """Weights and shares of the recipe."""
        return self.recipe.loss_as(UpsamplerLoss)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return all weights of the upsampler."""
        return dict(self.model.named_parameters())

    def loss(self, phase: Phase, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return squared and absolute error and that of differences, at full size.

        `phase.sizes` are sizes of cells, `phase.batch` is a number of crops. Logged: the PSNR, that
        of plain enlargement, and both where the guide shows something else.
        """
        weights = self.knobs
        crops = self.draw(phase, generator)
        noise = crops.fields_BPHW, crops.planes_BPHW
        result = self.model(
            crops.given_BCHW, crops.generated_BCHW, crops.source_BCHW, noise, crops.texts
        )
        error = result - crops.truth_BCHW
        # At the size of a cell the edit is known: its tone must come out, whatever the guide shows.
        coarse = F.avg_pool2d(error, SCALE)
        total = (
            weights.squared * error.square().mean()
            + weights.absolute * error.abs().mean()
            + weights.tone * coarse.abs().mean()
            + weights.differences * error_of_differences(error[:, :, None])
        )
        plain = F.interpolate(
            crops.generated_BCHW, scale_factor=SCALE, mode="bicubic", align_corners=False
        )
        return total, {
            **_figures("", error.detach(), ~crops.apart_B),
            **_figures("_bicubic", plain - crops.truth_BCHW, ~crops.apart_B),
            **_figures("_apart", error.detach(), crops.apart_B),
            **_figures("_apart_bicubic", plain - crops.truth_BCHW, crops.apart_B),
        }

    @torch.no_grad()
    def draw(self, phase: Phase, generator: torch.Generator) -> Crops:
        """Cut crops from edits of the stock, some with a guide that is not theirs."""
        if len(self._stock) < STOCK_LEAST or chance(generator) < self.knobs.fresh:
            self._add(phase, generator)
        crop = min(CROP, *(side for kept in self._stock for side in kept.shape[1:]))
        source, given, generated, truth, apart = [], [], [], [], []
        fields, planes, texts = [], [], []
        for _ in range(phase.batch):
            edits = self._edits_of(self._stock[pick(len(self._stock), generator)])
            edit, frame = pick(EDITS, generator), pick(edits.source_CTHW.shape[1], generator)
            sides_HW = edits.generated_NCTHW.shape[-2:]
            top, left = (pick(side - crop + 1, generator) for side in sides_HW)
            rows, columns = slice(top, top + crop), slice(left, left + crop)
            generated.append(edits.generated_NCTHW[edit, :, frame, rows, columns])
            large = [slice(SCALE * one.start, SCALE * one.stop) for one in (rows, columns)]
            truth.append(edits.truth_NCTHW[edit, :, frame, large[0], large[1]])
            # Whose noise is known is edited in place: its guide fits.
            known = chance(generator) < self.knobs.noise_known_share
            apart.append(not known and chance(generator) < self.knobs.apart_share)
            name = edits.names[edit] if known else ""
            texts.append(self.captions.effect_clause(name, generator))
            fields.append(known * (edits.fields_NPTHW[edit, :, frame, rows, columns].float() - 128))
            planes.append(known * edits.planes_NPTHW[edit, :, frame, large[0], large[1]].float())
            frame_CHW = unit_of(edits.source_CTHW[:, frame])
            own_CHW = frame_CHW[:, large[0], large[1]]
            if apart[-1]:
                corner = SCALE * top, SCALE * left
                own_CHW = misplaced(frame_CHW, corner, (SCALE * crop, SCALE * crop), generator)
            source.append(own_CHW)
            given_CHW = F.avg_pool2d(own_CHW, SCALE)
            if chance(generator) < CODED_GIVEN_SHARE:
                if apart[-1]:
                    given_CHW = coded(given_CHW[None, :, None], self.autoencoder)[0, :, 0]
                else:
                    given_CHW = unit_of(edits.given_CTHW[:, frame, rows, columns])
            given.append(given_CHW)
        source_BCHW = torch.stack(source) * 2 - 1
        return Crops(
            given_BCHW=torch.stack(given) * 2 - 1,
            generated_BCHW=signed_of(torch.stack(generated)),
            source_BCHW=source_BCHW,
            truth_BCHW=signed_of(torch.stack(truth)),
            apart_B=torch.tensor(apart),
            fields_BPHW=torch.stack(fields) / 32,
            planes_BPHW=torch.stack(planes) / 255,
            texts=tuple(texts),
        )

    def remember(self) -> dict[str, Tensor]:
        """Return what every clip of the stock was drawn from, oldest first."""
        names = (f"{n:03}.{'x'.join(map(str, one.shape))}" for n, one in enumerate(self._stock))
        return dict(zip(names, (one.origin for one in self._stock), strict=True))

    def recall(self, kept: Mapping[str, Tensor]) -> None:
        """Put back the stock of `remember`; its clips are edited again when drawn.

        Raises:
            ValueError: The names or states are not those of a stock.
        """
        stock = []
        for name, origin in sorted(kept.items()):
            frames, height, width = map(int, name.partition(".")[2].split("x"))
            torch.Generator().set_state(origin)  # refuses what is no random state
            stock.append(_Kept(shape=(frames, height, width), origin=origin, edits=None))
        self._stock = stock

    def _add(self, phase: Phase, generator: torch.Generator) -> None:
        """Put one more clip into the stock."""
        shape = (phase.frames, *phase.sizes[pick(len(phase.sizes), generator)])
        origin = generator.get_state()
        edits = self._edited(shape, generator)
        kept = _Kept(shape=shape, origin=origin, edits=edits)
        self._stock = [*self._stock, kept][-STOCK:]

    def _edits_of(self, kept: _Kept) -> _Edits:
        if kept.edits is None:
            again = torch.Generator()
            again.set_state(kept.origin)
            kept.edits = self._edited(kept.shape, again)
        return kept.edits

    def _edited(self, shape: tuple[int, int, int], generator: torch.Generator) -> _Edits:
        """Draw a clip and edit it: with the model, or by rendering what it should have made."""
        frames, height, width = shape
        drawn = self.world.draw(frames, (SCALE * height, SCALE * width), generator)
        source_CTHW = drawn.clip_CTHW
        often = torch.tensor([OFTEN.get(name, 1.0) for name in EFFECT_NAMES])
        order = torch.multinomial(often, len(often), generator=generator).tolist()
        names = [EFFECT_NAMES[one] for one in order[:EDITS]]
        if self.maker is not None and chance(generator) < self.knobs.edit_share:
            if not self.maker.backbone.spec.noise_motion:  # nothing says where drops should be
                names = [one for one in (EFFECT_NAMES[i] for i in order) if one in DETERMINISTIC]
                names = names[:EDITS]
            made = self.maker.edit(_averaged(source_CTHW), names, drawn, generator)
            drift = made.drift
            truth = self._rendered(names, drawn, drift, generator)
            generated_NCTHW, given_CTHW = made.clips_NCTHW, made.given_CTHW
        else:
            drift = tuple(self.world.draw_drift(source_CTHW, len(names), generator, float(SCALE)))
            truth = self._rendered(names, drawn, drift, generator)
            if chance(generator) < self.knobs.look_share:
                truth[0], names = random_look(source_CTHW, generator), ["", *names[1:]]
            small_NCTHW = torch.stack([_averaged(one) for one in truth])
            generated_NCTHW, given_CTHW = with_faults(
                small_NCTHW, _averaged(source_CTHW), self.autoencoder, generator
            )
        kept_K = torch.randperm(frames, generator=generator)[:STORED_FRAMES].sort().values
        source_CTHW = source_CTHW[:, kept_K]
        seconds_T = kept_K / self.world.rate
        shown = [_noise_pictures(one, seconds_T, (height, width)) for one in drift]
        fields, planes = zip(*shown, strict=True)
        return _Edits(
            source_CTHW=_levels(source_CTHW),
            truth_NCTHW=_levels(torch.stack(truth)[:, :, kept_K]),
            given_CTHW=_levels(given_CTHW[:, kept_K]),
            generated_NCTHW=_levels(generated_NCTHW[:, :, kept_K]),
            fields_NPTHW=_levels((torch.stack(fields) * 32 + 128) / 255),
            planes_NPTHW=_levels(torch.stack(planes)),
            names=tuple(names),
        )

    def _rendered(
        self,
        names: Sequence[str],
        drawn: WorldClip,
        drift: Sequence[Tensor | None],
        generator: torch.Generator,
    ) -> list[Tensor]:
        return [
            self.world.render(name, drawn, generator, drift_MFYX, float(SCALE))
            for name, drift_MFYX in zip(names, drift, strict=True)
        ]


def stock_bytes(size: tuple[int, int]) -> int:
    """Return the memory of a whole stock with cells of this height and width."""
    full = 3 * (1 + EDITS) + EDITS * PLANES
    return STOCK * STORED_FRAMES * (full * SCALE**2 + 3 + 2 * 3 * EDITS) * size[0] * size[1]


def _noise_pictures(
    drift_MFYX: Tensor | None, seconds_T: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return soft fields at the size of a cell, and planes of particles at `SCALE` times it.

    PTHW each; zero where no noise is known.
    """
    large = torch.empty(1, len(seconds_T), SCALE * size[0], SCALE * size[1])
    small = large[..., : size[0], : size[1]]
    if drift_MFYX is None:
        return small.new_zeros(FIELDS, *small.shape[1:]), large.new_zeros(PLANES, *large.shape[1:])
    noise = DriftingNoise(values_MFYX=drift_MFYX.cpu(), seconds_T=seconds_T, like=small)
    detailed = replace(noise, like=large, scale=float(SCALE))
    return soft_fields(noise), draw_planes(detailed)


def _averaged(clip_CTHW: Tensor) -> Tensor:
    """Average a clip down to the size of a cell."""
    return F.avg_pool2d(clip_CTHW.transpose(0, 1), SCALE).transpose(0, 1)


def _levels(clip: Tensor) -> Tensor:
    """Round pictures in [0, 1] to uint8 on the CPU."""
    return pixels_of_unit(clip).cpu()


def _figures(name: str, error_BCHW: Tensor, chosen_B: Tensor) -> dict[str, float]:
    """Return the mean PSNR of some crops; nothing if there are none."""
    if not chosen_B.any():
        return {}
    squared_B = error_BCHW.clamp(-2, 2)[chosen_B].square().mean((1, 2, 3)).clamp_min(1e-6)
    return {f"psnr{name}": float((10 * torch.log10(4 / squared_B)).mean())}


def run_upsampler(job: TrainJob, reporter: Reporter) -> Path:
    """Train the guided upsampler on edits of the model and on truths with faults."""
    path = job.out / "upsampler.safetensors"
    captions = world_captions(own_clause_only=job.facts.own_clause_only)
    vocabulary = captions_of(())
    widths = preset_of(job.model, job.recipe.stage).upsampler_widths
    model = GuidedUpsampler(widths, vocabulary).to(job.device)
    if job.start is not None and not job.resume:
        fresh = start_from(job.start / "upsampler.safetensors", model)
        reporter.say(f"started from {job.start}; new: {counted(fresh, 'tensor')}")
    autoencoder = cast(
        Autoencoder, load_autoencoder(job.model, job.out, job.device, channels_last=True)
    )
    maker = None
    if job.recipe.loss_as(UpsamplerLoss).edit_share:
        maker = EditMaker(job, autoencoder, captions)
    world = WorldClips(WorldStore(job.store, detailed=True), job.device, mix=MIX)
    stage = UpsamplerStage(model, autoencoder, maker, captions, world, job.recipe)
    state = train(stage, job.recipe, job.loop, reporter.progress, reporter.say)
    model.load_state_dict(state.averaged)
    facts = {**facts_of(job, state), "vocabulary": list(vocabulary)}
    save_weights(path, model.state_dict(), facts, job.stored_as)
    return path
