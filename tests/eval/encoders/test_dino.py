"""DINO against transformers' ViTModel, in the layouts of both."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.dino import MEAN, SPREAD, VIT_S16, DinoEncoder, timm_names
from dcgrid.eval.metrics import temporal_coherence
from tests.eval.encoders.test_clip import frames
from tests.eval.places import CLIPS, lacks, needs_clips

pytestmark = lacks("transformers", "PIL", "numpy")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def oracle():
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    model = ViTModel(
        ViTConfig(
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=256,
            image_size=56,
            patch_size=8,
            layer_norm_eps=1e-6,
        )
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def path(oracle, tmp_path_factory):
    """The weights as transformers writes them."""
    folder = tmp_path_factory.mktemp("vit")
    oracle.save_pretrained(folder)
    return folder / "model.safetensors"


def timm_layout(weights, layers=3):
    """The same weights under the names that timm gives them, written down by hand."""
    new = {
        "cls_token": weights["embeddings.cls_token"],
        "pos_embed": weights["embeddings.position_embeddings"],
        "patch_embed.proj.weight": weights["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": weights["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": weights["layernorm.weight"],
        "norm.bias": weights["layernorm.bias"],
    }
    for n in range(layers):
        for kind in ("weight", "bias"):
            old = f"encoder.layer.{n}"
            parts = [
                weights[f"{old}.attention.attention.{part}.{kind}"]
                for part in ("query", "key", "value")
            ]
            new[f"blocks.{n}.attn.qkv.{kind}"] = torch.cat(parts)
            new[f"blocks.{n}.attn.proj.{kind}"] = weights[f"{old}.attention.output.dense.{kind}"]
            new[f"blocks.{n}.norm1.{kind}"] = weights[f"{old}.layernorm_before.{kind}"]
            new[f"blocks.{n}.norm2.{kind}"] = weights[f"{old}.layernorm_after.{kind}"]
            new[f"blocks.{n}.mlp.fc1.{kind}"] = weights[f"{old}.intermediate.dense.{kind}"]
            new[f"blocks.{n}.mlp.fc2.{kind}"] = weights[f"{old}.output.dense.{kind}"]
    return {name: weight.contiguous() for name, weight in new.items()}


def with_pillow(frame, short=64, side=56):
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(frame.numpy())
    scale = short / min(picture.size)
    size = (int(picture.width * scale), int(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    values = np.asarray(picture.crop((left, top, left + side, top + side)), dtype=np.float32)
    return torch.from_numpy((values / 255 - MEAN) / SPREAD).permute(2, 0, 1)[None].float()


@torch.inference_mode()
def test_the_class_token_is_that_of_transformers(oracle, path):
    given = frames(2, 80, 128)
    wanted = torch.cat([oracle(with_pillow(one)).last_hidden_state[:, 0] for one in given])
    found = DinoEncoder(path, CPU).frames(given)
    assert torch.cosine_similarity(found, wanted).min() > 0.999
    assert (found - wanted).norm() < 0.1 * (found[0] - found[1]).norm()


@torch.inference_mode()
def test_the_network_is_exact_on_the_same_pixels(oracle, path):
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    wanted = oracle(pixels).last_hidden_state[:, 0]
    assert torch.allclose(DinoEncoder(path, CPU)._network(pixels), wanted, atol=1e-4)


def test_timms_layout_gives_the_same(oracle, path, tmp_path):
    weights = load_file(path)
    ours = timm_names(weights)
    by_hand = timm_layout(weights)
    assert by_hand.keys() == ours.keys()
    assert all(torch.equal(by_hand[name], ours[name]) for name in ours)
    assert set(timm_names(ours)) == set(ours)
    # The names that transformers 5 has in memory.
    inside = timm_names(dict(oracle.state_dict()))
    assert all(torch.equal(inside[name], ours[name]) for name in ours)
    other = tmp_path / "timm.safetensors"
    save_file({name: weight.contiguous() for name, weight in ours.items()}, other)
    given = frames(2, 80, 80)
    one, two = (DinoEncoder(file, CPU).frames(given) for file in (path, other))
    assert torch.equal(one, two)


def test_another_network_is_refused_under_the_name_of_vit_s16(path, tmp_path):
    with pytest.raises(WeightsError, match=r"\(128, 3, 8\)"):
        DinoEncoder(path, CPU, VIT_S16)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        DinoEncoder(broken, CPU)
    weights = timm_names(load_file(path))
    weights.pop("blocks.1.norm1.bias")
    save_file({name: weight.contiguous() for name, weight in weights.items()}, broken)
    with pytest.raises(WeightsError, match=r"blocks\.1\.norm1\.bias"):
        DinoEncoder(broken, CPU)


@needs_clips
def test_real_frames_are_less_coherent_shuffled_or_alternating(path):
    from benchmarks.clips import read_frames

    # Random features, which stand for no metric: what is tested is order, through the whole way.
    encoder = DinoEncoder(path, CPU)
    clip, other = (read_frames(CLIPS / f"asl_{name}.mkv")[:40:2] for name in ("again", "bird"))
    order = torch.randperm(len(clip), generator=torch.Generator().manual_seed(0))
    mixed = torch.stack([clip[:10], other[:10]], dim=1).flatten(0, 1)
    straight, shuffled, alternating = (
        temporal_coherence(encoder.frames(one)).value for one in (clip, clip[order], mixed)
    )
    assert 1 - shuffled > 1.2 * (1 - straight)
    assert 1 - alternating > 2 * (1 - straight)
