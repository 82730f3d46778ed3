"""How many numbers the networks of a Wan model have, from their configs; no torch.

Tested to be equal to the modules of diffusers and transformers.

Letters in comments: D width of the transformer, E width of the text.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcgrid.models.wan.known import KNOWN, TEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Counts of a network's numbers by how they are stored."""

    plain: int
    """In the number format of the model."""
    wide: int
    """In float32 whatever the model's format is."""
    linear: int = 0
    """Weights of linear layers that can be rounded; in `plain` too."""
    rows: int = 0
    """Outputs of those layers: each has a step when they are rounded."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.plain + self.wide

    def stored(self, width: int, *, rounded: bool = False) -> int:
        """Return bytes in memory.

        Args:
            width: Bytes of a number of the model's format.
            rounded: True: linear weights take one byte, and there are steps.
        """
        size = self.plain * width + self.wide * 4
        return size + (self.rows * width - self.linear * (width - 1) if rounded else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WanSizes:
    """The configs of a Wan model's networks, as diffusers and transformers write them."""

    name: str
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text: Mapping[str, Any]

    @staticmethod
    def known(name: str) -> "WanSizes":
        """Return the sizes of a named model; KeyError if there is none."""
        transformer, vae = KNOWN[name]
        return WanSizes(name=name, transformer=transformer, vae=vae, text=TEXT)

    @staticmethod
    def of_checkout(folder: Path) -> "WanSizes":
        """Read the sizes of a checkout that `checkpoint.read_checkout` found in order."""
        configs = (
            json.loads((folder / part / "config.json").read_bytes())
            for part in ("transformer", "vae", "text_encoder")
        )
        transformer, vae, text = configs
        return WanSizes(name=folder.name, transformer=transformer, vae=vae, text=text)

    @property
    def width(self) -> int:
        """D, width of the transformer's tokens."""
        heads: int = self.transformer["num_attention_heads"]
        return heads * int(self.transformer["attention_head_dim"])

    @property
    def layers(self) -> int:
        """Blocks of the transformer."""
        return int(self.transformer["num_layers"])

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows, columns of a token."""
        frames, rows, cols = self.transformer["patch_size"]
        return frames, rows, cols


def block_numbers(sizes: WanSizes) -> Numbers:
    """Count one block of the transformer."""
    width, ffn = sizes.width, int(sizes.transformer["ffn_dim"])
    # Two attentions of four projections, and two layers that feed forward.
    linear, rows = 8 * width * width + 2 * width * ffn, 9 * width + ffn
    norms = 4 * width
    wide = 6 * width + (2 * width if sizes.transformer.get("cross_attn_norm", True) else 0)
    return Numbers(plain=linear + rows + norms, wide=wide, linear=linear, rows=rows)


def rest_numbers(sizes: WanSizes) -> Numbers:
    """Count the transformer without its blocks: embeddings of patches, times, texts; the output."""
    config, width = sizes.transformer, sizes.width
    frames, rows, cols = sizes.patch
    volume = frames * rows * cols
    patches = (config["in_channels"] * volume + 1) * width
    times = (config["freq_dim"] + 1) * width + (width + 1) * width
    to_blocks = (width + 1) * 6 * width
    texts = (config["text_dim"] + 1) * width + (width + 1) * width
    out = (width + 1) * config["out_channels"] * volume
    return Numbers(plain=patches + to_blocks + texts + out, wide=times + 2 * width)


def table_bytes(sizes: WanSizes) -> int:
    """Return the bytes of the transformer's tables of rotary positions, float32."""
    length = int(sizes.transformer.get("rope_max_seq_len", 1024))
    return 2 * 4 * length * int(sizes.transformer["attention_head_dim"])


