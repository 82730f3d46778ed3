"""A small Wan checkout with random weights, written in the layout of diffusers."""

from pathlib import Path

import torch

CORPUS = [
    "a dog runs over the grass in heavy rain while smoke drifts across the scene",
    "this grid of videos illustrates the creative fusion of a cat and a burning flame",
    "top left top right bottom left bottom right performing the exact same motion",
    "moonlit night golden hour fog snow sparks water light streaks falling",
]


def write_checkout(folder: Path) -> None:
    """Write a whole pipeline with `save_pretrained`, so that the layout is diffusers' own."""
    import diffusers
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        transformer = diffusers.WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=4,
            out_channels=4,
            text_dim=32,
            freq_dim=16,
            ffn_dim=40,
            num_layers=2,
            rope_max_seq_len=64,
        )
        vae = diffusers.AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.5, 1.0, 2.0],
        )
        tokenizer = _tokenizer(folder.parent)
        encoder = transformers.UMT5EncoderModel(
            transformers.UMT5Config(
                vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4
            )
        )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    diffusers.WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder.eval(),
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=transformer.eval(),
    ).save_pretrained(folder)


def _tokenizer(folder: Path) -> object:
    import sentencepiece
    import transformers

    prefix = folder / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20),
        model_prefix=str(prefix),
        vocab_size=120,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return transformers.T5Tokenizer(vocab_file=f"{prefix}.model", extra_ids=0)
