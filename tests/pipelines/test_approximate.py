"""Guidance in one batch or for a part of the times, and blocks that are left out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dcgrid.models.base import CellText
from dcgrid.models.wan.backbone import WanBackbone, load_wan
from dcgrid.models.wan.checkpoint import read_checkout
from dcgrid.pipelines.manifest import sampler_facts
from dcgrid.pipelines.resolve import Shortcuts
from dcgrid.pipelines.sampling import GridRequest, fill_grid, grid_request
from dcgrid.pipelines.windows import Window
from tests.pipelines.test_fill import Quiet, given_THWC, grid

pytest.importorskip("diffusers", reason="needs the extra dcgrid[wan]")

STEPS = 6
__all__ = ["given_THWC"]


class Counted:
    """Stands where a ring of blocks would, and counts the blocks that are asked for."""

    def __init__(self, blocks: Sequence[Any]) -> None:
        self.blocks, self.count = blocks, 0

    def run(self) -> Iterator[Any]:
        for block in self.blocks:
            self.count += 1
            yield block


class Streaming(WanBackbone):
    """A Wan model that claims to be streamed, or not, and tells a text by its length."""

    streams = False  # type: ignore[assignment]

    def encode_text(self, prompts: Any, visible_BKS: Any) -> CellText:
        length = 3 if "rain" in prompts[0].text else 2
        generator = torch.Generator().manual_seed(length)
        tokens = torch.randn(1, len(visible_BKS[0]), length, 32, generator=generator)
        return CellText(tokens_BKLE=tokens, valid_BKL=torch.ones(tokens.shape[:3]).bool())


@pytest.fixture
def backbone(wan_folder: Path) -> Streaming:
    loaded = load_wan(read_checkout(wan_folder), device="cpu", dtype=torch.float32)
    ring = Counted(loaded.parts.transformer.blocks)
    backbone = Streaming(loaded.spec, replace(loaded.parts, ring=ring))  # type: ignore[arg-type]
    backbone.use_given(clean=True, first=False)
    return backbone


def request(backbone: WanBackbone, given: Tensor, **shortcuts: float) -> GridRequest:
    edits = grid(num_inference_steps=STEPS, guidance_scale=3.0)
    edits = replace(edits, edits=tuple(replace(one, **shortcuts) for one in edits.edits))
    return grid_request(edits, backbone.spec, [given], seed=1)


def fill(backbone: Streaming, given: Tensor, **shortcuts: float) -> tuple[Tensor, int]:
    """Return the generated pixels and how many blocks were asked for."""
    ring: Any = backbone.parts.ring
    ring.count = 0
    filled = fill_grid(backbone, request(backbone, given, **shortcuts), Quiet())
    return torch.stack(list(filled.values())).float(), ring.count


@pytest.mark.parametrize("first", [True, False])
def test_two_texts_in_one_batch_give_what_two_calls_give(
    backbone: Streaming, given_THWC: Tensor, first: bool
) -> None:
    backbone.use_given(clean=True, first=first)
    apart, calls = fill(backbone, given_THWC)
    backbone.streams = True  # type: ignore[misc, assignment]
    at_once, fewer = fill(backbone, given_THWC)
    assert (calls, fewer) == (2 * 2 * STEPS, 2 * STEPS)
    # Rounding may turn a pixel by one of 255 levels.
    assert (at_once - apart).abs().max() <= 1
    assert apart.std() > 1


def test_without_shortcuts_nothing_is_left_out(backbone: Streaming, given_THWC: Tensor) -> None:
    plain, calls = fill(backbone, given_THWC)
    watched, same = fill(backbone, given_THWC, cache_threshold=1e-9, guidance_until=1e-9)
    assert torch.equal(watched, plain)
    assert same == calls == 2 * 2 * STEPS


@pytest.mark.parametrize("first", [True, False])
def test_blocks_are_left_out_where_the_first_one_hardly_changes(
    backbone: Streaming, given_THWC: Tensor, first: bool
) -> None:
    backbone.use_given(clean=True, first=first)
    plain, calls = fill(backbone, given_THWC)
    rough, fewer = fill(backbone, given_THWC, cache_threshold=0.5)
    # The first call of each text goes through both blocks, whatever the threshold.
    assert 2 * (STEPS + 1) <= fewer < calls
    assert 0 < (rough - plain).abs().mean() < 0.25 * (plain - plain.mean()).abs().mean()


def test_guidance_ends_at_a_flow_time(backbone: Streaming, given_THWC: Tensor) -> None:
    plain, calls = fill(backbone, given_THWC)
    late, fewer = fill(backbone, given_THWC, guidance_until=0.7)
    from dcgrid.flow.schedule import Schedule

    times = Schedule(num_inference_steps=STEPS, shift=backbone.spec.time_shift).times()[:-1]
    guided = sum(time >= 0.7 for time in times)
    assert 0 < guided < STEPS
    assert fewer == 2 * (STEPS + guided) < calls
    assert not torch.equal(late, plain)
    none, _ = fill(backbone, given_THWC, guidance_until=1.0)
    assert not torch.equal(none, late)


def test_a_shortcut_needs_every_edit_and_stands_in_the_manifest(backbone: Streaming) -> None:
    resolved = grid()

    def agreed(*config: tuple[float | None, float | None]) -> Shortcuts:
        edits = (
            replace(resolved.edits[0], guidance_until=until, cache_threshold=threshold)
            for until, threshold in config
        )
        return replace(resolved, edits=tuple(edits)).shortcuts

    assert agreed((0.5, 0.1), (0.3, 0.2)) == Shortcuts(guidance_until=0.3, cache_threshold=0.1)
    assert agreed((0.5, 0.1), (None, None)) == Shortcuts()
    wanting = replace(resolved.edits[0], guidance_until=0.4, cache_threshold=0.08)
    resolved = replace(resolved, edits=(wanting,))
    windows = [Window(index=0, first=0, count=5, head=0, blend=0, shown=5)]
    facts = sampler_facts(backbone.spec, resolved, windows)
    assert (facts["guidance_until"], facts["cache_threshold"]) == (0.4, 0.08)
    assert resolved.shortcuts == Shortcuts(guidance_until=0.4, cache_threshold=0.08)


def test_a_model_that_leaves_out_no_blocks_says_so(given_THWC: Tensor) -> None:
    from tests.pipelines.test_fill import Recorder

    class Loud(Quiet):
        def warn(self, line: str) -> None:
            told.append(line)

    told: list[str] = []
    recorder: Any = Recorder()
    fill_grid(recorder, request(recorder, given_THWC, cache_threshold=0.1), Loud())
    assert told == ["model tiny leaves out no blocks; cache_threshold changes nothing"]
