"""Linear layers of int8 and fp8: the rounding, its error, its size."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from dcgrid.errors import UsageError
from dcgrid.models.quantize import (
    QuantLinear,
    check_quantize,
    product_dtype,
    quantize_linears,
    quantize_rows,
    quantized,
)


def weight(outputs: int = 48, inputs: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = torch.rand(outputs, 1, generator=generator) + 0.1
    return torch.randn(outputs, inputs, generator=generator) * rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_number_is_off_by_more_than_half_a_step(dtype: torch.dtype) -> None:
    numbers = weight().to(dtype).float()
    rounded, step = quantize_rows(numbers, "int8", dtype)
    assert rounded.dtype == torch.int8
    error = (rounded.float() * step.float() - numbers).abs()
    # bfloat16 steps are rounded, down as well as up: a largest number may be clipped by 2^-9 of it.
    clipped = 0.0 if dtype == torch.float32 else 2**-8 * 127
    assert (error <= step.float() * (0.5 + clipped) * (1 + 1e-5)).all()


def test_fp8_keeps_three_bits_of_every_number() -> None:
    numbers = weight()
    rounded, step = quantize_rows(numbers, "fp8", torch.float32)
    assert rounded.dtype == torch.float8_e4m3fn
    error = (rounded.float() * step - numbers).abs()
    # Half a unit of the last of three bits, or of the smallest number, 2^-9 steps.
    assert (error <= torch.maximum(numbers.abs() * 2**-4, step * 2**-10) * (1 + 1e-5)).all()


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_rows_of_zeros_stay_zeros(kind: Any) -> None:
    rounded, step = quantize_rows(torch.zeros(3, 5), kind, torch.bfloat16)
    assert not rounded.float().any()
    assert step.isfinite().all()


@pytest.mark.parametrize(("kind", "relative"), [("int8", 1 / 127 / math.sqrt(12)), ("fp8", 2**-4)])
def test_a_layer_is_as_far_off_as_its_rounding(kind: Any, relative: float) -> None:
    """Errors of independent numbers add up as the numbers do: the ratio is that of the weights."""
    layer = nn.Linear(64, 48)
    layer.weight.data = weight()
    twin = quantized(layer, kind)
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(2))
    error = (twin(x) - layer(x)).detach().pow(2).mean().sqrt()
    size = (layer(x) - layer.bias).detach().pow(2).mean().sqrt()
    # int8: the step is the largest of a row over 127; in units of the row's rms it is that larger.
    rows = layer.weight.detach()
    crest = float((rows.abs().amax(1) / rows.pow(2).mean(1).sqrt()).max()) if kind == "int8" else 1
    assert 0 < error / size < 1.2 * relative * crest


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_weights_take_half_of_bfloat16(kind: Any) -> None:
    layer = nn.Linear(256, 128, bias=False).bfloat16()
    twin = quantized(layer, kind)
    taken = sum(t.numel() * t.element_size() for t in (*twin.parameters(), *twin.buffers()))
    assert taken == 256 * 128 + 128 * 2
    assert twin(torch.ones(1, 256).bfloat16()).dtype == product_dtype(twin) == torch.bfloat16


def test_every_linear_layer_of_a_module_is_replaced() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)))
    quantize_linears([module], "int8")
    assert isinstance(module[0], QuantLinear)
    assert isinstance(module[1][1], QuantLinear)
    assert isinstance(module[1][0], nn.LayerNorm)


def test_names_of_ways() -> None:
    assert check_quantize("fp8") == "fp8"
    with pytest.raises(UsageError, match="unknown quantize 'int4'"):
        check_quantize("int4")
