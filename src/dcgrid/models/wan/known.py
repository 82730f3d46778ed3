"""Configs of the named Wan models, so that a plan needs no download; no torch.

Only what sizes follow from, under the names that diffusers and transformers give them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

TEXT_LENGTH = 512
"""Tokens that Wan's transformer reads; shorter texts are filled up with zeros, which it was trained
to read, too."""
TEXT: Mapping[str, Any] = MappingProxyType(
    {
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "vocab_size": 256384,
        "relative_attention_num_buckets": 32,
    }
)
"""UMT5-XXL, the encoder of all of them."""

_VAE_21: Mapping[str, Any] = MappingProxyType(
    {
        "base_dim": 96,
        "z_dim": 16,
        "dim_mult": (1, 2, 4, 4),
        "num_res_blocks": 2,
        "temperal_downsample": (False, True, True),
        "is_residual": False,
        "in_channels": 3,
        "out_channels": 3,
        "patch_size": None,
        "scale_factor_temporal": 4,
        "scale_factor_spatial": 8,
    }
)
_VAE_22: Mapping[str, Any] = MappingProxyType(
    {
        **_VAE_21,
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
    }
)


def _transformer(layers: int, heads: int, ffn: int, channels: int) -> Mapping[str, Any]:
    return MappingProxyType(
        {
            "num_layers": layers,
            "num_attention_heads": heads,
            "attention_head_dim": 128,
            "ffn_dim": ffn,
            "in_channels": channels,
            "out_channels": channels,
            "patch_size": (1, 2, 2),
            "text_dim": 4096,
            "freq_dim": 256,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "rope_max_seq_len": 1024,
        }
    )


KNOWN: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = MappingProxyType(
    {
        "wan2.2-5b": (_transformer(30, 24, 14336, 48), _VAE_22),
        "wan2.1-14b": (_transformer(40, 40, 13824, 16), _VAE_21),
        "wan2.1-1.3b": (_transformer(30, 12, 8960, 16), _VAE_21),
    }
)
"""Transformer and autoencoder of each model by its name on the command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSchedule:
    """What the scheduler and the index of a checkout say."""

    time_shift: float
    """Shift towards noise."""
    per_cell_time: bool
    """True: `expand_timesteps`, a time for each token."""


SCHEDULES: Mapping[str, KnownSchedule] = MappingProxyType(
    {
        "wan2.2-5b": KnownSchedule(time_shift=5.0, per_cell_time=True),
        "wan2.1-14b": KnownSchedule(time_shift=3.0, per_cell_time=False),
        "wan2.1-1.3b": KnownSchedule(time_shift=3.0, per_cell_time=False),
    }
)
"""For plans before a download; the checkout's own word counts once it is here."""
