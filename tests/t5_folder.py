"""A T5 of random weights and a small tokenizer, laid out as hub repositories are."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

PIECES = ("▁", "▁the", "▁cat", "▁rain", "▁walk", "s", "ing", "▁in", ",", ".")


def make_t5_folder(folder: Path, width: int = 16) -> Path:
    """Write a T5 encoder of 2 layers; `width` is that of its embeddings."""
    transformers = pytest.importorskip("transformers")
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece, -1.0 - 0.1 * i) for i, piece in enumerate(PIECES)]
    vocabulary += [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=2))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    config = transformers.T5Config(
        vocab_size=48, d_model=width, d_kv=4, d_ff=24, num_layers=2, num_heads=4, pad_token_id=0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.T5EncoderModel(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    weights = {name: t.clone() for name, t in model.state_dict().items() if "embed_to" not in name}
    # Whole T5 checkpoints carry a decoder, which is no business of ours.
    save_file({**weights, "decoder.final_layer_norm.weight": torch.ones(width)},
              folder / "model.safetensors")  # fmt: skip
    return folder
