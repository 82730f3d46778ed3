"""What saves work and changes no number: fused projections, a shorter last block, kept tables.

Letters: see dcgrid/models/wan/transformer.py.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcgrid.adapters.attach import attach_adapter, detach_adapter
from dcgrid.adapters.spec import AdapterSpec
from dcgrid.models.base import CellText, Memory
from dcgrid.models.quantize import quantize_linears
from dcgrid.models.wan import transformer
from dcgrid.models.wan.blocks import rotate
from dcgrid.models.wan.context import Options
from dcgrid.models.wan.fused import lay_side_by_side, project_together
from tests.models.wan.test_wan_transformer import FOUR, FRAMES, close, grid, places

diffusers = pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")

FUSED, SHORT = Options(fused=True), Options(skip_given=True)


def small(dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(3)
    wan = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4,
        text_dim=10, freq_dim=16, ffn_dim=40, num_layers=3, rope_max_seq_len=32,
    )  # fmt: skip
    for parameter in wan.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return wan.to(dtype).eval().requires_grad_(False)


def times(step: float = 0.5) -> Tensor:
    """One cell given whole, another one's first frame."""
    time = torch.full((2, 4, FRAMES), step).double()
    time[:, 0] = 0
    return time


def bytes_held(module: nn.Module) -> int:
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in module.parameters()}
    return sum(storage.nbytes() for storage in storages.values())


