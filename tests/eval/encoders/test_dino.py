"""DINO against torch's own transformer layers, in the layouts of timm and of transformers."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.dino import MEAN, SPREAD, VIT_S16, DinoEncoder
from dcgrid.eval.metrics import temporal_coherence
from tests.eval.encoders.test_clip import frames
from tests.eval.places import CLIPS, lacks, needs_clips

pytestmark = lacks("transformers", "PIL", "numpy")
CPU = torch.device("cpu")


WIDTH, LAYERS, PATCH, SIDE = 128, 3, 8, 56


class Oracle(nn.Module):
    """The same network of torch's own layers, under the names that timm gives its weights."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (SIDE // PATCH) ** 2, WIDTH))
        self.proj = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, WIDTH // 64, 256, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, pixels):
        patches = self.proj(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        tokens = tokens + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 0]

    def timm_weights(self):
        names = (
            ("proj.", "patch_embed.proj."),
            ("self_attn.in_proj_", "attn.qkv."),
            ("self_attn.out_patch_embed.proj.", "attn.proj."),
            ("linear1", "mlp.fc1"),
            ("linear2", "mlp.fc2"),
        )
        weights = {}
        for name, weight in self.state_dict().items():
            for old, new in names:
                name = name.replace(old, new)
            weights[name] = weight.clone()
        return weights


@pytest.fixture(scope="module")
def oracle():
    torch.manual_seed(0)
    network = Oracle()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.2)
    return network.eval()


@pytest.fixture(scope="module")
def path(oracle, tmp_path_factory):
    """The weights as timm publishes them."""
    path = tmp_path_factory.mktemp("vit") / "model.safetensors"
    save_file({**oracle.timm_weights(), "head.weight": torch.zeros(10, WIDTH)}, path)
    return path


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
def test_class_tokens_are_those_of_torchs_own_layers(oracle, path):
    given = frames(2, 80, 128)
    wanted = torch.cat([oracle(with_pillow(one)) for one in given])
    found = DinoEncoder(path, CPU).frames(given)
    assert torch.cosine_similarity(found, wanted).min() > 0.999
    assert (found - wanted).norm() < 0.1 * (found[0] - found[1]).norm()


@torch.inference_mode()
def test_the_network_is_exact_on_the_same_pixels(oracle, path):
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    found = DinoEncoder(path, CPU)._model(pixels).last_hidden_state[:, 0]
    assert torch.allclose(found, oracle(pixels), atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_a_file_of_transformers_gives_the_same(path, tmp_path, prefix):
    encoder = DinoEncoder(path, CPU)
    encoder._model.save_pretrained(tmp_path)
    written = tmp_path / "model.safetensors"
    save_file({f"{prefix}{name}": weight for name, weight in load_file(written).items()}, written)
    given = frames(2, 80, 80)
    assert torch.equal(encoder.frames(given), DinoEncoder(written, CPU).frames(given))


def test_another_network_is_refused_under_the_name_of_vit_s16(path, tmp_path):
    with pytest.raises(WeightsError, match=r"\(128, 3, 8\)"):
        DinoEncoder(path, CPU, VIT_S16)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        DinoEncoder(broken, CPU)
    weights = load_file(path)
    weights.pop("blocks.1.norm1.bias")
    save_file(weights, broken)
    with pytest.raises(WeightsError, match=r"layers?\.1\.layernorm_before\.bias"):
        DinoEncoder(broken, CPU)
    weights = load_file(path)
    weights["blocks.2.mlp.fc1.bias"] = torch.zeros(3)
    save_file(weights, broken)
    with pytest.raises(WeightsError, match="cannot be loaded"):
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
