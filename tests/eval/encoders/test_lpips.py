"""LPIPS with a random VGG-16 in the real layout, against torch's own layers."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dcgrid.errors import WeightsError
from dcgrid.eval.encoders.lpips import LINEAR_FILE, WIDTHS, LpipsNetwork
from tests.eval.encoders.test_clip import frames

CPU = torch.device("cpu")
PLAN = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


@pytest.fixture(scope="module")
def vgg():
    """VGG-16's features as the published layers stand, with random weights."""
    torch.manual_seed(0)
    layers, width = [], 3
    for step in PLAN:
        if step == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, step, 3, padding=1), nn.ReLU()]
            nn.init.kaiming_normal_(layers[-2].weight)
            width = step
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def path(vgg, tmp_path_factory):
    file = tmp_path_factory.mktemp("vgg") / "model.safetensors"
    save_file({f"features.{name}": weight for name, weight in vgg.state_dict().items()}, file)
    return file


@torch.inference_mode()
def published(vgg, one, two):
    """The distance as the paper's package computes it: values of -1..1, shift, scale, taps."""
    linear = load_file(LINEAR_FILE)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    taps = []
    for frame in (one, two):
        now = ((frame.permute(2, 0, 1).float() / 127.5 - 1) - shift) / scale
        found, now = [], now[None]
        for index, layer in enumerate(vgg):
            now = layer(now)
            if index in (3, 8, 15, 22, 29):
                found.append(now / now.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-10))
        taps.append(found)
    layers = zip(*taps, strict=True)
    return sum(
        float((linear[f"lin{i}"].view(1, -1, 1, 1) * (a - b).square()).sum(dim=1).mean())
        for i, (a, b) in enumerate(layers)
    )


def test_it_is_the_published_formula(vgg, path):
    one, two = frames(5, 33, 48), frames(5, 33, 48, seed=1)
    found = LpipsNetwork(path, CPU).distances(one, two)
    wanted = [published(vgg, a, b) for a, b in zip(one, two, strict=True)]
    assert found == pytest.approx(wanted, rel=1e-3)
    assert len(set(found)) == 5


def test_equal_frames_have_no_distance_and_more_noise_more(path):
    network, given = LpipsNetwork(path, CPU), frames(2)
    noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(2))
    little, much = ((given + s * noise).clamp(0, 255).to(torch.uint8) for s in (5, 40))
    assert network.distances(given, given) == [0, 0]
    assert 0 < sum(network.distances(given, little)) < sum(network.distances(given, much))


def test_the_shipped_weights_are_the_published_ones():
    linear = load_file(LINEAR_FILE)
    assert [len(linear[f"lin{index}"]) for index in range(5)] == list(WIDTHS)
    assert sum(weight.numel() for weight in linear.values()) == 1472
    # None of them is negative: more difference is never nearer.
    assert all(float(weight.min()) > 0 for weight in linear.values())
    assert float(linear["lin0"].max()) == pytest.approx(1.28282, abs=1e-4)


def test_other_files_are_refused(path, tmp_path):
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        LpipsNetwork(broken, CPU)
    weights = load_file(path)
    weights["features.28.weight"] = weights["features.28.weight"][:7]
    save_file({name: weight.contiguous() for name, weight in weights.items()}, broken)
    with pytest.raises(WeightsError, match="another network than VGG-16"):
        LpipsNetwork(broken, CPU)
