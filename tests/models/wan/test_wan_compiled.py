"""Compiled blocks say the same; a compiler that fails is passed over, with a note."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dcgrid.models.base import Memory
from dcgrid.models.wan.blocks import run_block
from dcgrid.models.wan.compiled import CompiledBlock
from dcgrid.models.wan.context import Options
from dcgrid.models.wan.fused import lay_side_by_side
from tests.models.wan.test_wan_exact import predict, small, times
from tests.models.wan.test_wan_transformer import FOUR, close, grid

OPTIONS = Options(fused=True, skip_given=True)


def run_twice(model: Any, each: Any) -> list[Tensor]:
    cells, text = grid(FOUR)
    memory = Memory()
    return [
        predict(model, cells.float(), times(step).float(), text, memory=memory,
                given_first=True, options=OPTIONS, each=each)
        for step in (0.9, 0.4)
    ]  # fmt: skip


@pytest.mark.slow
def test_compiled_blocks_give_what_plain_ones_give() -> None:
    model = small(torch.float32)
    lay_side_by_side(model.blocks)
    compiled, calls = CompiledBlock(), []

    def each(*arguments: Any) -> Tensor:
        calls.append(1)
        return compiled(*arguments)

    for found, expected in zip(run_twice(model, each), run_twice(model, run_block), strict=True):
        close(found, expected)
    assert compiled.notes == ()
    # Three blocks; the last one of the first call is cut short and runs as it is.
    assert len(calls) == 5


def test_a_compiler_that_fails_is_passed_over() -> None:
    def broken(graph: object, inputs: object) -> Any:
        raise RuntimeError("no compiler here")

    model = small(torch.float32)
    compiled = CompiledBlock(backend=broken)
    for found, expected in zip(run_twice(model, compiled), run_twice(model, None), strict=True):
        assert torch.equal(found, expected)
    (note,) = compiled.notes
    assert "uncompiled" in note
    assert "no compiler here" in note


def test_memory_that_runs_out_is_not_hidden() -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("full")

    compiled = CompiledBlock(backend="eager")
    compiled._compiled = full
    with pytest.raises(torch.OutOfMemoryError):
        run_twice(small(torch.float32), compiled)
