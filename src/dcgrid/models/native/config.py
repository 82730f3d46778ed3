"""Sizes of the native models, and the presets: paper, paper-small, mini, tiny.

Numbers of `PAPER` come from Tables 4 and 5; `PAPER_SMALL` is the same network in every kind of
layer, narrow enough to train on a CPU. `MINI` is the embedded model. `TINY` has random weights and
exists for fast tests only.
"""

from dataclasses import dataclass

MOVING_NOISE: tuple[tuple[int, float], ...] = (
    *3 * ((4, 0.0),),
    *3 * ((2, 0.0),),
    *3 * ((1, 0.0),),
    *3 * ((-2, 0.0),),
    (-1, 2.4),
    (-2, 1.0),
)
"""How the last channels of `mini`'s noise move (see flow/noise.py): numbers that fall fast, slower
and slowly, numbers that rise, two smooth fields that rise. Differs: docs/decisions/0009."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig:
    """Sizes of the causal autoencoder. The five tuples have one entry a stage. Paper: Table 4."""

    base_channels: int
    """Channels before the multipliers."""
    multipliers: tuple[int, ...]
    """Channel multiplier of each stage."""
    encoder_blocks: tuple[int, ...]
    """Residual blocks of each encoder stage."""
    decoder_blocks: tuple[int, ...]
    """Residual blocks of each decoder stage."""
    stride_T: tuple[int, ...]
    """Factor by which each stage shortens time."""
    stride_HW: tuple[int, ...]
    """Factor by which each stage shrinks rows and columns."""
    latent_channels: int
    """Channels of the bottleneck."""
    input_patch: int = 1
    """Pixels (a side) folded into channels before the first convolution; 1 is none."""
    padding: str = "replicate"
    """Spatial padding: "replicate" (paper) or "zeros" (faster on a CPU)."""
    adaptive_norm: bool = True
    """Decoder norms take scale and shift from the latents. Paper: Table 4."""
    linear_path: bool = False
    """True: a linear codec (fitted in closed form) beside the deep one, which learns what is left.
    Differs: docs/decisions/0002."""
    deep_encoder: bool = True
    """False: the linear path alone encodes, and depth is in the decoder only."""

    @property
    def total_stride_T(self) -> int:  # noqa: N802
        """Pixel frames per latent frame."""
        product = 1
        for stride in self.stride_T:
            product *= stride
        return product

    @property
    def total_stride_HW(self) -> int:  # noqa: N802
        """Pixels per latent row or column."""
        product = self.input_patch
        for stride in self.stride_HW:
            product *= stride
        return product


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTConfig:
    """Sizes of the diffusion transformer. Paper: Table 5."""

    latent_channels: int
    """C of the latents."""
    width: int
    """D, channels of a token."""
    blocks: int
    """Number of transformer blocks."""
    heads: int
    """N, attention heads."""
    text_width: int
    """E, channels of a text token."""
    patch: tuple[int, int, int] = (1, 2, 2)
    """Latent frames, rows, columns per token."""
    mlp_ratio: int = 4
    """Hidden width of the MLP over D."""
    window: int | None = None
    """Width of the centred attention window in tokens, grid order; None: full attention."""
    self_conditioning: bool = False
    """True: the input carries the model's last estimate of the clean latents beside the noisy."""
    prediction: str = "velocity"
    """What the last layer predicts: "velocity" (paper) or "mixture" (docs/decisions/0003)."""
    cell_attention: bool = False
    """True: each block also lets a token see the tokens at the same place of all cells.
    Differs: docs/decisions/0007."""
    text_modulation: bool = False
    """True: the modulation of a cell depends on its text, too. Differs: docs/decisions/0008."""
    peer_head: bool = False
    """True: the output also reads the input tokens at the same place of all cells.
    Differs: docs/decisions/0007."""
    noise_motion: tuple[tuple[int, float], ...] = ()
    """How the last channels of the noise move, and that the network sees this noise. Empty: noise
    is white, and seen only where it says something of the data. Differs: docs/decisions/0009."""
    place_embedding: bool = False
    """True: tokens are told where in their cell they stand. Differs: docs/decisions/0007."""
    time_width: int | None = None
    """Channels of the embedded flow time; None: D."""
    cell_pitch: int | None = None
    """Distance between neighbouring cells in RoPE positions, with rotations that repeat at it;
    None: cells abut and rotations are the usual ones. Differs: docs/decisions/0004."""
    given_first: bool = False
    """True: given cells read given cells alone, whatever adapter is on (docs/decisions/0014)."""
    rope_base: float = 10_000.0
    """Longest wavelength of the rotary embedding, in positions (before 2 pi)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Sizes of mini's own text encoder."""

    width: int
    """E, channels of a text token."""
    blocks: int
    """Transformer blocks over one segment."""
    heads: int
    """Attention heads."""
    limit: int
    """Most tokens of one segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeConfig:
    """One native model: all parts, and what it was trained for."""

    autoencoder: AutoencoderConfig
    dit: DiTConfig
    text: TextConfig | None
    """None: T5 through transformers (the paper's)."""
    upsampler_widths: tuple[int, ...] = (24, 48, 64, 96)
    """Channels of the guided upsampler that its stage trains. Paper: sec. 3.4 (sizes are ours)."""


PAPER = NativeConfig(
    autoencoder=AutoencoderConfig(
        base_channels=16,
        multipliers=(1, 4, 16, 32, 64),
        encoder_blocks=(1, 1, 2, 8, 8),
        decoder_blocks=(4, 4, 4, 4, 4),
        stride_T=(1, 2, 2, 2, 1),
        stride_HW=(2, 2, 2, 2, 1),
        latent_channels=32,
    ),
    dit=DiTConfig(
        latent_channels=32,
        width=4096,
        blocks=32,
        heads=32,
        text_width=1024,
        window=6144,
        self_conditioning=True,
    ),
    text=None,
)

PAPER_SMALL = NativeConfig(
    autoencoder=AutoencoderConfig(
        base_channels=8,
        multipliers=(1, 2, 4, 8, 8),
        encoder_blocks=(1, 1, 1, 1, 1),
        decoder_blocks=(1, 1, 1, 1, 1),
        stride_T=(1, 2, 2, 2, 1),
        stride_HW=(2, 2, 2, 2, 1),
        latent_channels=32,
    ),
    dit=DiTConfig(
        latent_channels=32,
        width=128,
        blocks=6,
        heads=4,
        text_width=512,  # t5-small's, as 1024 is t5-large's
        window=128,
        self_conditioning=True,
    ),
    text=None,
)

MINI = NativeConfig(
    autoencoder=AutoencoderConfig(
        base_channels=64,
        multipliers=(1, 2, 2),
        encoder_blocks=(0, 0, 0),
        decoder_blocks=(2, 3, 3),
        stride_T=(2, 2, 1),
        stride_HW=(2, 1, 1),
        latent_channels=48,
        input_patch=4,
        padding="zeros",
        adaptive_norm=False,
        linear_path=True,
        deep_encoder=False,
    ),
    dit=DiTConfig(
        latent_channels=48,
        width=256,
        blocks=8,
        heads=2,
        text_width=128,
        prediction="mixture",
        cell_attention=True,
        text_modulation=True,
        peer_head=True,
        noise_motion=MOVING_NOISE,
        place_embedding=True,
        time_width=96,
        cell_pitch=16,
    ),
    text=TextConfig(width=128, blocks=2, heads=2, limit=48),
)

TINY = NativeConfig(
    autoencoder=AutoencoderConfig(
        base_channels=4,
        multipliers=(1, 2, 2),
        encoder_blocks=(1, 1, 1),
        decoder_blocks=(1, 1, 1),
        stride_T=(2, 2, 1),
        stride_HW=(2, 2, 1),
        latent_channels=4,
        input_patch=2,
        padding="zeros",
        linear_path=True,
    ),
    dit=DiTConfig(
        latent_channels=4,
        width=32,
        blocks=2,
        heads=2,
        text_width=16,
        prediction="mixture",
        cell_attention=True,
        text_modulation=True,
        peer_head=True,
        place_embedding=True,
    ),
    text=TextConfig(width=16, blocks=1, heads=2, limit=64),
    upsampler_widths=(4, 6, 8),
)

PRESETS = {"paper": PAPER, "paper-small": PAPER_SMALL, "mini": MINI, "tiny": TINY}
