"""Clips to normalised latents of Wan's autoencoder and back, one clip at a time.

Letters: B clips, C channels, T H W pixel frames/height/width, F Y X latent frames/rows/columns.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Foreign: TypeAlias = Any
"""`diffusers.AutoencoderKLWan`, whose parts its types do not tell."""


@dataclass(frozen=True, slots=True)
class LatentScale:
    """Mean and spread of each channel of raw latents, shape 1C111."""

    mean: Tensor
    spread: Tensor

    @staticmethod
    def of(vae: Foreign) -> "LatentScale":
        """Return what the checkpoint says."""
        shape = (1, int(vae.config.z_dim), 1, 1, 1)
        return LatentScale(
            torch.tensor(vae.config.latents_mean).reshape(shape),
            torch.tensor(vae.config.latents_std).reshape(shape),
        )


@torch.no_grad()
def encode_clips(vae: Foreign, scale: LatentScale, video_BCTHW: Tensor) -> Tensor:
    """Encode clips in [-1, 1] to normalised latents, float32, BCFYX."""
    clips = [vae.encode(c.to(vae.dtype)).latent_dist.mode() for c in video_BCTHW.split(1)]
    latents_BCFYX = torch.cat(clips).float()
    return (latents_BCFYX - scale.mean.to(latents_BCFYX)) / scale.spread.to(latents_BCFYX)


@torch.no_grad()
def decode_clips(vae: Foreign, scale: LatentScale, latents_BCFYX: Tensor) -> Tensor:
    """Decode normalised latents to clips in [-1, 1], float32, BCTHW."""
    clips = []
    for latents in latents_BCFYX.float().split(1):
        latents = latents * scale.spread.to(latents) + scale.mean.to(latents)
        clips.append(vae.decode(latents.to(vae.dtype), return_dict=False)[0])
    return torch.cat(clips).float().clamp(-1, 1)
