"""The routed layer against dense weights made for every cell."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dcgrid.adapters.attach import attach_adapter, routed_layers, set_routed, set_strength
from dcgrid.adapters.routed import RoutedLinear
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.models.linear import CellLinear

CELLS, RUN, WIDTH, OUT = 4, 5, 12, 7
ROUTE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]])


def make_layer(dtype: torch.dtype = torch.float64) -> RoutedLinear:
    """Return a layer with routed adapters a and b and an unrouted c, all trained-looking."""
    model = nn.Sequential(CellLinear(WIDTH, OUT))
    for name, rank in (("a", 3), ("b", 5), ("c", 2)):
        spec = AdapterSpec(name=name, stage="grid", rank=rank, alpha=4.0, targets=("0",))
        attach_adapter(model, spec)
    set_routed(model, ["a", "b"])
    generator = torch.Generator().manual_seed(3)
    (_, layer), *_ = routed_layers(model)
    layer.to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return layer


def dense(layer: RoutedLinear, tokens: Tensor, strength: float = 1.0) -> Tensor:
    """Return eqs. 1-3 written out: one full weight matrix per cell. The oracle."""
    outs = []
    for k in range(CELLS):
        weight = layer.plain.weight
        share_a, share_b = ROUTE[k].tolist()
        for name, rank, factor in (("a", 3, share_a), ("b", 5, share_b), ("c", 2, 1.0)):
            product = layer.up_weight(name) @ layer.down_weight(name)
            weight = weight + strength * factor * 4.0 / rank * product
        outs.append(tokens[:, k * RUN : (k + 1) * RUN] @ weight.T + layer.plain.bias)
    return torch.cat(outs, dim=1)


def gradients(out: Tensor, layer: RoutedLinear, tokens: Tensor) -> list[Tensor]:
    """Return gradients of a fixed odd loss for the tokens and every adapter parameter."""
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
    wanted = [tokens, *(p for p in layer.parameters() if p.requires_grad)]
    assert len(wanted) == 7
    return list(torch.autograd.grad((out * weights).sin().sum(), wanted))


def make_tokens() -> Tensor:
    """Return float64 tokens that need a gradient."""
    generator = torch.Generator().manual_seed(4)
    shape = (2, CELLS * RUN, WIDTH)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_equals_dense_weights_per_cell(checkpointed: bool, per_token: bool) -> None:
    layer, tokens = make_layer(), make_tokens()
    route = ROUTE.repeat_interleave(RUN, dim=0)[None] if per_token else ROUTE
    if checkpointed:
        out = checkpoint(layer, tokens, route, use_reentrant=False)
    else:
        out = layer(tokens, route)
    expected = dense(layer, tokens)
    torch.testing.assert_close(out, expected)
    for got, exact in zip(
        gradients(out, layer, tokens), gradients(expected, layer, tokens), strict=True
    ):
        torch.testing.assert_close(got, exact)


def test_the_route_matters() -> None:
    layer, tokens = make_layer(), make_tokens()
    assert not torch.allclose(layer(tokens, ROUTE), layer(tokens, ROUTE.flip(1)))


def test_strength() -> None:
    layer, tokens = make_layer(), make_tokens()
    for strength in (0.3, 0.0):
        for name in "abc":
            set_strength(layer, name, strength)
        torch.testing.assert_close(layer(tokens, ROUTE), dense(layer, tokens, strength))
    # At strength 0 nothing is computed, so no route is needed either.
    torch.testing.assert_close(layer(tokens), layer.plain(tokens))


@pytest.mark.parametrize(
    "route", [None, torch.ones(4, 1), torch.ones(3, 2)], ids=["none", "columns", "cells"]
)
def test_wrong_route(route: Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"routed|equal cells"):
        make_layer()(make_tokens(), route)


@pytest.mark.parametrize("tokens_dtype", [torch.float32, torch.bfloat16])
def test_autocast_stays_in_bf16_and_masters_get_float32_gradients(
    tokens_dtype: torch.dtype,
) -> None:
    layer = make_layer(torch.float32)
    tokens = make_tokens().detach().to(tokens_dtype)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(tokens, ROUTE)
    assert out.dtype == torch.bfloat16
    exact = dense(layer, tokens.float()).detach()
    assert float((out.detach().float() - exact).norm() / exact.norm()) < 0.02
    out.float().square().sum().backward()
    for name in "abc":
        for weight in (layer.down_weight(name), layer.up_weight(name)):
            assert weight.grad is not None
            assert weight.grad.dtype == torch.float32
            assert weight.grad.abs().sum() > 0


def test_bf16_base_with_float32_masters_needs_no_autocast() -> None:
    layer = make_layer(torch.float32)
    layer.plain.to(torch.bfloat16)
    tokens = make_tokens().detach().bfloat16()
    out = layer(tokens, ROUTE)
    assert out.dtype == torch.bfloat16
    exact = dense(layer.float(), tokens.float()).detach()
    assert float((out.detach().float() - exact).norm() / exact.norm()) < 0.02
