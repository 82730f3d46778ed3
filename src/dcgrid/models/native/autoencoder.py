"""The causal video autoencoder: clips to latents and back.

Letters: B batch, C channels, T H W pixel frames/height/width, F Y X latent frames/rows/columns.

Every convolution sees the past only, so the first frame is encoded alone and a clip has
stride_T * n + 1 frames:

    frame    0 | 1 2 3 4 | 5 6 7 8 | ...
    latent   0 |    1    |    2    | ...

Norms work on one position at a time: a norm over time would leak the future into the past.
Read `Autoencoder` first.

Paper: sec. 8, Table 4 (MAGVIT-v2 with a KL bottleneck).
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from dcgrid.models.native.config import AutoencoderConfig
from dcgrid.models.trunk import VideoCodec

DEEP_SHARE = 0.1
"""What the deep networks say counts this much beside the linear path: what a linear codec leaves is
about a tenth of the picture, and a network whose whole range is ten times that only adds noise
(docs/decisions/0002)."""

LINEAR_LOG_VARIANCE = -8.0
"""Log variance of latents at the start of training, or always without a deep encoder."""


class CausalConv(nn.Module):
    """A 3D convolution that pads time at the front only, with copies of the first frame."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        padding: str,
        kernel: int = 3,
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.pad_T = kernel - 1
        self.replicate_HW = padding == "replicate"
        self.pad_HW = kernel // 2
        self.conv = nn.Conv3d(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            padding=(0, 0, 0) if self.replicate_HW else (0, self.pad_HW, self.pad_HW),
        )

    def forward(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Convolve; a stride of s turns s * n + 1 frames into n + 1."""
        if self.replicate_HW:
            pad = self.pad_HW
            video_BCTHW = F.pad(video_BCTHW, (pad, pad, pad, pad, self.pad_T, 0), mode="replicate")
        elif self.pad_T:
            first = video_BCTHW[:, :, :1]
            video_BCTHW = torch.cat([first] * self.pad_T + [video_BCTHW], dim=2)
        convolved: torch.Tensor = self.conv(video_BCTHW)
        return convolved


class PositionNorm(nn.Module):
    """RMS norm over the channels of each position, optionally scaled and shifted by latents."""

    def __init__(self, channels: int, latent_channels: int | None) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.modulation = None
        if latent_channels is not None:
            self.modulation = nn.Conv3d(latent_channels, 2 * channels, 1)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)  # type: ignore[arg-type]

    def forward(
        self, video_BCTHW: torch.Tensor, latents_BCFYX: torch.Tensor | None
    ) -> torch.Tensor:
        """Normalise; the latents, if given, are repeated to the video's size."""
        scale = torch.rsqrt(video_BCTHW.pow(2).mean(1, keepdim=True) + 1e-6)
        normed = video_BCTHW * scale * rearrange(self.gain, "c -> 1 c 1 1 1")
        if self.modulation is None or latents_BCFYX is None:
            return normed
        modulation = _stretch(self.modulation(latents_BCFYX), video_BCTHW.shape[2:])
        gain, shift = modulation.chunk(2, dim=1)
        return normed * (1 + gain) + shift


def _stretch(latents_BCFYX: torch.Tensor, size_THW: tuple[int, ...]) -> torch.Tensor:
    """Repeat latents to a video's size; latent frame 0 covers one frame, the others a stride."""
    frames, height, width = size_THW
    latent_frames, rows, columns = latents_BCFYX.shape[2:]
    stride = (frames - 1) // max(latent_frames - 1, 1)
    first, rest = latents_BCFYX[:, :, :1], latents_BCFYX[:, :, 1:]
    timed = torch.cat([first, repeat(rest, "b c f y x -> b c (f r) y x", r=stride)], dim=2)
    return repeat(timed, "b c t y x -> b c t (y p) (x q)", p=height // rows, q=width // columns)


class ResidualBlock(nn.Module):
    """Two normed convolutions added to a (projected) shortcut."""

    def __init__(
        self, channels_in: int, channels_out: int, padding: str, latent_channels: int | None
    ) -> None:
        super().__init__()
        self.norm_1 = PositionNorm(channels_in, latent_channels)
        self.conv_1 = CausalConv(channels_in, channels_out, padding=padding)
        self.norm_2 = PositionNorm(channels_out, latent_channels)
        self.conv_2 = CausalConv(channels_out, channels_out, padding=padding)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.shortcut = nn.Conv3d(channels_in, channels_out, 1)

    def forward(
        self, video_BCTHW: torch.Tensor, latents_BCFYX: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return a video of the same size with `channels_out` channels."""
        hidden = self.conv_1(F.silu(self.norm_1(video_BCTHW, latents_BCFYX)))
        hidden = self.conv_2(F.silu(self.norm_2(hidden, latents_BCFYX)))
        out: torch.Tensor = self.shortcut(video_BCTHW) + hidden
        return out


class Upsample(nn.Module):
    """Enlarge by moving channels into space and time (the inverse of a strided convolution)."""

    def __init__(
        self, channels_in: int, channels_out: int, *, stride_T: int, stride_HW: int
    ) -> None:
        super().__init__()
        self.stride_T = stride_T
        self.stride_HW = stride_HW
        self.project = nn.Conv3d(channels_in, channels_out * stride_T * stride_HW**2, 1)

    def forward(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Return stride_T * (T - 1) + 1 frames: frame 0 stands for one pixel frame only."""
        enlarged: torch.Tensor = rearrange(
            self.project(video_BCTHW),
            "b (c r p q) t h w -> b c (t r) (h p) (w q)",
            r=self.stride_T,
            p=self.stride_HW,
            q=self.stride_HW,
        )
        return enlarged[:, :, self.stride_T - 1 :]


class Encoder(nn.Module):
    """Clips to the mean and log variance of latents."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.patch = config.input_patch
        channels = [config.base_channels * m for m in config.multipliers]
        self.stem = CausalConv(3 * config.input_patch**2, channels[0], padding=config.padding)
        layers: list[nn.Module] = []
        current = channels[0]
        for i, width in enumerate(channels):
            for _ in range(config.encoder_blocks[i]):
                layers.append(ResidualBlock(current, width, config.padding, None))
                current = width
            stride = (config.stride_T[i], config.stride_HW[i], config.stride_HW[i])
            if stride != (1, 1, 1):
                layers.append(CausalConv(current, current, padding=config.padding, stride=stride))
        self.layers = nn.ModuleList(layers)
        self.norm = PositionNorm(current, None)
        self.head = CausalConv(current, 2 * config.latent_channels, padding=config.padding)

    def forward(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Return mean and log variance stacked along the channels, shape B(2C)FYX."""
        hidden = rearrange(
            video_BCTHW, "b c t (h p) (w q) -> b (c p q) t h w", p=self.patch, q=self.patch
        )
        hidden = self.stem(hidden.contiguous(memory_format=torch.channels_last_3d))
        for layer in self.layers:
            hidden = layer(hidden)
        moments: torch.Tensor = self.head(F.silu(self.norm(hidden, None)))
        return moments


class Decoder(nn.Module):
    """Latents to clips; the mirror image of the encoder."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.patch = config.input_patch
        latent = config.latent_channels if config.adaptive_norm else None
        channels = [config.base_channels * m for m in config.multipliers]
        current = channels[-1]
        self.stem = CausalConv(config.latent_channels, current, padding=config.padding)
        layers: list[nn.Module] = []
        for i in reversed(range(len(channels))):
            if (config.stride_T[i], config.stride_HW[i]) != (1, 1):
                layers.append(
                    Upsample(
                        current,
                        channels[i],
                        stride_T=config.stride_T[i],
                        stride_HW=config.stride_HW[i],
                    )
                )
                current = channels[i]
            for _ in range(config.decoder_blocks[i]):
                layers.append(ResidualBlock(current, channels[i], config.padding, latent))
                current = channels[i]
        self.layers = nn.ModuleList(layers)
        self.norm = PositionNorm(current, latent)
        self.head = CausalConv(current, 3 * config.input_patch**2, padding=config.padding)

    def forward(self, latents_BCFYX: torch.Tensor) -> torch.Tensor:
        """Return clips of shape BCTHW, about [-1, 1], not clamped."""
        latents = latents_BCFYX.contiguous(memory_format=torch.channels_last_3d)
        hidden = self.stem(latents)
        for layer in self.layers:
            if isinstance(layer, ResidualBlock):
                hidden = layer(hidden, latents)
            else:
                hidden = layer(hidden).contiguous(memory_format=torch.channels_last_3d)
        pixels: torch.Tensor = self.head(F.silu(self.norm(hidden, latents)))
        return rearrange(pixels, "b (c p q) t h w -> b c t (h p) (w q)", p=self.patch, q=self.patch)


class LinearPath(nn.Module):
    """A linear codec of whole blocks of pixels, the best one there is once `fit` has run.

    One latent stands for stride_T x stride_HW x stride_HW pixels. Beside it the deep networks learn
    only what a linear map cannot do, so training starts where a principal component codec ends.

    Differs: docs/decisions/0002.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.stride_T, self.stride_HW = config.total_stride_T, config.total_stride_HW
        width = 3 * self.stride_T * self.stride_HW**2
        self.to_latents = nn.Linear(width, config.latent_channels)
        self.to_pixels = nn.Linear(config.latent_channels, width)

    def blocks(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Cut clips into blocks, B F Y X (pixels); the first frame fills its block alone."""
        front = video_BCTHW[:, :, :1]
        padded = torch.cat([front] * (self.stride_T - 1) + [video_BCTHW], dim=2)
        return rearrange(
            padded,
            "b c (f r) (y p) (x q) -> b f y x (c r p q)",
            r=self.stride_T,
            p=self.stride_HW,
            q=self.stride_HW,
        )

    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Return linear latents, BCFYX."""
        latents: torch.Tensor = self.to_latents(self.blocks(video_BCTHW))
        return rearrange(latents, "b f y x c -> b c f y x")

    def decode(self, latents_BCFYX: torch.Tensor) -> torch.Tensor:
        """Return the clips that linear latents stand for, BCTHW."""
        pixels: torch.Tensor = self.to_pixels(rearrange(latents_BCFYX, "b c f y x -> b f y x c"))
        video = rearrange(
            pixels,
            "b f y x (c r p q) -> b c (f r) (y p) (x q)",
            r=self.stride_T,
            p=self.stride_HW,
            q=self.stride_HW,
        )
        return video[:, :, self.stride_T - 1 :]

    @torch.no_grad()
    def fit(self, mean_P: torch.Tensor, covariance_PP: torch.Tensor, kept: int = 0) -> None:
        """Set both maps to the principal components of blocks with this mean and covariance.

        The first `kept` channels stay as they are, with their mean; the others become the principal
        components of what those leave.
        """
        covariance_PP = covariance_PP.double()
        # An orthonormal basis over blocks of P pixels; divided so that latents are of order 1.
        spread = covariance_PP.shape[0] ** 0.5 / 8
        if kept:
            mean_P = self.to_pixels.bias.detach().clone()
            held_PK, _ = torch.linalg.qr(self.to_pixels.weight[:, :kept].double())
            left_PP = torch.eye(len(held_PK), dtype=torch.double) - held_PK @ held_PK.T
            covariance_PP = left_PP @ covariance_PP @ left_PP
        _, vectors_PP = torch.linalg.eigh(covariance_PP)
        channels = self.to_latents.out_features - kept
        basis_PC = vectors_PP.flip(1)[:, :channels].to(self.to_latents.weight.dtype)
        self.to_latents.weight[kept:] = basis_PC.T / spread
        self.to_latents.bias[kept:] = -(basis_PC.T @ mean_P) / spread
        self.to_pixels.weight[:, kept:] = basis_PC * spread
        self.to_pixels.bias.copy_(mean_P)


class Autoencoder(VideoCodec):
    """Causal video autoencoder with normalised latents.

    `latent_mean` and `latent_scale` (one number a channel, measured after training) bring latents
    to zero mean and a spread near 1; `latent_spread` is the spread that is left. They are stored
    with the weights.

    Paper: sec. 8, Table 4.
    """

    latent_mean: torch.Tensor
    latent_scale: torch.Tensor
    latent_spread: torch.Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config) if config.deep_encoder else None
        self.decoder = Decoder(config)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_scale", torch.ones(config.latent_channels))
        self.register_buffer("latent_spread", torch.ones(config.latent_channels))
        self.linear = None
        if config.linear_path:
            self.linear = LinearPath(config)
            for deep in (self.encoder, self.decoder):
                if deep is not None:
                    nn.init.zeros_(deep.head.conv.weight)
                    nn.init.zeros_(deep.head.conv.bias)  # type: ignore[arg-type]
            if self.encoder is not None:
                # A log variance of 0 would drown the linear latents from the first step on.
                with torch.no_grad():
                    self.encoder.head.conv.bias[config.latent_channels :] = LINEAR_LOG_VARIANCE  # type: ignore[index]
        elif self.encoder is None:
            raise ValueError("an autoencoder needs a deep encoder or a linear path")

    def moments(self, video_BCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log variance (clamped to [-20, 4]) of raw latents, each BCFYX.

        Raises:
            ValueError: The clip does not have stride * n + 1 frames or rows and columns that fit.
        """
        frames, height, width = video_BCTHW.shape[2:]
        stride_T, stride_HW = self.config.total_stride_T, self.config.total_stride_HW
        if (frames - 1) % stride_T or height % stride_HW or width % stride_HW:
            raise ValueError(
                f"clip of {frames} x {height} x {width} does not fit strides "
                f"{stride_T} (plus one frame), {stride_HW}, {stride_HW}"
            )
        if self.encoder is None:
            mean = self._linear_latents(video_BCTHW)
            return mean, torch.full_like(mean, LINEAR_LOG_VARIANCE)
        mean, log_variance = self.encoder(video_BCTHW).chunk(2, dim=1)
        if self.linear is not None:
            mean = DEEP_SHARE * mean + self._linear_latents(video_BCTHW)
        return mean, log_variance.clamp(-20.0, 4.0)

    def _linear_latents(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        assert self.linear is not None
        return self.linear.encode(video_BCTHW)

    def reconstruct(self, latents_BCFYX: torch.Tensor) -> torch.Tensor:
        """Decode raw latents to clips, BCTHW, not clamped (training needs the gradient)."""
        video: torch.Tensor = self.decoder(latents_BCFYX)
        if self.linear is not None:
            video = DEEP_SHARE * video + self.linear.decode(latents_BCFYX)
        return video

    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode clips in [-1, 1] to normalised latents (the mean of the posterior), BCFYX."""
        mean, _ = self.moments(video_BCTHW)
        shift, scale = self._statistics(mean)
        return (mean - shift) / scale

    def decode(self, latents_BCFYX: torch.Tensor) -> torch.Tensor:
        """Decode normalised latents to clips, BCTHW, clamped to [-1, 1]."""
        shift, scale = self._statistics(latents_BCFYX)
        return self.reconstruct(latents_BCFYX * scale + shift).clamp(-1.0, 1.0)

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shift = rearrange(self.latent_mean, "c -> 1 c 1 1 1").to(like.dtype)
        scale = rearrange(self.latent_scale, "c -> 1 c 1 1 1").to(like.dtype)
        return shift, scale
