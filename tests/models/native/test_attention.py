"""Attention, its window and bf16 variants, and the rotary embedding."""

import math

import pytest
import torch
from torch import Tensor

from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.models.attention import attend
from dcgrid.models.native import attention
from dcgrid.models.native.attention import (
    HeadNorm,
    attend_in_window,
    axis_frequencies,
    rotary_tables,
    rotate,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exact(query: Tensor, key: Tensor, value: Tensor, may: Tensor | None = None) -> Tensor:
    """Attend in float64, with every score spelled out."""
    query, key, value = query.double(), key.double(), value.double()
    scores = torch.einsum("bnsp,bnlp->bnsl", query, key) / math.sqrt(query.shape[-1])
    if may is not None:
        scores = torch.where(may, scores, -math.inf)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return torch.einsum("bnsl,bnlp->bnsp", weights / weights.sum(-1, keepdim=True), value)


VALID_BL = torch.tensor([[True] * 90, [True] * 40 + [False] * 50])


@pytest.mark.parametrize("valid_BL", [None, VALID_BL])
def test_float32_attention_is_exact(valid_BL: Tensor | None) -> None:
    query, key, value = draw(2, 3, 20, 16), draw(2, 3, 90, 16, seed=1), draw(2, 3, 90, 16, seed=2)
    may = None if valid_BL is None else valid_BL[:, None, None, :]
    attended = attend(query, key, value, valid_BL)
    torch.testing.assert_close(attended.double(), exact(query, key, value, may), rtol=0, atol=1e-5)


@pytest.mark.parametrize("valid_BL", [None, VALID_BL])
def test_chunked_bfloat16_attention_is_near_the_exact_one(valid_BL: Tensor | None) -> None:
    """Within 0.02 at worst and 0.003 at the root mean square, for values of unit spread."""
    shapes = ((2, 2, 2 * attention.QUERY_CHUNK + 7, 128), (2, 2, 90, 128), (2, 2, 90, 128))
    query, key, value = (draw(*shape, seed=i).to(torch.bfloat16) for i, shape in enumerate(shapes))
    may = None if valid_BL is None else valid_BL[:, None, None, :]
    attended = attend(query, key, value, valid_BL)
    assert attended.dtype == torch.bfloat16
    error = attended.double() - exact(query, key, value, may)
    assert error.abs().max() < 2e-2
    assert error.square().mean().sqrt() < 3e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_that_are_not_valid_do_not_count_at_all(dtype: torch.dtype) -> None:
    query, key, value = (draw(2, 1, n, 16, seed=n).to(dtype) for n in (30, 90, 90))
    value = value.clone()
    expected = attend(query, key, value, VALID_BL)
    key[1, :, 40:] = 30.0
    value[1, :, 40:] = 1e4
    assert torch.equal(attend(query, key, value, VALID_BL), expected)
    cut = attend(query[1:], key[1:, :, :40], value[1:, :, :40])
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(expected[1:], cut, rtol=0, atol=tolerance)


@pytest.mark.parametrize("reach", [0, 1, 5, 40, 1000])
@pytest.mark.parametrize("chunk", [7, 256])
def test_window_equals_a_dense_mask(
    monkeypatch: pytest.MonkeyPatch, reach: int, chunk: int
) -> None:
    monkeypatch.setattr(attention, "QUERY_CHUNK", chunk)
    layout, shape = GridLayout.parse("2x2"), TokenShape(frames=3, rows=2, cols=4)
    position_S = grid_positions(layout, shape)
    count = len(position_S)
    query, key, value = (draw(2, 2, count, 8, seed=i) for i in range(3))
    may = torch.zeros(count, count, dtype=torch.bool)
    for i, here in enumerate(position_S.tolist()):
        for j, there in enumerate(position_S.tolist()):
            may[i, j] = abs(here - there) <= reach
    attended = attend_in_window(query, key, value, position_S, position_S, reach)
    torch.testing.assert_close(attended.double(), exact(query, key, value, may), rtol=0, atol=1e-5)


def test_head_norm_brings_heads_to_unit_power() -> None:
    norm = HeadNorm(16)
    heads = 7 * draw(1, 2, 5, 16)
    torch.testing.assert_close(norm(heads).square().mean(-1), torch.ones(1, 2, 5))
    torch.testing.assert_close(norm(100 * heads), norm(heads))


@pytest.mark.parametrize("pitch", [None, 16])
@pytest.mark.parametrize("head_width", [16, 64, 128])
def test_frequencies_split_a_head_2_1_1(head_width: int, pitch: int | None) -> None:
    along_T, along_Y, along_X = axis_frequencies(head_width, 10_000.0, pitch)
    assert len(along_T) + len(along_Y) + len(along_X) == head_width // 2
    assert len(along_T) == 2 * len(along_Y) == 2 * len(along_X)
    assert torch.equal(along_Y, along_X)


def test_usual_frequencies_fall_from_1_to_the_base() -> None:
    along_T, along_Y, _ = axis_frequencies(128, 10_000.0, None)
    for rates in (along_T, along_Y):
        assert rates[0] == 1
        steps = rates[1:] / rates[:-1]
        torch.testing.assert_close(steps, steps[:1].expand_as(steps))
        assert rates[-1] > 1 / 10_000


def test_periodic_rotations_repeat_from_cell_to_cell_except_the_slow_ones() -> None:
    pitch = 16
    _, along_Y, _ = axis_frequencies(128, 10_000.0, pitch)
    layout, shape = GridLayout.parse("2x2"), TokenShape(frames=2, rows=6, cols=10)
    coordinates_S3 = token_coordinates(layout, shape, (pitch, pitch))
    cosine_SP, sine_SP = rotary_tables(coordinates_S3, axis_frequencies(128, 10_000.0, pitch))
    count = shape.frames * shape.rows * shape.cols
    first, below = slice(0, count), slice(2 * count, 3 * count)
    # Pairs: 32 of time, 16 of rows (12 harmonics and 4 slow ones), 16 of columns.
    same = torch.cat([torch.arange(44), torch.arange(48, 64)])
    for table in (cosine_SP, sine_SP):
        torch.testing.assert_close(table[below, same], table[first, same], rtol=0, atol=1e-4)
    apart = (cosine_SP[below] - cosine_SP[first]).abs() + (sine_SP[below] - sine_SP[first]).abs()
    # Each slow one turns half as far in a pitch as the one before, but turns.
    assert (apart[:, 44:48].amin(0) > 0.2).all()
    assert (along_Y[44 - 32 :] > 0).all()


def test_rotation_is_that_of_complex_numbers() -> None:
    heads = draw(2, 3, 5, 8)
    angle_SP = draw(5, 4, seed=1)
    turned = rotate(heads, angle_SP.cos(), angle_SP.sin())
    numbers = torch.complex(heads[..., :4], heads[..., 4:]) * torch.polar(
        torch.ones(5, 4), angle_SP
    )
    torch.testing.assert_close(turned, torch.cat([numbers.real, numbers.imag], dim=-1))


@pytest.mark.parametrize("pitch", [None, 8])
def test_scores_depend_on_the_offset_of_two_tokens_only(pitch: int | None) -> None:
    query, key = draw(1, 1, 1, 32), draw(1, 1, 1, 32, seed=1)
    frequencies = axis_frequencies(32, 10_000.0, pitch)

    def score(here: list[int], there: list[int]) -> float:
        turned = [
            rotate(heads, *rotary_tables(torch.tensor([place]), frequencies))
            for heads, place in ((query, here), (key, there))
        ]
        return (turned[0] * turned[1]).sum().item()

    expected = score([0, 0, 0], [2, 3, 1])
    assert score([4, 5, 9], [6, 8, 10]) == pytest.approx(expected, abs=1e-4)
    assert score([0, 0, 0], [2, 1, 3]) != pytest.approx(expected, abs=1e-2)