def text_numbers(sizes: WanSizes) -> Numbers:
    """Count the UMT5 encoder."""
    config = sizes.text
    width, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    buckets = config.get("relative_attention_num_buckets", 32)
    layer = 4 * width * inner + buckets * config["num_heads"] + 3 * width * config["d_ff"]
    count = config["vocab_size"] * width + config["num_layers"] * (layer + 2 * width) + width
    return Numbers(plain=count, wide=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One resolution of an autoencoder's side."""

    inputs: int
    outputs: int
    blocks: int
    """Residual blocks."""
    scale_T: int
    """2: time is scaled after the blocks; 1: not."""
    scaled: bool
    """True: rows and columns are scaled after the blocks."""


def decoder_levels(vae: Mapping[str, Any]) -> Iterator[Level]:
    """Yield the levels of the decoder, coarse to fine."""
    base = vae.get("decoder_base_dim") or vae["base_dim"]
    factors = list(vae["dim_mult"])
    widths = [base * f for f in (factors[-1], *reversed(factors))]
    upsample = list(reversed(vae["temperal_downsample"]))
    for place, outputs in enumerate(widths[1:]):
        # Without residual shortcuts an upsampler has halved the channels already.
        halved = place > 0 and not vae.get("is_residual", False)
        scaled = place < len(factors) - 1
        yield Level(
            inputs=widths[place] // 2 if halved else widths[place],
            outputs=outputs,
            blocks=vae["num_res_blocks"] + 1,
            scale_T=2 if scaled and upsample[place] else 1,
            scaled=scaled,
        )


def encoder_levels(vae: Mapping[str, Any]) -> Iterator[Level]:
    """Yield the levels of the encoder, fine to coarse."""
    factors = list(vae["dim_mult"])
    widths = [vae["base_dim"] * f for f in (1, *factors)]
    for place, outputs in enumerate(widths[1:]):
        scaled = place < len(factors) - 1
        yield Level(
            inputs=widths[place],
            outputs=outputs,
            blocks=vae["num_res_blocks"],
            scale_T=2 if scaled and vae["temperal_downsample"][place] else 1,
            scaled=scaled,
        )


def vae_numbers(sizes: WanSizes) -> Numbers:
    """Count the autoencoder, both sides."""
    vae, z = sizes.vae, sizes.vae["z_dim"]
    total = (2 * z + 1) * 2 * z + (z + 1) * z
    down, up = list(encoder_levels(vae)), list(decoder_levels(vae))
    total += _conv(vae.get("in_channels", 3), down[0].inputs)
    total += sum(_blocks(level) + _down(level) for level in down)
    total += _middle(down[-1].outputs) + down[-1].outputs + _conv(down[-1].outputs, 2 * z)
    total += _conv(z, up[0].inputs) + _middle(up[0].inputs)
    total += sum(_blocks(level) + _up(level, vae) for level in up)
    total += up[-1].outputs + _conv(up[-1].outputs, vae.get("out_channels", 3))
    return Numbers(plain=0, wide=total)


def _conv(inputs: int, outputs: int, volume: int = 27) -> int:
    return (inputs * volume + 1) * outputs


def _residual(inputs: int, outputs: int) -> int:
    shortcut = _conv(inputs, outputs, 1) if inputs != outputs else 0
    return inputs + _conv(inputs, outputs) + outputs + _conv(outputs, outputs) + shortcut


def _blocks(level: Level) -> int:
    later = (level.blocks - 1) * _residual(level.outputs, level.outputs)
    return _residual(level.inputs, level.outputs) + later


def _middle(width: int) -> int:
    attention = width + _conv(width, 3 * width, 1) + _conv(width, width, 1)
    return 2 * _residual(width, width) + attention


def _down(level: Level) -> int:
    if not level.scaled:
        return 0
    width = level.outputs
    time = _conv(width, width, 3) if level.scale_T == 2 else 0
    return _conv(width, width, 9) + time


def _up(level: Level, vae: Mapping[str, Any]) -> int:
    if not level.scaled:
        return 0
    width = level.outputs
    narrowed = width if vae.get("is_residual", False) else width // 2
    time = _conv(width, 2 * width, 3) if level.scale_T == 2 else 0
    return _conv(width, narrowed, 9) + time
