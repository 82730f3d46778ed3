"""Attaching, training, strength and detaching."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcgrid.adapters.attach import (
    adapter_names,
    attach_adapter,
    detach_adapter,
    find_targets,
    linear_shapes,
    set_routed,
    set_strength,
)
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.errors import AdapterError
from tests.adapters.merged import merge_adapters

MakeSpec = Callable[..., AdapterSpec]


def randomise(parameters: list[nn.Parameter], seed: int = 1) -> None:
    """Give an adapter numbers, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def test_fresh_adapter_changes_nothing(net: Any, make_spec: MakeSpec, tokens: Tensor) -> None:
    before = net(tokens)
    parameters = attach_adapter(net, make_spec())
    assert torch.equal(net(tokens), before)
    learning = [p for p in net.parameters() if p.requires_grad]
    assert {id(p) for p in learning} == {id(p) for p in parameters}
    # Two blocks of three layers; A and B of rank 4: 24+24, 12+20 and 20+12 rows or columns.
    assert sum(p.numel() for p in parameters) == 2 * 4 * (24 + 32 + 32)


def test_nothing_but_layers_changes_on_the_model(net: Any, make_spec: MakeSpec) -> None:
    attributes, shapes = set(vars(net)), linear_shapes(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach_adapter(net, make_spec(name="first"))
        attach_adapter(net, make_spec(name="second"))
    assert set(vars(net)) == attributes
    assert linear_shapes(net) == shapes


def test_training_lowers_the_loss_and_leaves_the_base(
    net: Any, make_spec: MakeSpec, tokens: Tensor
) -> None:
    base = {name: value.clone() for name, value in net.state_dict().items()}
    target = torch.tanh(net(tokens).detach() * 2 + 1)
    parameters = attach_adapter(net.train(), make_spec(dropout=0.1))
    optimizer = torch.optim.AdamW(parameters, lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (net(tokens) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    detach_adapter(net)
    assert all(torch.equal(value, base[name]) for name, value in net.state_dict().items())
    assert set(net.state_dict()) == set(base)


def test_same_seed_same_start_and_global_state_untouched(make_spec: MakeSpec) -> None:
    starts = []
    for seed in (5, 5, 6):
        net = nn.Sequential(nn.Linear(3, 4))
        state = torch.get_rng_state()
        parameters = attach_adapter(net, make_spec(targets=("0",)), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        starts.append(parameters[0].detach())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_strength_is_linear_in_one_layer(make_spec: MakeSpec) -> None:
    net = nn.Sequential(nn.Linear(6, 5))
    tokens = torch.randn(2, 3, 6)
    plain = net(tokens).detach()
    randomise(attach_adapter(net, make_spec(targets=("0",))))
    full = net(tokens) - plain
    set_strength(net, "rain", 0.25)
    torch.testing.assert_close(net(tokens) - plain, 0.25 * full)
    set_strength(net, "rain", 0.0)
    assert torch.equal(net(tokens), plain)


def test_two_adapters_add_up_and_come_off_one_by_one(
    net: Any, make_spec: MakeSpec, tokens: Tensor
) -> None:
    plain = net(tokens)
    first = attach_adapter(net, make_spec(name="first"), trainable=False)
    randomise(first, 1)
    only_first = net(tokens)
    second = attach_adapter(net, make_spec(name="second", rank=2, targets=("query",)))
    randomise(second, 2)
    assert adapter_names(net) == ["first", "second"]
    assert not any(p.requires_grad for p in first)
    assert all(p.requires_grad for p in second)
    both = net(tokens)
    assert not torch.allclose(both, only_first)
    set_strength(net, "second", 0.0)
    torch.testing.assert_close(net(tokens), only_first)
    set_strength(net, "second", 1.0)
    detach_adapter(net, "first")
    assert adapter_names(net) == ["second"]
    assert all(p.requires_grad for p in second)
    assert not torch.allclose(net(tokens), both)
    detach_adapter(net, "second")
    assert torch.equal(net(tokens), plain)


def test_earlier_learning_adapter_goes_on_learning(net: Any, make_spec: MakeSpec) -> None:
    first = attach_adapter(net, make_spec(name="first"))
    attach_adapter(net, make_spec(name="second"), trainable=False)
    learning = {id(p) for p in net.parameters() if p.requires_grad}
    assert learning == {id(p) for p in first}


def test_frozen_adapter_stays_frozen_when_another_comes_off(net: Any, make_spec: MakeSpec) -> None:
    attach_adapter(net, make_spec(name="first"), trainable=False)
    attach_adapter(net, make_spec(name="second"))
    third = attach_adapter(net, make_spec(name="third"))
    detach_adapter(net, "second")
    learning = {id(p) for p in net.parameters() if p.requires_grad}
    assert learning == {id(p) for p in third}


def test_dropout_follows_the_mode_of_the_model(
    net: Any, make_spec: MakeSpec, tokens: Tensor
) -> None:
    randomise(attach_adapter(net.eval(), make_spec(dropout=0.5)))
    assert torch.equal(net(tokens), net(tokens))
    net.train()
    assert not torch.equal(net(tokens), net(tokens))


def test_unknown_target_names_what_there_is(net: Any, make_spec: MakeSpec) -> None:
    with pytest.raises(AdapterError, match="'value'") as caught:
        attach_adapter(net, make_spec(targets=("query", "value")))
    assert "query" in caught.value.hint
    assert adapter_names(net) == []


def test_targets_match_whole_name_parts(net: Any, make_spec: MakeSpec) -> None:
    assert find_targets(net, ["query"]) == ["blocks.0.query", "blocks.1.query"]
    assert find_targets(net, ["blocks.1.query"]) == ["blocks.1.query"]
    with pytest.raises(AdapterError):
        find_targets(net, ["uery"])
    attach_adapter(net, make_spec(targets=("blocks.1.query",)))
    assert find_targets(net, ["query"]) == ["blocks.0.query", "blocks.1.query"]
    kinds = {name: type(net.get_submodule(name)).__name__ for name in find_targets(net, ["query"])}
    assert kinds == {"blocks.0.query": "CellLinear", "blocks.1.query": "RoutedLinear"}


def test_names_must_be_free_and_known(net: Any, make_spec: MakeSpec) -> None:
    attach_adapter(net, make_spec())
    with pytest.raises(AdapterError, match="already"):
        attach_adapter(net, make_spec())
    for call in (
        lambda: detach_adapter(net, "snow"),
        lambda: set_strength(net, "snow", 1.0),
        lambda: set_routed(net, ["snow"]),
    ):
        with pytest.raises(AdapterError, match="'snow'"):
            call()


def test_an_adapted_model_equals_one_of_merged_weights_and_is_plain_when_detached(
    net: Any, make_spec: MakeSpec, tokens: Tensor
) -> None:
    net.double()
    tokens = tokens.double()
    plain = net(tokens)
    randomise(attach_adapter(net, make_spec(), trainable=False))
    set_strength(net, "rain", 0.7)
    adapted = net(tokens)
    merged = copy.deepcopy(net)
    merge_adapters(merged)
    assert type(merged.blocks[0].mlp[0]) is nn.Linear
    torch.testing.assert_close(merged(tokens), adapted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(adapted, plain)
    detach_adapter(net)
    assert torch.equal(net(tokens), plain)
