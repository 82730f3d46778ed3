"""Grids of a native model that reads its last estimate: what it reads, and that it is felt."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dcgrid.flow.self_conditioning import clean_estimate
from dcgrid.models.base import Backbone
from dcgrid.models.native import model as native_model
from dcgrid.models.native.config import TINY
from dcgrid.models.native.presets import TINY_SPEC
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.resolve import resolve_edits
from dcgrid.pipelines.sampling import GridRequest, fill_grid, grid_request
from tests.pipelines.runs import Silence

CPU = torch.device("cpu")
CONFIG = replace(TINY, dit=replace(TINY.dit, self_conditioning=True))
Call = tuple[Tensor, Tensor, Any, Tensor | None, Tensor]
"""Cells, times, text, estimate, velocity."""


def backbone_of(*, feeds_back: bool = True, **facts: Any) -> NetworkBackbone:
    spec = replace(TINY_SPEC, self_conditioning=feeds_back, **facts)
    backbone = NetworkBackbone(spec, native_model._random_parts(CONFIG), torch.float32)
    backbone.use_given(clean=True, first=spec.given_first)
    return backbone


def request_of(steps: int, guidance: float = 1.0, **values: Any) -> GridRequest:
    generator = torch.Generator().manual_seed(1)
    given = torch.randint(256, (5, 32, 48, 3), generator=generator, dtype=torch.uint8)
    job = EditJob(
        input=Path("x"), effects=("rain",), num_inference_steps=steps, guidance_scale=guidance
    )
    grid = resolve_edits(job)
    grid = replace(grid, edits=tuple(replace(one, **values) for one in grid.edits))
    return grid_request(grid, TINY_SPEC, [given], seed=1)


def fill(backbone: Any, request: GridRequest) -> dict[int, Tensor]:
    return fill_grid(backbone, request, Silence())


def watch(backbone: NetworkBackbone, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    calls: list[Call] = []
    real = backbone.velocity

    def velocity(  # type: ignore[no-untyped-def]
        cells, time_BKF, text, places, *, memory=None, estimate_BKCFYX=None
    ):
        found = real(cells, time_BKF, text, places, memory=memory, estimate_BKCFYX=estimate_BKCFYX)
        calls.append((cells, time_BKF, text, estimate_BKCFYX, found))
        return found

    monkeypatch.setattr(backbone, "velocity", velocity)
    return calls


def farthest(one: dict[int, Tensor], other: dict[int, Tensor]) -> int:
    assert one.keys() == other.keys()
    return max(int((one[cell].int() - other[cell].int()).abs().max()) for cell in one)


def test_each_text_reads_its_own_last_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance ends on the way: the text that goes on has seen every call."""
    backbone = backbone_of()
    calls = watch(backbone, monkeypatch)
    # Times 1, 0.86, 0.6 at the shift of tiny: both texts, both, one.
    fill(backbone, request_of(3, 3.0, guidance_until=0.7))
    texts = [calls[0][2], calls[1][2]]
    assert [0 if call[2] is texts[0] else 1 for call in calls] == [0, 1, 0, 1, 0]
    for index in (0, 1):
        own = [call for call in calls if call[2] is texts[index]]
        assert own[0][3] is None
        for (cells, time_BKF, _, _, found), (*_, estimate, _) in pairwise(own):
            assert torch.equal(estimate, clean_estimate(cells, found, time_BKF))
            assert estimate[:, 1:].any()
            assert not estimate[:, 0].any()  # the given cell


def test_estimates_are_felt_from_the_second_step_on() -> None:
    fed, plain = backbone_of(), backbone_of(feeds_back=False)
    assert farthest(fill(fed, request_of(1)), fill(plain, request_of(1))) == 0
    assert farthest(fill(fed, request_of(3)), fill(plain, request_of(3))) > 1


def test_every_sampling_begins_without_an_estimate() -> None:
    backbone = backbone_of()
    first = fill(backbone, request_of(3))
    assert farthest(fill(backbone, request_of(3)), first) == 0


class Forgetful:
    """A backbone that is never given a memory."""

    velocities = Backbone.velocities

    def __init__(self, backbone: NetworkBackbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> object:
        return getattr(self._backbone, name)

    def velocity(self, *arguments: Any, memory: object, **more: Any) -> Tensor:
        del memory
        return self._backbone.velocity(*arguments, **more)


@pytest.mark.parametrize("offset", [False, True])
def test_what_is_kept_of_given_cells_is_right_beside_estimates(*, offset: bool) -> None:
    backbone = backbone_of(given_first=True, offset_tokens=offset)
    request = request_of(3, 2.0)
    kept, plain = fill(backbone, request), fill(Forgetful(backbone), request)
    assert farthest(kept, plain) <= 1  # sums in another order


def test_two_grids_of_tokens_read_one_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbone_of(offset_tokens=True)
    calls = watch(backbone, monkeypatch)
    fill(backbone, request_of(2))
    plain, offset = calls[2][3], calls[3][3]
    assert plain is not None
    assert offset is not None
    assert torch.equal(offset[..., 1:-1, 1:-1], plain)