@torch.no_grad()
def predict(model: Any, cells: Tensor, time: Tensor, text: CellText, **options: Any) -> Tensor:
    return transformer.predict_velocity(model, cells, time, text, places(FOUR), **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_projections_in_one_product_are_the_same(dtype: torch.dtype) -> None:
    model, (cells, text) = small(dtype), grid(FOUR)
    before = bytes_held(model.blocks)
    plain = predict(model, cells, times(), text).double()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lay_side_by_side(model.blocks)
    attention = model.blocks[0].attn1
    together = project_together(
        (attention.to_q, attention.to_k, attention.to_v), torch.ones(1, 2, 48, dtype=dtype)
    )
    assert together is not None
    # No second copy is kept, and who reads or writes a layer's weight finds it as it was.
    assert bytes_held(model.blocks) <= before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    fused = predict(model, cells, times(), text, options=FUSED).double()
    coarse = dtype == torch.bfloat16
    torch.testing.assert_close(fused, plain, rtol=0, atol=0.05 if coarse else 1e-5)
    attention.to_k.weight.mul_(-1)
    changed = predict(model, cells, times(), text, options=FUSED).double()
    expected = predict(model, cells, times(), text).double()
    torch.testing.assert_close(changed, expected, rtol=0, atol=0.05 if coarse else 1e-5)
    assert (changed - fused).abs().max() > 0.1


def test_layers_with_adapters_rounded_or_moved_are_computed_alone() -> None:
    model, (cells, text) = small(torch.float32), grid(FOUR)
    lay_side_by_side(model.blocks)
    first, second, third = model.blocks
    both = first.attn1.to_k, first.attn1.to_v
    rows = torch.ones(1, 2, 48)
    spec = AdapterSpec(name="own", stage="grid", rank=2, alpha=2, targets=("blocks.0.attn1.to_q",))
    _, up = attach_adapter(model, spec, trainable=False)
    up.fill_(0.1)
    assert project_together((first.attn1.to_q, *both), rows) is None
    assert project_together(both, rows) is not None
    quantize_linears([second], "int8")
    assert project_together((second.attn2.to_k, second.attn2.to_v), rows) is None
    third.attn1.to_k.weight.data = third.attn1.to_k.weight.data.clone()
    assert project_together((third.attn1.to_k, third.attn1.to_v), rows) is None
    close(
        predict(model, cells, times(), text, options=FUSED),
        predict(model, cells, times(), text),
    )
    detach_adapter(model)
    assert project_together((first.attn1.to_q, *both), rows) is not None


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("heads", [0, 1], ids=["whole cells", "first frames"])
@pytest.mark.parametrize("keep", [True, False], ids=["memory", "alone"])
def test_given_tokens_are_left_out_of_the_last_block(first: bool, heads: int, keep: bool) -> None:
    model, (cells, text) = small(), grid(FOUR)
    memory, usual = (Memory(), Memory()) if keep else (None, None)
    for step in (0.9, 0.4):
        time = times(step)
        time[:, :, :heads] = 0
        drawn = torch.where((time == 0)[:, :, None, :, None, None], cells, cells * step)
        short = predict(model, drawn, time, text, memory=memory, options=SHORT, given_first=first)
        whole = predict(model, drawn, time, text, memory=usual, given_first=first)
        close(short[:, 1:, :, heads:], whole[:, 1:, :, heads:])
        assert not short[:, 0].any()
        assert not short[:, :, :, :heads].any()


def test_autocast_decides_the_number_format_of_products() -> None:
    """As in the validation of a training run: float32 weights, bfloat16 products."""
    model, (cells, text) = small(torch.float32), grid(FOUR)
    with torch.autocast("cpu", torch.bfloat16):
        rough = predict(model, cells.float(), times(), text)
    exact = predict(model, cells.float(), times(), text)
    assert 0 < (rough - exact).abs().max() < 0.1


def test_the_last_block_is_whole_where_grids_differ_or_nothing_is_given() -> None:
    model, (cells, text) = small(), grid(FOUR)
    uneven = times()
    uneven[1, 0] = 0.5
    for time in (uneven, torch.full_like(uneven, 0.5)):
        short = predict(model, cells, time, text, options=SHORT)
        assert torch.equal(short, predict(model, cells, time, text))


def test_fewer_operations_are_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, (cells, text) = small(torch.float32), grid(FOUR)
    counts = []
    for options in (Options(), SHORT):
        with FlopCounterMode(display=False) as counter:
            predict(model, cells.float(), times(), text, options=options)
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.97 * counts[0]


def test_tables_and_padding_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (cells, text) = small(), grid(FOUR)
    valid = text.valid_BKL.clone()
    valid[:, 1, 3:] = False
    text, asked = replace(text, valid_BKL=valid), []
    for name in ("rotary_table", "_padding"):
        usual = getattr(transformer, name)
        monkeypatch.setattr(transformer, name, _counted(usual, name, asked))
    memory = Memory()
    for step in (0.9, 0.6, 0.3):
        predict(model, cells, times(step), text, memory=memory, options=SHORT)
    assert sorted(asked) == ["_padding", "rotary_table"]


def _counted(usual: Any, name: str, asked: list[str]) -> Any:
    def counted(*arguments: Any) -> Any:
        asked.append(name)
        return usual(*arguments)

    return counted


def test_turning_pairs_as_complex_numbers_and_as_reals(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, 5, 12, generator=generator)
    angles = torch.randn(5, 3, generator=generator)
    rotation = torch.stack([angles.cos(), angles.sin()], -1)
    found = rotate(tokens, rotation, heads=2)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    again = rotate(tokens, rotation, heads=2)
    torch.testing.assert_close(found, again)
    matrix = torch.stack(
        [
            torch.stack([angles.cos(), -angles.sin()], -1),
            torch.stack([angles.sin(), angles.cos()], -1),
        ],
        -2,
    )
    pairs = tokens.reshape(2, 5, 2, 3, 2)
    expected = torch.einsum("spij,bsnpj->bnspi", matrix, pairs).flatten(-2)
    torch.testing.assert_close(found, expected)


def test_a_memory_of_grids_that_are_alike_keeps_one(  # guidance in one batch
) -> None:
    model, (cells, text) = small(), grid(FOUR)
    cells[1], text.tokens_BKLE[1, 0] = cells[0], text.tokens_BKLE[0, 0]
    one, both = Memory(alike=True), Memory()
    for step in (0.9, 0.4):
        close(
            predict(model, cells, times(step), text, memory=one, given_first=True, options=SHORT),
            predict(model, cells, times(step), text, memory=both, given_first=True, options=SHORT),
        )
    attention = model.blocks[0].attn1
    assert [len(memory.kept[attention][0]) for memory in (one, both)] == [1, 2]
