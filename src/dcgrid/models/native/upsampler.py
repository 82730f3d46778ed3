"""The light convolutional upsampler: twice the rows and columns, frame by frame.

It adds detail to a bicubic enlargement, so an untrained one is bicubic.

Letters: B batch, C channels, T H W pixel frames/height/width.

Paper: sec. 3.4 (a light-weight convolution-based upsampler; sizes are ours).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dcgrid.models.native.config import UpsamplerConfig


class Upsampler(nn.Module):
    """Enlarges clips by a whole factor. Paper: sec. 3.4."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.factor = config.factor
        self.stem = nn.Conv2d(3, config.width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(config.width, 2 * config.width, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(2 * config.width, config.width, 3, padding=1),
            )
            for _ in range(config.blocks)
        )
        self.head = nn.Conv2d(config.width, 3 * config.factor**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Return clips about [-1, 1] with `factor` times the rows and columns."""
        frames = rearrange(video_BCTHW, "b c t h w -> (b t) c h w")
        frames = frames.contiguous(memory_format=torch.channels_last)
        hidden = self.stem(frames)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        detail = F.pixel_shuffle(self.head(hidden), self.factor)
        base = F.interpolate(
            frames.float(), scale_factor=self.factor, mode="bicubic", align_corners=False
        )
        return rearrange(base + detail, "(b t) c h w -> b c t h w", b=video_BCTHW.shape[0])
