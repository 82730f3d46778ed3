"""Our forward over Wan's modules against diffusers' own, and against one cell at a time.

Letters: see dcgrid/models/wan/transformer.py.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.models.base import CellText, Memory, TokenPlaces
from dcgrid.models.wan.transformer import predict_velocity

diffusers = pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")

ONE, FOUR = GridLayout(rows=1, cols=1), GridLayout(rows=2, cols=2)
FRAMES, SIDE = 3, (4, 6)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """A small Wan transformer in which every weight counts."""
    torch.manual_seed(3)
    wan = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=4,
        text_dim=10,
        freq_dim=16,
        ffn_dim=40,
        num_layers=2,
        rope_max_seq_len=32,
    )
    for parameter in wan.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return wan.double().eval().requires_grad_(False)


def places(layout: GridLayout) -> TokenPlaces:
    shape = TokenShape(frames=FRAMES, rows=SIDE[0] // 2, cols=SIDE[1] // 2)
    return TokenPlaces(
        coordinates_S3=token_coordinates(layout, shape, None),
        position_S=grid_positions(layout, shape),
    )


def grid(layout: GridLayout, seed: int = 0) -> tuple[Tensor, CellText]:
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randn(2, layout.count, 4, FRAMES, *SIDE, generator=generator).double()
    tokens = torch.randn(2, layout.count, 5, 10, generator=generator).double()
    valid = torch.ones(2, layout.count, 5, dtype=torch.bool)
    return cells, CellText(tokens_BKLE=tokens, valid_BKL=valid)


def theirs(model: torch.nn.Module, cells_BCFYX: Tensor, time: Tensor, text_BLE: Tensor) -> Tensor:
    return model(cells_BCFYX, 1000 * time, text_BLE, return_dict=False)[0]


def close(found: Tensor, expected: Tensor) -> None:
    # Both compute norms and times in float32.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_one_cell_and_one_time_equal_the_forward_of_diffusers(model: torch.nn.Module) -> None:
    cells, text = grid(ONE)
    time_B = torch.tensor([0.25, 0.75]).double()
    time = time_B[:, None, None].expand(2, 1, FRAMES)
    found = predict_velocity(model, cells, time, text, places(ONE))
    expected = theirs(model, cells[:, 0], time_B, text.tokens_BKLE[:, 0])
    close(found[:, 0], expected)
    assert found.std() > 0.1


def test_a_time_for_each_frame_equals_times_for_each_token(model: torch.nn.Module) -> None:
    """As Wan2.2 TI2V-5B is trained: the first frame clean."""
    cells, text = grid(ONE)
    time = torch.tensor([0.0, 0.5, 0.5]).double().expand(2, 1, FRAMES)
    found = predict_velocity(model, cells, time, text, places(ONE))
    per_token = time[:, 0].repeat_interleave(SIDE[0] * SIDE[1] // 4, dim=1)
    close(found[:, 0], theirs(model, cells[:, 0], per_token, text.tokens_BKLE[:, 0]))


def test_a_grid_whose_cells_read_one_text_equals_one_large_video(model: torch.nn.Module) -> None:
    cells, text = grid(FOUR)
    same = replace(text, tokens_BKLE=text.tokens_BKLE[:, :1].expand(-1, 4, -1, -1))
    time = torch.full((2, 4, FRAMES), 0.5).double()
    found = predict_velocity(model, cells, time, same, places(FOUR))
    rows = [torch.cat([cells[:, 2 * r], cells[:, 2 * r + 1]], dim=-1) for r in range(2)]
    video = torch.cat(rows, dim=-2)
    whole = theirs(model, video, torch.full((2,), 0.5).double(), text.tokens_BKLE[:, 0])
    for cell in range(4):
        top, left = cell // 2 * SIDE[0], cell % 2 * SIDE[1]
        close(found[:, cell], whole[..., top : top + SIDE[0], left : left + SIDE[1]])


def test_each_cell_reads_its_own_text(model: torch.nn.Module, monkeypatch: object) -> None:
    """Without self-attention across cells, a grid is its cells one by one."""
    cells, text = grid(FOUR)
    time = torch.full((2, 4, FRAMES), 0.5).double()
    before = predict_velocity(model, cells, time, text, places(FOUR))
    other = text.tokens_BKLE.clone()
    other[:, 2] = -other[:, 2]
    for block in model.blocks:  # type: ignore[union-attr]
        block.attn1.to_out[0].weight.data.mul_(0)  # type: ignore[union-attr, index]
    try:
        alone = predict_velocity(model, cells, time, text, places(FOUR))
        after = predict_velocity(model, cells, time, replace(text, tokens_BKLE=other), places(FOUR))
    finally:
        model.load_state_dict(_original(model))
    changed = (after != alone).flatten(2).any(2)
    assert changed.tolist() == [[False, False, True, False]] * 2
    assert not torch.equal(before, alone)


def test_padding_of_a_text_is_not_read(model: torch.nn.Module) -> None:
    cells, text = grid(FOUR)
    time = torch.full((2, 4, FRAMES), 0.5).double()
    valid = text.valid_BKL.clone()
    valid[:, 1, 3:] = False
    short = replace(text, valid_BKL=valid)
    spoilt = text.tokens_BKLE.clone()
    spoilt[:, 1, 3:] = 50
    close(
        predict_velocity(model, cells, time, replace(short, tokens_BKLE=spoilt), places(FOUR)),
        predict_velocity(model, cells, time, short, places(FOUR)),
    )


@pytest.mark.parametrize("first", [True, False])
def test_a_memory_changes_nothing(model: torch.nn.Module, first: bool) -> None:
    cells, text = grid(FOUR)
    memory = Memory()
    generator = torch.Generator().manual_seed(9)
    spoken = torch.randn(text.tokens_BKLE.shape, generator=generator).double()
    spoken[:, 0] = text.tokens_BKLE[:, 0]  # the text of the given cell is the same in every call
    for step, words in ((0.9, text), (0.5, replace(text, tokens_BKLE=spoken)), (0.2, text)):
        time = torch.full((2, 4, FRAMES), step).double()
        time[:, 0] = 0
        drawn = torch.randn(cells.shape, generator=generator).double()
        drawn[:, 0] = cells[:, 0]
        arguments = (model, drawn, time, words, places(FOUR))
        kept = predict_velocity(*arguments, memory=memory, given_first=first)
        plain = predict_velocity(*arguments, given_first=first)
        close(kept[:, 1:], plain[:, 1:])
        assert first == bool((predict_velocity(*arguments)[:, 1:] != plain[:, 1:]).any())


def test_a_grid_beyond_the_table_of_positions(model: torch.nn.Module) -> None:
    cells, text = grid(FOUR)
    far = places(FOUR)
    far = replace(far, coordinates_S3=far.coordinates_S3 + 30)
    with pytest.raises(ValueError, match="the model knows 32"):
        predict_velocity(model, cells, torch.ones(2, 4, FRAMES), text, far)


def _original(model: torch.nn.Module) -> dict[str, Tensor]:
    return _ORIGINAL.setdefault(id(model), {n: t.clone() for n, t in model.state_dict().items()})


_ORIGINAL: dict[int, dict[str, Tensor]] = {}


@pytest.fixture(autouse=True)
def _keep(model: torch.nn.Module) -> None:
    _original(model)
