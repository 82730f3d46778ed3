"""Stage `upsampler`: from what the autoencoder gives back at half size to the clip at full size.

The network so learns to sharpen and to remove the autoencoder's own faults at once.

Paper: sec. 3.4 (a light-weight convolution-based upsampler; how it was trained is not said).
"""

import torch
import torch.nn.functional as F

from dcgrid.models.native.autoencoder import Autoencoder
from dcgrid.models.native.upsampler import Upsampler
from dcgrid.runtime.device import autocast, choose_dtype
from dcgrid.train.codec import draw_pixels, error_of_differences
from dcgrid.train.settings import Phase, TrainRecipe
from dcgrid.train.world.clips import WorldClips


class UpsamplerStage:
    """The loss of the upsampler."""

    def __init__(
        self, model: Upsampler, autoencoder: Autoencoder, world: WorldClips, recipe: TrainRecipe
    ) -> None:
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.world = world
        self.recipe = recipe

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return all weights of the upsampler."""
        return dict(self.model.named_parameters())

    def loss(
        self, phase: Phase, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return squared and absolute error and the error of differences, at full size.

        `phase.sizes` are full sizes; the PSNR of plain bicubic enlargement is logged beside.
        """
        weights = self.recipe.loss
        full = draw_pixels(self.world, phase, weights["effect_share"], generator)
        small = _halve(full, self.model.factor)
        with autocast(full.device, choose_dtype(self.recipe.precision, full.device)):
            with torch.no_grad():
                restored = self.autoencoder.decode(self.autoencoder.encode(small)).float()
            enlarged = self.model(restored).float()
        error = enlarged - full
        squared = error.pow(2).mean()
        total = (
            weights["squared"] * squared
            + weights["absolute"] * error.abs().mean()
            + weights["differences"] * error_of_differences(error)
        )
        plain = (_enlarge(restored, self.model.factor) - full).pow(2).mean()
        return total, {
            "psnr": float(10 * torch.log10(4 / squared.detach())),
            "psnr_bicubic": float(10 * torch.log10(4 / plain)),
        }


def _halve(video_BCTHW: torch.Tensor, factor: int) -> torch.Tensor:
    """Shrink rows and columns by averaging, as the reader of clips does."""
    return F.avg_pool3d(video_BCTHW, (1, factor, factor))


def _enlarge(video_BCTHW: torch.Tensor, factor: int) -> torch.Tensor:
    frames = video_BCTHW.transpose(1, 2).flatten(0, 1)
    large = F.interpolate(frames, scale_factor=factor, mode="bicubic", align_corners=False)
    clips: torch.Tensor = large.unflatten(0, (video_BCTHW.shape[0], -1)).transpose(1, 2)
    return clips
