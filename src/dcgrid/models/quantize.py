"""Frozen linear layers whose weights take one byte a number.

Each row (output) has its step: w = step * q, with q whole in -127..127 (int8), or a float of 4
exponent and 3 mantissa bits of at most 448 (fp8, e4m3). Weights alone are rounded; products are
made in the number format of the model, from weights that are spread out for one product at a time.

Letters: B batch, S tokens, D width, O outputs, I inputs.
"""

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from dcgrid.errors import UsageError

Quantize = Literal["none", "fp8", "int8"]

_STORED: dict[str, tuple[torch.dtype, float]] = {
    "int8": (torch.int8, 127.0),
    "fp8": (torch.float8_e4m3fn, 448.0),
}
"""Number format and the number that the largest of a row becomes."""


def check_quantize(name: str) -> Quantize:
    """Return the way of storing weights that a name means.

    Raises:
        UsageError: There is no such way.
    """
    for known in get_args(Quantize):
        if name == known:
            return known  # type: ignore[no-any-return]  # get_args is not typed
    raise UsageError(f"unknown quantize {name!r}", hint="use none, fp8 or int8 (--quantize)")


class QuantLinear(nn.Linear):
    """A linear layer with a weight of int8 or fp8 and a step for each output.

    Args:
        inputs: I.
        outputs: O.
        bias: True: there is one, in the dtype of the products.
        kind: "int8" or "fp8".
        dtype: Of the products.
        device: Where it is; "meta" for a layer that gets its numbers later.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool,
        kind: Quantize,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__(inputs, outputs, bias=bias, device="meta", dtype=dtype)
        weight_OI = torch.zeros(outputs, inputs, dtype=_STORED[kind][0], device=device)
        self.weight = nn.Parameter(weight_OI, requires_grad=False)
        self.step_O1: Tensor
        self.register_buffer("step_O1", torch.ones(outputs, 1, dtype=dtype, device=device))
        if bias:
            zeros_O = torch.zeros(outputs, dtype=dtype, device=device)
            self.bias = nn.Parameter(zeros_O, requires_grad=False)
        self.kind: Quantize = kind

    def forward(self, tokens_BSD: Tensor) -> Tensor:
        """Project tokens; the spread-out weight lives for this product alone."""
        weight_OI = self.weight.to(self.step_O1.dtype).mul_(self.step_O1)
        return functional.linear(tokens_BSD, weight_OI, self.bias)


def quantize_rows(weight_OI: Tensor, kind: Quantize, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rounded numbers OI and steps O1 of a weight.

    Args:
        weight_OI: Any float dtype.
        kind: "int8" or "fp8".
        dtype: Of the steps and of the products that they are for.
    """
    stored, largest = _STORED[kind]
    weight_OI = weight_OI.float()
    # The step is rounded before it divides, so its own rounding costs no accuracy.
    step_O1 = (weight_OI.abs().amax(1, keepdim=True) / largest).to(dtype)
    # A row of zeros, or of numbers too small to have a step, has any step.
    step_O1 = torch.where(step_O1 == 0, torch.ones_like(step_O1), step_O1)
    scaled_OI = (weight_OI / step_O1.float()).clamp(-largest, largest)
    return (scaled_OI.round() if kind == "int8" else scaled_OI).to(stored), step_O1


def quantize_linears(modules: Iterable[nn.Module], kind: Quantize) -> None:
    """Replace every plain linear layer inside modules; changed in place, one at a time.

    Layers that are made of something else, such as one with adapters on it, are left as they are.
    """
    for module in modules:
        for name, layer in list(module.named_modules()):
            if type(layer) is nn.Linear:
                module.set_submodule(name, quantized(layer, kind))


@torch.no_grad()
def quantized(layer: nn.Linear, kind: Quantize) -> QuantLinear:
    """Return the rounded twin of a linear layer; on the meta device one without numbers."""
    weight_OI, dtype = layer.weight, layer.weight.dtype
    twin = QuantLinear(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        kind=kind,
        dtype=dtype,
        device=weight_OI.device,
    ).train(layer.training)
    if not weight_OI.is_meta:
        rounded_OI, step_O1 = quantize_rows(weight_OI, kind, dtype)
        twin.weight.copy_(rounded_OI)
        twin.step_O1.copy_(step_O1)
        if layer.bias is not None:
            twin.bias.copy_(layer.bias)
    return twin


def product_dtype(layer: nn.Linear) -> torch.dtype:
    """Return the number format in which a layer computes, however its weight is stored."""
    return layer.step_O1.dtype if isinstance(layer, QuantLinear) else layer.weight.dtype
