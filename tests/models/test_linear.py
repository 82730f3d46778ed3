"""The routable linear layer on its own."""

import torch

from dcgrid.models.linear import CellLinear


def test_without_adapters_the_route_is_ignored() -> None:
    layer = CellLinear(12, 7)
    tokens = torch.randn(2, 20, 12)
    expected = tokens @ layer.weight.T + layer.bias
    torch.testing.assert_close(layer(tokens, torch.ones(4, 2)), expected)
    torch.testing.assert_close(layer(tokens), expected)
