"""The tiny backbone as pipelines use it: cells alone, given cells kept, seeds that repeat."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dcgrid.flow.noise import draw_noise
from dcgrid.flow.sampler import SampleSettings, combine_guidance, sample
from dcgrid.flow.schedule import Schedule
from dcgrid.grid.coordinates import grid_positions, token_coordinates
from dcgrid.grid.layout import GridLayout, TokenShape
from dcgrid.models.base import Backbone, TokenPlaces
from dcgrid.models.registry import find_model
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.prompts.segments import Prompt, Segment

THREAD_TOLERANCE = 1e-4
"""Greatest difference of a pixel in [-1, 1] between 1 and 2 threads: far below one of 256 steps."""
LAYOUT = GridLayout.parse("2x2")
GLOBAL, CLAUSES = "the subject in motion.", ("original clip", "rain", "night", "smoke")


@pytest.fixture(scope="module")
def backbone() -> NetworkBackbone:
    return find_model("tiny").load()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def clips(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 5, 32, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1


def grid_prompt() -> Prompt:
    text, segments = GLOBAL, [Segment(start=0, end=len(GLOBAL), cell=None)]
    for cell, clause in enumerate(CLAUSES):
        start = len(text) + 1
        text += f" {clause}"
        segments.append(Segment(start=start, end=len(text), cell=cell))
    return Prompt(text=text, segments=tuple(segments))


def own_clause() -> list[list[bool]]:
    return [[True] + [clause == cell for clause in range(4)] for cell in range(4)]


def fill(backbone: Backbone, seed: int, guidance_scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Fill three cells beside a given one; return the latents before and after."""
    cells = backbone.encode(clips()).unsqueeze(0)
    frames, rows, cols = cells.shape[3], cells.shape[4] // 2, cells.shape[5] // 2
    shape = TokenShape(frames=frames, rows=rows, cols=cols)
    places = TokenPlaces(
        coordinates_S3=token_coordinates(LAYOUT, shape),
        position_S=grid_positions(LAYOUT, shape),
    )
    text = backbone.encode_text([grid_prompt()], [own_clause()])
    empty = backbone.encode_text([Prompt(text="", segments=())], [[[], [], [], []]])
    fill_K = torch.tensor([False, True, True, True])

    def velocity(cells: Tensor, time: Tensor) -> Tensor:
        found = [backbone.velocity(cells, time, one, places) for one in (text, empty)]
        return combine_guidance(found[0], found[1], guidance_scale, fill_K)

    settings = SampleSettings(schedule=Schedule(num_inference_steps=4, shift=2.0))
    noise = draw_noise(tuple(cells.shape), seed)
    return cells, sample(velocity, cells, noise, fill_K, settings)


def test_a_cell_s_latents_do_not_depend_on_its_neighbours(backbone: NetworkBackbone) -> None:
    video = clips()
    together = backbone.encode(video)
    for cell in range(4):
        assert torch.equal(backbone.encode(video[cell : cell + 1])[0], together[cell])
    others = video.clone()
    others[[0, 1, 3]] = -others[[0, 1, 3]]
    assert torch.equal(backbone.encode(others)[2], together[2])
    assert not torch.equal(backbone.encode(others)[0], together[0])


def test_a_cell_is_decoded_alone(backbone: NetworkBackbone) -> None:
    latents = backbone.encode(clips())
    together = backbone.decode(latents)
    assert together.shape == (4, 3, 5, 32, 48)
    for cell in range(4):
        alone = backbone.decode(latents[cell : cell + 1])
        assert torch.equal(alone[0], together[cell])


def test_given_cells_come_out_bit_identical(backbone: NetworkBackbone) -> None:
    before, after = fill(backbone, seed=1)
    assert torch.equal(after[:, 0], before[:, 0])
    assert not torch.isclose(after[:, 1:], before[:, 1:]).all()
    assert after.isfinite().all()


def test_the_filled_cells_see_the_given_one_and_their_text(backbone: NetworkBackbone) -> None:
    _, after = fill(backbone, seed=1)
    _, unguided = fill(backbone, seed=1, guidance_scale=1.0)
    assert (after[:, 1:] - unguided[:, 1:]).abs().max() > 1e-4


def test_same_seed_same_pixels(backbone: NetworkBackbone) -> None:
    first, again, other = (backbone.decode(fill(backbone, seed)[1][0]) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert (first[1:] - other[1:]).abs().max() > 0.01


@pytest.mark.usefixtures("threads")
def test_same_pixels_at_one_and_two_threads(backbone: NetworkBackbone) -> None:
    pixels = []
    for count in (1, 2):
        torch.set_num_threads(count)
        pixels.append(backbone.decode(fill(backbone, seed=7)[1][0]))
    assert (pixels[0] - pixels[1]).abs().max() <= THREAD_TOLERANCE


def test_loading_twice_gives_the_same_weights_and_leaves_chance_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = find_model("tiny").load().parts.dit.state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = find_model("tiny").load().parts.dit.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_each_cell_reads_the_segments_visible_to_it(backbone: NetworkBackbone) -> None:
    prompt, visible = grid_prompt(), own_clause()
    visible[3] = [False] * 5
    text = backbone.encode_text([prompt], [visible])
    for cell, seen in enumerate(visible):
        segments = [s for s, shown in zip(prompt.segments, seen, strict=True) if shown]
        texts = [prompt.segment_text(segment) for segment in segments] or [""]
        expected = torch.cat([backbone.parts.text([words])[0][0] for words in texts])
        held = text.tokens_BKLE[0, cell][text.valid_BKL[0, cell]]
        torch.testing.assert_close(held, expected, rtol=1e-5, atol=1e-5)
