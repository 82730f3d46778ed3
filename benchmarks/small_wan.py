"""Writes small Wan checkouts with random weights, of any shape, in the layout of diffusers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

TRANSFORMER: Mapping[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 32,
    "freq_dim": 16,
    "ffn_dim": 512,
    "num_layers": 6,
    "rope_max_seq_len": 128,
}
VAE: Mapping[str, Any] = {
    "base_dim": 16,
    "z_dim": 4,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}
TEXT: Mapping[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_SENTENCES = ["a dog runs over wet grass", "rain falls on a street at night", "smoke and fog"]


def write_small_wan(
    folder: Path, transformer: Mapping[str, Any] | None = None, vae: Mapping[str, Any] | None = None
) -> Path:
    """Write a checkout whose shapes are the ones above but for what is given; return its folder."""
    import diffusers
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = small_tokenizer(folder / "pieces", _SENTENCES, 80)
        text = transformers.UMT5Config(**TEXT, vocab_size=len(tokenizer))
        diffusers.WanPipeline(
            tokenizer=tokenizer,
            text_encoder=transformers.UMT5EncoderModel(text).eval(),
            vae=diffusers.AutoencoderKLWan(**{**VAE, **(vae or {})}).eval(),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            transformer=diffusers.WanTransformer3DModel(
                **{**TRANSFORMER, **(transformer or {})}
            ).eval(),
        ).save_pretrained(folder)
    return folder


def small_tokenizer(prefix: Path, sentences: Sequence[str], pieces: int) -> Any:  # noqa: ANN401
    """Make a tokenizer as UMT5 has it from a few sentences.

    Args:
        prefix: Path of its files, without their endings.
        sentences: What it learns its pieces from.
        pieces: How many it learns, if the sentences have as many.

    Returns:
        A `transformers.T5Tokenizer`.
    """
    import sentencepiece
    import transformers

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*sentences] * 20),
        model_prefix=str(prefix),
        vocab_size=pieces,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return transformers.T5Tokenizer(vocab_file=f"{prefix}.model", extra_ids=0)
