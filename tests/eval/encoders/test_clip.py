"""CLIP from a small random checkpoint in the real layout, against a path of its own."""

import json

import pytest
import torch

from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.clip_vit import MEAN, SPREAD, VIT_L14, ClipEncoder
from dcgrid.eval.encoders.preprocess import CHUNK
from tests.eval.places import lacks

pytestmark = lacks("transformers", "tokenizers", "PIL", "numpy")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint as `save_pretrained` and CLIP's own tokenizer write it."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = {letter: index for index, letter in enumerate(letters)}
    vocab |= {f"{letter}</w>": len(vocab) + index for index, letter in enumerate(letters)}
    vocab |= {"ra": 52, "in</w>": 53, "<|startoftext|>": 54, "<|endoftext|>": 55}
    path = tmp_path_factory.mktemp("clip")
    CLIPTokenizer(vocab=vocab, merges=[("r", "a"), ("i", "n</w>")]).save_pretrained(path)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 2, "projection_dim": 24}
    config = CLIPConfig(
        text_config={
            **small,
            "vocab_size": 56,
            "max_position_embeddings": 12,
            "bos_token_id": 54,
            "eos_token_id": 55,
        },
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return ClipEncoder(folder, CPU)


def frames(count=3, height=40, width=64, seed=0):
    coarse = torch.rand(count, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (fine * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def with_pillow(frame):
    """CLIP's preprocessing of a picture, by Pillow and numpy."""
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(frame.numpy())
    scale = 32 / min(picture.size)
    size = (int(picture.width * scale), int(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (picture.width - 32) // 2, (picture.height - 32) // 2
    values = np.asarray(picture.crop((left, top, left + 32, top + 32)), dtype=np.float32) / 255
    return torch.from_numpy((values - MEAN) / SPREAD).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (32, 32), (20, 24)])
@torch.inference_mode()
def test_frames_are_those_of_the_vision_model_and_pillow(folder, encoder, size):
    from transformers import CLIPVisionModelWithProjection

    oracle = CLIPVisionModelWithProjection.from_pretrained(folder)
    given = frames(2, *size)
    wanted = torch.cat([oracle(with_pillow(frame)).image_embeds for frame in given])
    found = encoder.frames(given)
    assert found.shape == (2, 24)
    assert torch.cosine_similarity(found, wanted).min() > 0.999
    # The two frames are told apart far better than the two ways to make them.
    assert (found - wanted).norm() < 0.1 * (found[0] - found[1]).norm()


@torch.inference_mode()
def test_texts_are_those_of_the_text_model(folder, encoder):
    from transformers import CLIPTextModelWithProjection

    oracle = CLIPTextModelWithProjection.from_pretrained(folder)
    vocab = json.loads((folder / "tokenizer.json").read_bytes())["model"]["vocab"]
    # By hand: "rain fog" is "ra in</w> f o g</w>" between start and end.
    pieces = ["<|startoftext|>", "ra", "in</w>", "f", "o", "g</w>", "<|endoftext|>"]
    wanted = oracle(torch.tensor([[vocab[piece] for piece in pieces]])).text_embeds[0]
    assert torch.allclose(encoder.text("Rain  fog"), wanted, atol=1e-5)
    assert not torch.allclose(encoder.text("fog"), wanted, atol=0.1)


def test_long_texts_are_cut_and_long_clips_are_read_in_pieces(encoder):
    assert torch.isfinite(encoder.text("rain " * 100)).all()
    given = frames(2 * CHUNK + 1)
    whole = encoder.frames(given)
    assert len(whole) == 2 * CHUNK + 1
    assert torch.allclose(whole[-1:], encoder.frames(given[-1:]), atol=1e-4)


def test_another_clip_is_refused_under_the_name_of_vit_l14(folder):
    with pytest.raises(WeightsError, match="another CLIP than ViT-L/14: its hidden_size is 32"):
        ClipEncoder(folder, CPU, VIT_L14)


def test_pickles_and_damaged_files_are_refused(folder, tmp_path):
    import shutil

    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        ClipEncoder(broken, CPU)
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        ClipEncoder(pickled, CPU)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        ClipEncoder(tmp_path / "nowhere", CPU)
