"""Fit the noise reader before the transformer around it is trained.

What a drop looks like in latents is a function of a few numbers of noise. Learned together with
everything else, from the few cells that show rain, it comes slowly; learned alone, from drops on
black, it takes minutes. Only the reader is kept; what reads its features here is thrown away.

Letters: B clips, M moving channels of noise, G kinds of picture, C channels, S tokens, F Y X latent
frames/rows/columns, T H W pixel frames/height/width.

Differs: docs/decisions/0009.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import nn

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
from dcgrid.models.native.layers import NOISE_WIDTH
from dcgrid.models.particles import FAR_FLAKES, NEAR_FLAKES, RAIN, SPARKS
from dcgrid.synthetic.effects_fields import draw_drift

_POINTS = ((FALL_FAST, RAIN), (FALL_SLOW, FAR_FLAKES), (FALL, NEAR_FLAKES), (RISE, SPARKS))
_FRAMES, _SIDE, _CLIPS = 17, 96, 2
_PEAK_RATE = 1e-2


def fit_noise_reader(
    dit: DiT, autoencoder: Autoencoder, steps: int, seed: int, report: Callable[[str], None]
) -> None:
    """Train a transformer's noise reader to tell the latents of drops and soft fields on black.

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
        told = rearrange(readout(features_BSD), "b s (g d) -> b s g d", g=kinds)
        wanted = rearrange(
            latents_BGCFYX,
            "b g c f (y p) (x q) -> b (f y x) g (c p q)",
            p=patch[1],
            q=patch[2],
        )
        away = wanted - wanted.mean((0, 1))
        missed_G = ((told - wanted) * weight).square().mean((0, 1, 3))
        share_G = missed_G / (away * weight).square().mean((0, 1, 3))
        optimizer.zero_grad()
        share_G.mean().backward()
        optimizer.step()
        unexplained = 0.95 * unexplained + 0.05 * share_G.detach().cpu()
    with torch.no_grad():
        spread_D = reader(_draw(autoencoder, generator)[0]).std((0, 1)).clamp_min(1e-3)
        reader.around.weight /= rearrange(spread_D, "d -> d 1 1 1 1")
        reader.around.bias /= spread_D
    shares = ", ".join(f"{100 * float(share):.0f} %" for share in unexplained)
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
