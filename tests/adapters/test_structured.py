"""The structured form of Set-and-Sequence: appearance and motion under one output side."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from torch import Tensor, nn

from dcgrid.adapters.attach import (
    adapter_names,
    attach_adapter,
    detach_adapter,
    learn_part,
    routed_layers,
)
from dcgrid.adapters.export import export_adapter
from dcgrid.adapters.files import load_adapter, save_adapter
from dcgrid.adapters.fold import fold_adapter
from dcgrid.adapters.routed import StructuredIn
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.errors import AdapterError, OutputError
from tests.adapters.merged import merge_adapters

MakeSpec = Callable[..., AdapterSpec]


@pytest.fixture
def spec(make_spec: MakeSpec) -> AdapterSpec:
    return make_spec(name="dc", stage="dc", form="structured")


def fill(net: nn.Module) -> None:
    """Give all three sides of every layer numbers."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, layer in routed_layers(net):
            for parameter in (*layer.down_parameters("dc"), layer.up_weight("dc")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def dense(net: nn.Module, tokens: Tensor) -> Tensor:
    """Write W + 1.5 (A1 B1 + A1 B2) out for every layer, into a plain network. The oracle."""
    weights = {}
    for place, layer in routed_layers(net):
        inside = layer.lora_A["dc"]
        appearance = layer.up_weight("dc") @ inside.appearance_in
        motion = layer.up_weight("dc") @ inside.motion_in
        weights[place] = layer.plain.weight + 6.0 / 4 * (appearance + motion)
    plain = type(net)()
    with torch.no_grad():
        for place, weight in weights.items():
            plain.get_submodule(place).weight.copy_(weight)
    out: Tensor = plain(tokens)
    return out


def test_equals_dense_weights(net: Any, spec: AdapterSpec, tokens: Tensor) -> None:
    before = net(tokens)
    parameters = attach_adapter(net, spec)
    assert len(parameters) == 3 * 6
    assert torch.equal(net(tokens), before)  # a fresh adapter changes nothing
    fill(net)
    out = net(tokens)
    assert not torch.allclose(out, before)
    torch.testing.assert_close(out, dense(net, tokens))
    merge_adapters(net)
    torch.testing.assert_close(net(tokens), out)


def test_parts_learn_in_turn(net: Any, spec: AdapterSpec, tokens: Tensor) -> None:
    attach_adapter(net, spec)
    fill(net)
    for part, moves in (("appearance", (True, False, True)), ("motion", (False, True, False))):
        learning = learn_part(net, "dc", part, dropout=0.0)
        assert {id(p) for p in learning} == {id(p) for p in net.parameters() if p.requires_grad}
        for parameter in net.parameters():
            parameter.grad = None
        net(tokens).square().sum().backward()
        for _, layer in routed_layers(net):
            sides = (*layer.down_parameters("dc"), layer.up_weight("dc"))
            assert tuple(p.grad is not None and bool(p.grad.any()) for p in sides) == moves


@pytest.mark.parametrize("part", ["appearance", "motion"])
def test_dropout_masks_the_learning_side_alone(
    net: Any, spec: AdapterSpec, tokens: Tensor, part: str
) -> None:
    attach_adapter(net, spec)
    fill(net)
    learn_part(net, "dc", part, dropout=0.8)
    exact = net(tokens)
    assert torch.equal(net(tokens), exact)  # nothing is dropped in eval mode
    net.train()
    (_, layer), *_ = routed_layers(net)
    inside = layer.lora_A["dc"]
    still, learns = inside.motion_in, inside.appearance_in
    if part == "motion":
        still, learns = learns, still
    torch.manual_seed(0)
    kept, total = 0, torch.zeros_like(learns)
    for _ in range(400):
        masked = (inside.dropped() - still).detach()
        there = masked.abs() > 1e-6
        kept += int(there.sum())
        torch.testing.assert_close(masked[there], 5 * learns[there], rtol=1e-3, atol=1e-4)
        total += masked
    assert kept / (400 * learns.numel()) == pytest.approx(0.2, abs=0.01)
    assert float((total / 400 - learns.detach()).norm() / learns.detach().norm()) < 0.2
    assert not torch.equal(net(tokens), net(tokens))


def test_only_structured_adapters_have_parts(net: Any, make_spec: MakeSpec) -> None:
    attach_adapter(net, make_spec())
    with pytest.raises(AdapterError, match="no parts for appearance and motion"):
        learn_part(net, "rain", "motion", dropout=0.0)
    with pytest.raises(AdapterError, match="no adapter 'dc'"):
        learn_part(net, "dc", "motion", dropout=0.0)
    with pytest.raises(ValueError, match="dropout"):
        learn_part(net, "rain", "motion", dropout=1.0)


@pytest.fixture
def saved(net: Any, spec: AdapterSpec, tokens: Tensor, tmp_path: Path) -> tuple[Path, Tensor]:
    attach_adapter(net, spec)
    fill(net)
    path = tmp_path / "dc.safetensors"
    save_adapter(net, spec, path)
    out = net(tokens).detach()
    detach_adapter(net)
    return path, out


def test_file_round_trip_keeps_the_parts(
    net: Any, spec: AdapterSpec, tokens: Tensor, saved: tuple[Path, Tensor]
) -> None:
    path, out = saved
    report = load_adapter(net, path, trainable=True)
    assert report.spec == spec
    assert report.matched == report.total == 6
    assert report.mean_delta > 0
    assert torch.equal(net(tokens), out)
    assert all(isinstance(layer.lora_A["dc"], StructuredIn) for _, layer in routed_layers(net))
    learn_part(net, "dc", "motion", dropout=0.5)
    detach_adapter(net)
    fold_adapter(net, path)
    torch.testing.assert_close(net(tokens), out)


def test_a_plain_file_with_structured_keys_does_not_fit(
    net: Any, make_spec: MakeSpec, saved: tuple[Path, Tensor], tmp_path: Path
) -> None:
    from dcgrid.adapters.files import read_adapter, write_adapter

    _, tensors = read_adapter(saved[0])
    wrong = tmp_path / "wrong.safetensors"
    write_adapter(make_spec(name="dc", form="plain"), tensors, wrong)
    with pytest.raises(AdapterError, match="0 of 12 tensors match"):
        load_adapter(net, wrong)
    assert adapter_names(net) == []


def plain_net(net: Any) -> Any:
    """Return the network with layers that PEFT alone knows."""
    for block in net.blocks:
        plain = nn.Linear(12, 12)
        plain.load_state_dict(block.query.state_dict())
        block.query = plain
        block.forward = lambda x, _=None, block=block: x + block.mlp(block.query(x))
    return net


def test_peft_alone_reads_the_export(
    net: Any, tokens: Tensor, saved: tuple[Path, Tensor], tmp_path: Path
) -> None:
    path, out = saved
    folder = tmp_path / "for peft"
    written = export_adapter(path, "peft", folder)
    assert sorted(p.name for p in written) == ["adapter_config.json", "adapter_model.safetensors"]
    model = peft.PeftModel.from_pretrained(plain_net(net), str(folder))
    assert LoraConfig.from_pretrained(str(folder)).r == 4
    torch.testing.assert_close(model.eval()(tokens), out)
    with pytest.raises(OutputError, match="is there already"):
        export_adapter(path, "peft", folder)
    assert export_adapter(path, "peft", folder, force=True) == written


def test_export_for_diffusers_has_its_names(saved: tuple[Path, Tensor], tmp_path: Path) -> None:
    path, _ = saved
    out = tmp_path / "deep" / "lora.safetensors"
    export_adapter(path, "diffusers", out)
    with safe_open(out, "pt") as file:
        keys, metadata = set(file.keys()), file.metadata()
    assert "transformer.blocks.0.query.lora_A.weight" in keys
    assert len(keys) == 12
    assert not [key for key in keys if not key.startswith("transformer.")]
    told = json.loads(metadata["lora_adapter_metadata"])
    assert (told["transformer.r"], told["transformer.lora_alpha"]) == (4, 6.0)
