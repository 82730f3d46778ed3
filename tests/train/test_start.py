"""Starting from an earlier edition: the grown model does what the earlier one did."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dcgrid.adapters.attach import attach_adapter
from dcgrid.adapters.files import save_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.errors import AdapterError, WeightsError
from dcgrid.models.native.config import TINY
from dcgrid.models.native.text import TextEncoder, WordTokenizer
from dcgrid.models.weights import save_weights
from dcgrid.train.networks import start_adapter_from, start_from, start_text_from

SPEC = AdapterSpec(name="fill", stage="fill", rank=6, alpha=12.0, targets=("first",))


class Net(nn.Module):
    """Two layers; may have more inputs, and a third layer."""

    def __init__(self, inputs: int = 5, *, third: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, 8)
        self.second = nn.Linear(8, 3)
        if third:
            self.third = nn.Linear(3, 3)


def save(net: nn.Module, folder: Path) -> Path:
    path = folder / "net.safetensors"
    save_weights(path, net.state_dict(), {}, torch.float32)
    return path


def test_a_grown_network_does_what_the_earlier_one_did(tmp_path: Path) -> None:
    earlier, grown = Net(), Net(7, third=True)
    kept = grown.third.weight.clone()
    assert start_from(save(earlier, tmp_path), grown) == 2
    inputs = torch.randn(4, 7)
    torch.testing.assert_close(grown.first(inputs), earlier.first(inputs[:, :5]))
    assert torch.equal(grown.third.weight, kept)


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    path = save(Net(7, third=True), tmp_path)
    with pytest.raises(WeightsError, match=r"third\.\w+, which the model does not have"):
        start_from(path, Net(7))
    with pytest.raises(WeightsError, match=r"first\.weight has shape \(8, 7\).*\(8, 5\)"):
        start_from(path, Net(5, third=True))
    with pytest.raises(WeightsError, match="no weights"):
        start_from(tmp_path / "none.safetensors", Net())


def text_encoder(words: list[str]) -> TextEncoder:
    return TextEncoder(TINY.text, WordTokenizer(words))


def test_words_keep_their_meaning_wherever_they_stand(tmp_path: Path) -> None:
    earlier = text_encoder(["cat", "rain", "snow"])
    path = tmp_path / "text.safetensors"
    facts = {"vocabulary": ["cat", "rain", "snow"]}
    save_weights(path, earlier.state_dict(), facts, torch.float32)
    grown = text_encoder(["ant", "cat", "fire", "snow"])
    first = grown.words.weight.clone()
    assert start_text_from(path, grown) == 2
    for texts in (["cat snow"], [""], ["unheard"], ["cat cat", "snow"]):
        torch.testing.assert_close(grown(texts)[0], earlier(texts)[0])
    for new in (3, 5):  # ant, fire
        assert torch.equal(grown.words.weight[new], first[new])


def test_text_without_a_fitting_vocabulary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    earlier = text_encoder(["cat", "rain"])
    for facts in ({}, {"vocabulary": ["cat"]}, {"vocabulary": 2}):
        save_weights(path, earlier.state_dict(), facts, torch.float32)
        with pytest.raises(WeightsError, match="no vocabulary"):
            start_text_from(path, text_encoder(["cat"]))


def trained(net: Net, spec: AdapterSpec) -> Net:
    attach_adapter(net, spec)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora" in name:
                parameter.normal_()
    return net


def change(net: Net, spec: AdapterSpec) -> torch.Tensor:
    """Return what the adapter adds to the first layer, as a matrix."""
    tensors = net.state_dict()
    down, up = tensors["first.lora_A.fill.weight"], tensors["first.lora_B.fill.weight"]
    return spec.scale * up @ down


def test_an_adapter_of_the_same_rank_starts_as_it_was(tmp_path: Path) -> None:
    earlier = trained(Net(), SPEC)
    save_adapter(earlier, SPEC, tmp_path / "fill.safetensors")
    spec = replace(SPEC, alpha=18.0)
    other = trained(Net(9), spec)
    assert start_adapter_from(tmp_path / "fill.safetensors", other, spec) == 0
    torch.testing.assert_close(change(other, spec)[:, :5], change(earlier, SPEC))
    assert not change(other, spec)[:, 5:].any()


def test_a_wider_adapter_is_cut_where_it_costs_least(tmp_path: Path) -> None:
    earlier = trained(Net(), SPEC)
    save_adapter(earlier, SPEC, tmp_path / "fill.safetensors")
    narrow = replace(SPEC, rank=2, alpha=2.0, targets=("first", "second"))
    other = trained(Net(), narrow)
    assert start_adapter_from(tmp_path / "fill.safetensors", other, narrow) == 1
    # Eckart-Young: no matrix of rank 2 is nearer.
    missed = (change(other, narrow) - change(earlier, SPEC)).square().sum()
    values = torch.linalg.svdvals(change(earlier, SPEC))
    assert missed.item() == pytest.approx(values[2:].square().sum().item(), rel=1e-3)


def test_a_file_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    path = save(Net(), tmp_path)
    with pytest.raises(AdapterError):
        start_adapter_from(path, trained(Net(), SPEC), SPEC)
