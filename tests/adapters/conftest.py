"""A small network with routable projections, and adapters for it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dcgrid.adapters.spec import AdapterSpec
from dcgrid.models.linear import CellLinear

WIDTH = 12


class TinyBlock(nn.Module):
    """A residual block; its query projection takes a route."""

    def __init__(self) -> None:
        super().__init__()
        self.query = CellLinear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 20), nn.GELU(), nn.Linear(20, WIDTH))

    def forward(self, tokens_BSD: Tensor, route: Tensor | None = None) -> Tensor:
        """Add a steered update."""
        out: Tensor = tokens_BSD + self.mlp(self.query(tokens_BSD, route))
        return out


class TinyNet(nn.Module):
    """Two blocks and a head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blocks = nn.ModuleList(TinyBlock() for _ in range(2))
            self.head = nn.Linear(WIDTH, 3)

    def forward(self, tokens_BSD: Tensor, route: Tensor | None = None) -> Tensor:
        """Run all blocks."""
        for block in self.blocks:
            tokens_BSD = block(tokens_BSD, route)
        out: Tensor = self.head(tokens_BSD)
        return out


@pytest.fixture
def net() -> TinyNet:
    """Return the network in eval mode."""
    return TinyNet().eval()


@pytest.fixture
def make_spec() -> Callable[..., AdapterSpec]:
    """Return a maker of specs for the network."""

    def make(**changes: object) -> AdapterSpec:
        values: dict[str, object] = {
            "name": "rain",
            "stage": "fill",
            "rank": 4,
            "alpha": 6.0,
            "targets": ("query", "mlp.0", "mlp.2"),
            "base": "mini",
            "base_hash": "abc",
            "prompts": ("a cat in the rain",),
        }
        return AdapterSpec(**{**values, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def tokens() -> Tensor:
    """Return a batch of two grids of 4 cells of 5 tokens."""
    return torch.randn(2, 20, WIDTH, generator=torch.Generator().manual_seed(9))
