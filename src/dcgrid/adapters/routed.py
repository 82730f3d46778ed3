"""A LoRA linear layer whose adapters can act on each cell with another weight.

Letters: B batch, S tokens, D width, K cells, A adapters, R rank.

    y = W x + b + sum_a  w_a(token) * alpha/R * B_a A_a x

A and B are named as PEFT names them, so the paper's A1 is B_a here. A_a of a structured adapter is
a sum of two (StructuredIn). w_a is a column of the route for routed adapters and 1 for all others.
It multiplies the R-wide bottleneck, where it costs least. PEFT's own forward is not used: under
autocast it widens the activations to the adapter's float32.
"""

from typing import Literal, cast

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional

Part = Literal["appearance", "motion"]
"""What a structured adapter learns at a time."""


class StructuredIn(nn.Module):
    """The two input sides; stands where PEFT has the single one.

    Paper: sec. 3.1
    """

    def __init__(self, inputs: int, rank: int) -> None:
        super().__init__()
        self.appearance_in = nn.Parameter(torch.zeros(rank, inputs))
        self.motion_in = nn.Parameter(torch.zeros(rank, inputs))
        self.learns: Part | None = None
        self.dropout = 0.0

    @property
    def weight(self) -> Tensor:
        """B1 + B2, shape RD."""
        return self.appearance_in + self.motion_in

    def dropped(self) -> Tensor:
        """Return B1 + B2 with a part of the learning side's numbers left out, in training only."""
        if not self.training or self.learns is None or self.dropout == 0:
            return self.weight
        if self.learns == "appearance":
            return functional.dropout(self.appearance_in, self.dropout) + self.motion_in
        return self.appearance_in + functional.dropout(self.motion_in, self.dropout)


class RoutedLinear(PeftLinear):
    """PEFT's LoRA layer with a route argument; takes the place of an `nn.Linear`.

    Paper: sec. 3.2, eqs. 1-3
    """

    routed: tuple[str, ...] = ()
    """Names of the routed adapters: column a of a route belongs to routed[a]."""

    @property
    def plain(self) -> nn.Linear:
        """The layer underneath, without adapters."""
        return cast(nn.Linear, self.get_base_layer())

    def down_weight(self, name: str) -> Tensor:
        """Return an adapter's A, shape RD; of a structured one the sum of its two input sides."""
        return cast(Tensor, self.lora_A[name].weight)

    def down_parameters(self, name: str) -> list[nn.Parameter]:
        """Return what A is made of: one parameter, or appearance_in and motion_in."""
        return list(self.lora_A[name].parameters())

    def up_weight(self, name: str) -> nn.Parameter:
        """Return an adapter's B, shape DR."""
        return cast(nn.Parameter, self.lora_B[name].weight)

    def forward(self, tokens_BSD: Tensor, route: Tensor | None = None) -> Tensor:
        """Project tokens with all active adapters.

        Args:
            tokens_BSD: Tokens, cell-major along S.
            route: route_KA (S is K runs of equal length) or route_BSA; needed when an adapter is
                routed.

        Raises:
            ValueError: If an adapter is routed and the route is missing or does not fit.
        """
        out_BSD: Tensor = self.base_layer(tokens_BSD)
        if self.disable_adapters or self.merged:
            return out_BSD
        for name in self.active_adapters:
            scale = self.scaling.get(name, 0.0)
            if scale == 0.0:
                continue
            inside, up_DR = self.lora_A[name], self.up_weight(name)
            down_RD = (
                inside.dropped()
                if isinstance(inside, StructuredIn)
                else cast(Tensor, inside.weight)
            )
            low_BSR = functional.linear(
                self.lora_dropout[name](tokens_BSD), down_RD.to(tokens_BSD.dtype)
            )
            if name in self.routed:
                low_BSR = low_BSR * (scale * self._weights(name, low_BSR, route))
            else:
                low_BSR = low_BSR * scale
            out_BSD = out_BSD + functional.linear(low_BSR, up_DR.to(low_BSR.dtype))
        return out_BSD

    def _weights(self, name: str, low_BSR: Tensor, route: Tensor | None) -> Tensor:
        """Return the weight of one adapter at every token, broadcastable to BSR."""
        if route is None or route.shape[-1] != len(self.routed):
            shape = None if route is None else tuple(route.shape)
            raise ValueError(f"adapters {self.routed} are routed, but the route is {shape}")
        weights = route[..., self.routed.index(name), None].to(low_BSR)
        if route.ndim == 2:
            run, rest = divmod(low_BSR.shape[-2], route.shape[0])
            if rest:
                raise ValueError(f"{low_BSR.shape[-2]} tokens are not {route.shape[0]} equal cells")
            weights = weights.repeat_interleave(run, dim=0)
        return weights
