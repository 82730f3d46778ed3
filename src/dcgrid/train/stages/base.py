"""Stage `base`: the transformer, and with it the text encoder, unless that is T5. Read `run_base`.

The noise reader is fitted before the transformer around it is trained. What a drop looks like in
latents is a function of a few numbers of noise. Trained together with everything else, from the few
cells that show rain, it comes slowly; trained alone, from drops on black, it takes minutes. Only
the reader is kept; what reads its features here is thrown away.

Letters: B clips, M moving channels of noise, G kinds of picture, C channels, S tokens, F Y X latent
frames/rows/columns, T H W pixel frames/height/width.

Differs: docs/decisions/0009.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from einops import rearrange
from torch import nn

from dcgrid.io.progress import counted
from dcgrid.models.drift import (
    FALL,
    FALL_FAST,
    FALL_SLOW,
    RATE,
    RISE,
    SMOOTH,
    SMOOTH_FINE,
    DriftingNoise,
)
from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.dit import DiT
from dcgrid.models.native.folder import NativeFolder, write_native_folder
from dcgrid.models.native.layers import NOISE_WIDTH
from dcgrid.models.native.text import TextEncoder, WordTokenizer
from dcgrid.models.particles import FAR_FLAKES, NEAR_FLAKES, RAIN, SPARKS
from dcgrid.models.trunk import TextReader
from dcgrid.models.weights import read_weights, save_weights
from dcgrid.synthetic.effects_fields import draw_drift
from dcgrid.synthetic.store import WorldStore
from dcgrid.synthetic.world_clips import WorldClips
from dcgrid.train.data.captions import captions_of, world_captions
from dcgrid.train.data.variants import FusionPool, VariantPool
from dcgrid.train.facts import preset_of
from dcgrid.train.job import (
    Reporter,
    TrainJob,
    facts_of,
)
from dcgrid.train.networks import (
    load_autoencoder,
    load_trained_t5,
    start_from,
    start_text_from,
)
from dcgrid.train.scale import gathered, scale_native
from dcgrid.train.settings import BaseLoss
from dcgrid.train.stages.grid_adapters import train_grids
from dcgrid.train.stages.grids import GridStage

_POINTS = ((FALL_FAST, RAIN), (FALL_SLOW, FAR_FLAKES), (FALL, NEAR_FLAKES), (RISE, SPARKS))
_FRAMES, _SIDE, _CLIPS = 17, 96, 2
_PEAK_RATE = 1e-2


def run_base(job: TrainJob, reporter: Reporter) -> Path:
    """Train the transformer, and with it the text encoder, unless that is T5; three files."""
    config = preset_of(job.model, job.recipe.stage)
    world = WorldClips(WorldStore(job.store), job.device, job.facts.fps)
    text, words = _text_of_base(job, world.store)
    dit = DiT(config.dit).to(job.device)
    had_reader = False
    if job.start is not None and not job.resume:
        had_reader = _start_base(job.start, dit, text, reporter)
    scale_native(dit, job.recipe.scale, job.processes, job.dtype)
    trained = {f"text.{n}": p for n, p in text.named_parameters() if p.requires_grad}
    trained |= {f"dit.{n}": p for n, p in dit.named_parameters()}
    autoencoder = cast(
        Autoencoder, load_autoencoder(job.model, job.out, job.device, channels_last=True)
    )
    if not job.resume and not had_reader:
        fit_noise_reader(
            dit,
            autoencoder,
            int(job.recipe.loss_as(BaseLoss).reader_steps),
            job.recipe.seed + 3,
            reporter.say,
        )
    pools = VariantPool(world, autoencoder), FusionPool(world, autoencoder)
    if config.dit.prediction == "mixture":
        dit.latent_spread.copy_(autoencoder.latent_spread)
    captions = world_captions(own_clause_only=job.facts.own_clause_only)
    stage = GridStage((dit, text), pools, captions, job.recipe, trained)
    state = train_grids(job, stage, reporter)
    facts = {**facts_of(job, state), "self_conditioning": str(job.recipe.self_conditioned).lower()}
    final = {}
    for name, tensor in state.averaged.items():
        whole = gathered(tensor)  # in every process, which then lets go of it
        if job.processes.is_first:
            final[name] = whole.cpu()
    if not job.processes.is_first:
        return job.out / "dit.safetensors"
    fixed = {f"dit.{n}": t for n, t in dit.named_buffers()}
    parts = {"text": {"vocabulary": list(words)}, "dit": {}} if words else {"dit": {}}
    for part, extra in parts.items():
        tensors = {
            name.removeprefix(f"{part}."): tensor
            for name, tensor in (final | fixed).items()
            if name.startswith(part)
        }
        path = job.out / f"{part}.safetensors"
        save_weights(path, tensors, {**facts, **extra}, job.stored_as)
    write_native_folder(
        NativeFolder(path=job.out, preset=job.model, config=config, text_encoder=job.text_encoder)
    )
    return job.out / "dit.safetensors"


def _start_base(folder: Path, dit: DiT, text: TextReader, reporter: Reporter) -> bool:
    """Load the transformer and text encoder of an earlier edition; say if it had a noise reader.

    T5 is not loaded: it is what it was.

    Raises:
        WeightsError: A file is missing or damaged, or does not fit.
    """
    path = folder / "text.safetensors"
    new = start_text_from(path, text) if isinstance(text, TextEncoder) else 0
    fresh = start_from(folder / "dit.safetensors", dit)
    reporter.say(f"started from {folder}; new: {counted(fresh, 'tensor')}, {counted(new, 'word')}")
    tensors, _ = read_weights(folder / "dit.safetensors")
    return any(name.startswith("noise_reader.") for name in tensors)


def _text_of_base(job: TrainJob, store: WorldStore) -> tuple[TextReader, Sequence[str]]:
    """Return the text encoder of stage `base` and the vocabulary that it trains; T5 trains none."""
    config = preset_of(job.model, job.recipe.stage)
    if config.text is None:
        return load_trained_t5(job.model, job.text_encoder).to(job.device), ()
    words = captions_of(store.names["sprites"])
    return TextEncoder(config.text, WordTokenizer(words)).to(job.device), words


def fit_noise_reader(
    dit: DiT, autoencoder: Autoencoder, steps: int, seed: int, report: Callable[[str], None]
) -> None:
    """Train a transformer's noise reader to predict the latents of drops and soft fields on black.

    Its features end with unit spread. Nothing happens without a reader or without steps.
    """
    reader = dit.noise_reader
    if reader is None or steps == 0:
        return
    device = autoencoder.latent_scale.device
    generator = torch.Generator().manual_seed(seed)
    patch = dit.config.patch
    kinds = len(_POINTS) + 2
    wide = autoencoder.config.latent_channels * patch[1] * patch[2]
    readout = nn.Linear(NOISE_WIDTH, kinds * wide).to(device)
    optimizer = torch.optim.Adam([*reader.parameters(), *readout.parameters()], lr=_PEAK_RATE)
    weight = autoencoder.latent_scale.repeat_interleave(patch[1] * patch[2])
    unexplained = torch.ones(kinds)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _PEAK_RATE * min((step + 1) / 30, (steps - step) / (0.6 * steps), 1)
        noise_BKMFYX, latents_BGCFYX = _draw(autoencoder, generator)
        features_BSD = reader(noise_BKMFYX)
        predicted = rearrange(readout(features_BSD), "b s (g d) -> b s g d", g=kinds)
        target = rearrange(
            latents_BGCFYX,
            "b g c f (y p) (x q) -> b (f y x) g (c p q)",
            p=patch[1],
            q=patch[2],
        )
        away = target - target.mean((0, 1))
        missed_G = ((predicted - target) * weight).square().mean((0, 1, 3))
        share_G = missed_G / (away * weight).square().mean((0, 1, 3))
        optimizer.zero_grad()
        share_G.mean().backward()
        optimizer.step()
        unexplained = 0.95 * unexplained + 0.05 * share_G.detach().cpu()
    with torch.no_grad():
        spread_D = reader(_draw(autoencoder, generator)[0]).std((0, 1)).clamp_min(1e-3)
        reader.around.weight /= rearrange(spread_D, "d -> d 1 1 1 1")
        reader.around.bias /= spread_D
    shares = ", ".join(f"{100 * float(share):.0f}%" for share in unexplained)
    report(f"noise reader fitted; what it misses of rain, snow (far, near), sparks, mist: {shares}")


@torch.no_grad()
def _draw(
    autoencoder: Autoencoder, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw noise, BKMFYX with one cell, and the latents of what it shows on black, BGCFYX."""
    device = autoencoder.latent_scale.device
    like = torch.zeros(3, _FRAMES, _SIDE, _SIDE, device=device)
    seconds_T = torch.arange(_FRAMES, device=device) / RATE
    black = autoencoder.encode(like[None])
    noise, latents = [], []
    for _ in range(_CLIPS):
        values_MFYX = draw_drift(like, seconds_T, generator)
        drift = DriftingNoise(values_MFYX=values_MFYX, seconds_T=seconds_T, like=like)
        shown = [drift.points(group, look).clamp(max=0.95) for group, look in _POINTS]
        shown += [0.3 * drift.smooth(channel) for channel in (SMOOTH, SMOOTH_FINE)]
        video_GCTHW = torch.stack(shown)[:, None].expand(-1, 3, -1, -1, -1)
        noise.append(values_MFYX[None])
        latents.append(autoencoder.encode(video_GCTHW) - black)
    return torch.stack(noise), torch.stack(latents)
