"""Given-first attention against the plain forward, and calls with a memory against calls without.

Letters: see dcgrid/models/given.py.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dcgrid.models.base import CellText, Memory
from tests.models.native.test_dit import CONFIGS, Case, make_case, plain_forward

PATTERNS = {
    "one": [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    "two": [[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]],
    "three": [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]],
    "heads": [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]],
    "heads alone": [[1, 1, 0, 0]] * 4,
}
"""Frames that are given, cell by cell."""
RAGGED = [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def given_case(name: str, pattern: list[list[int]]) -> Case:
    """Return a case of a network that reads the given first."""
    case = make_case(CONFIGS[name])
    case.dit.given_first = True
    fill_KF = ~torch.tensor(pattern, dtype=torch.bool)
    time = torch.where(fill_KF, case.time_BKF.clamp(min=0.125), 0.0)
    return replace(case, time_BKF=time)


def generated(case: Case, velocity: Tensor) -> Tensor:
    """Return what a sampler reads of a velocity."""
    shown_BKF = case.time_BKF > 0
    return velocity.movedim(2, -1)[shown_BKF]


def call(case: Case, memory: Memory | None = None) -> Tensor:
    with torch.no_grad():
        return case.forward(memory)


def later(case: Case) -> Case:
    """Return the next step of a sampling: generated cells and their time are others, text too."""
    fill_BK1F11 = (case.time_BKF > 0)[:, :, None, :, None, None]
    draw = torch.randn(case.cells_BKCFYX.shape, generator=torch.Generator().manual_seed(5)).double()
    spoken = torch.randn(case.text.tokens_BKLE.shape, generator=torch.Generator().manual_seed(6))
    whole_BK = (case.time_BKF == 0).all(dim=2)
    # The text of given cells is the same in every call.
    tokens = torch.where(whole_BK[:, :, None, None], case.text.tokens_BKLE, spoken.double())
    estimate = case.estimate_BKCFYX
    if estimate is not None:
        estimate = torch.where(fill_BK1F11, draw.flip(0), estimate)
    return replace(
        case,
        cells_BKCFYX=torch.where(fill_BK1F11, draw, case.cells_BKCFYX),
        time_BKF=case.time_BKF / 2,
        text=replace(case.text, tokens_BKLE=tokens),
        estimate_BKCFYX=estimate,
    )


@pytest.mark.parametrize("pattern", [*PATTERNS, "ragged"])
@pytest.mark.parametrize("name", CONFIGS)
def test_forward_equals_the_plain_one(name: str, pattern: str) -> None:
    case = given_case(name, PATTERNS.get(pattern, RAGGED))
    found, expected = generated(case, call(case)), generated(case, plain_forward(case))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    case.dit.given_first = False
    matters = (generated(case, call(case)) - found).abs().max()
    assert (found - expected).abs().max() < matters / 2


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", CONFIGS)
def test_later_calls_with_a_memory_equal_calls_without(name: str, pattern: str) -> None:
    first = given_case(name, PATTERNS[pattern])
    # Heads have the text of cells that are generated: theirs stays, or what is kept would not hold.
    second = later(first)
    if "heads" in pattern:
        second = replace(second, text=first.text)
    memory = Memory()
    torch.testing.assert_close(
        generated(first, call(first, memory)), generated(first, call(first)), rtol=0, atol=1e-12
    )
    for step in (second, replace(second, cells_BKCFYX=second.cells_BKCFYX.clone())):
        found = call(step, memory)
        torch.testing.assert_close(
            generated(step, found), generated(step, call(step)), rtol=0, atol=1e-5
        )
        assert not found.movedim(2, -1)[step.time_BKF == 0].any()


@pytest.mark.parametrize("pattern", ["one", "two", "three"])
def test_later_calls_do_only_the_generated_part_of_the_work(pattern: str) -> None:
    case = given_case("mini", PATTERNS[pattern])
    memory, counts = Memory(), []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            call(case, memory)
        counts.append(counter.get_flop_counts()["Global"])
    share = len(torch.tensor(PATTERNS[pattern]).sum(1).eq(0).nonzero()) / 4
    for product in (torch.ops.aten.addmm, torch.ops.aten.bmm):
        if product in counts[1]:
            assert counts[1][product] <= 1.02 * share * counts[0][product]
    assert sum(counts[1].values()) > 0.5 * share * sum(counts[0].values())


def test_a_grid_without_a_block_of_generated_frames_keeps_its_texts_alone() -> None:
    case, memory = given_case("mini", RAGGED), Memory()
    call(case, memory)
    second = later(case)
    torch.testing.assert_close(call(second, memory), call(second), rtol=0, atol=1e-12)


def test_a_memory_holds_for_one_set_of_given_cells() -> None:
    memory = Memory()
    call(given_case("mini", PATTERNS["one"]), memory)
    with pytest.raises(ValueError, match="other given cells"):
        call(given_case("mini", PATTERNS["two"]), memory)


def test_a_memory_keeps_texts_of_a_network_that_reads_all(monkeypatch: pytest.MonkeyPatch) -> None:
    case, memory, calls = make_case(CONFIGS["full"]), Memory(), []
    key = case.dit.blocks[0].text_attention.key  # type: ignore[union-attr]
    key.register_forward_hook(lambda *_: calls.append(1))
    other = replace(case, text=CellText(
        tokens_BKLE=-case.text.tokens_BKLE, valid_BKL=case.text.valid_BKL))  # fmt: skip
    for step in (case, other, case, other):
        assert torch.equal(call(step, memory), call(step))
    # Two texts once each with the memory, and four times without.
    assert len(calls) == 2 + 4


def test_gradients_of_mixed_grids_equal_those_of_single_ones() -> None:
    case = given_case("peers", PATTERNS["one"])
    time = case.time_BKF.clone()
    time[1] = torch.where(torch.tensor(PATTERNS["heads"]) == 1, 0.0, case.time_BKF[1].clamp(0.125))
    case = replace(case, time_BKF=time)
    case.dit.requires_grad_(True)

    def gradient(cases: list[Case]) -> list[Tensor]:
        case.dit.zero_grad()
        for one in cases:
            generated(one, one.forward()).square().sum().backward()
        return [p.grad.clone() for p in case.dit.parameters() if p.grad is not None]

    singles = [
        replace(
            case,
            cells_BKCFYX=case.cells_BKCFYX[b : b + 1],
            time_BKF=case.time_BKF[b : b + 1],
            text=CellText(
                tokens_BKLE=case.text.tokens_BKLE[b : b + 1],
                valid_BKL=case.text.valid_BKL[b : b + 1],
            ),
        )
        for b in range(2)
    ]
    for found, expected in zip(gradient([case]), gradient(singles), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
