"""fill_grid with a backbone that records what it is asked and answers with plain arithmetic."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dcgrid.flow.noise import draw_noise
from dcgrid.models.base import Backbone, CellText, Memory, TokenPlaces
from dcgrid.models.native.presets import TINY_SPEC
from dcgrid.models.registry import find_model
from dcgrid.models.trunk import NetworkBackbone
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.resolve import ResolvedGrid, resolve_edits
from dcgrid.pipelines.sampling import fill_grid, grid_request, to_frames, to_model_range
from dcgrid.prompts import Prompt

CPU = torch.device("cpu")


class Quiet:
    def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None: ...

    def update(self, done: int, total: int | None = None) -> None: ...

    def note(self, line: str) -> None: ...

    def warn(self, line: str) -> None: ...


class Recorder:
    """Latents are 8x8 averages; the velocity points at (clip + push of the text) from anywhere."""

    device = CPU
    velocities = Backbone.velocities

    def __init__(self, own_clause_only: bool = True, negative_text: bool = True) -> None:
        self.spec = replace(
            TINY_SPEC,
            own_clause_only=own_clause_only,
            negative_text=negative_text,
        )
        self.read: list[list[str]] = []
        self.velocity_calls: list[tuple[Tensor, Tensor]] = []
        self.places: TokenPlaces | None = None
        self.decoded: list[Tensor] = []

    def encode(self, video_BCTHW: Tensor) -> Tensor:
        pooled = torch.nn.functional.avg_pool3d(video_BCTHW[:, :, ::4], (1, 8, 8))
        return torch.cat([pooled, pooled[:, :1]], dim=1)

    def decode(self, latents_BCFYX: Tensor) -> Tensor:
        self.decoded.append(latents_BCFYX)
        video = latents_BCFYX[:, :3].repeat_interleave(8, 3).repeat_interleave(8, 4)
        return torch.cat([video[:, :, :1], video[:, :, 1:].repeat_interleave(4, 2)], dim=2)

    def encode_text(
        self, prompts: Sequence[Prompt], visible_BKS: Sequence[Sequence[Sequence[bool]]]
    ) -> CellText:
        prompt = prompts[0]
        rows = []
        for visible_S in visible_BKS[0]:
            seen = zip(prompt.segments, visible_S, strict=True)
            rows.append(" ".join(prompt.segment_text(one) for one, visible in seen if visible))
        self.read.append(rows)
        # The push of a text: -0.2 for the unconditional branch, else by what is asked for.
        push = [{"": -0.2}.get(row, 0.3 if "rain" in row else 0.1) for row in rows]
        tokens = torch.tensor(push).reshape(1, len(rows), 1, 1)
        return CellText(tokens_BKLE=tokens, valid_BKL=torch.ones(1, len(rows), 1).bool())

    def velocity(
        self,
        cells_BKCFYX: Tensor,
        time_BKF: Tensor,
        text: CellText,
        places: TokenPlaces,
        route_KA: Tensor | None = None,
        memory: Memory | None = None,
        estimate_BKCFYX: Tensor | None = None,
    ) -> Tensor:
        assert route_KA is None
        assert estimate_BKCFYX is None  # its spec has no self-conditioning
        self.velocity_calls.append((cells_BKCFYX.clone(), time_BKF.clone()))
        self.places = places
        target = cells_BKCFYX[:, :1] + text.tokens_BKLE[..., None, None]
        time = time_BKF.clamp_min(1e-3)[:, :, None, :, None, None]
        return (cells_BKCFYX - target) / time


def grid(**values: object) -> ResolvedGrid:
    settings = {"effects": ("rain",), "num_inference_steps": 4, **values}
    return resolve_edits(EditJob(input=Path("x.mp4"), **settings))  # type: ignore[arg-type]


@pytest.fixture
def given_THWC() -> Tensor:
    """Five frames of 32x48, constant over 8x8 blocks, so that Recorder's codec loses nothing."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(60, 180, (1, 4, 6, 3), generator=generator, dtype=torch.uint8)
    return blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).repeat(5, 1, 1, 1)


def test_pixels_survive_the_way_to_the_model_and_back(given_THWC: Tensor) -> None:
    video_BCTHW = to_model_range(given_THWC)
    assert video_BCTHW.shape == (1, 3, 5, 32, 48)
    assert video_BCTHW.abs().max() <= 1
    assert torch.equal(to_frames(video_BCTHW), given_THWC)
    assert to_frames(torch.tensor([-9.0, 9.0]).reshape(1, 1, 2, 1, 1)).flatten().tolist() == [
        0,
        255,
    ]


def test_filled_cells_come_out_where_the_velocity_points(given_THWC: Tensor) -> None:
    backbone = Recorder()
    filled = fill_grid(
        backbone, grid_request(grid(guidance_scale=1.0), TINY_SPEC, [given_THWC], seed=1), Quiet()
    )
    assert list(filled) == [1, 2, 3]
    for clip_THWC in filled.values():
        brighter = given_THWC.float() + 0.3 * 127.5
        assert (clip_THWC.float() - brighter).abs().max() <= 1
    # Only generated cells are decoded, and without guidance nothing is asked twice.
    assert len(backbone.decoded) == 3
    assert len(backbone.velocity_calls) == 4


def test_two_grids_of_tokens_are_averaged(given_THWC: Tensor) -> None:
    """Where the model says the same of a place on both grids, nothing changes."""
    plain, both = Recorder(), Recorder()
    both.spec = replace(both.spec, offset_tokens=True)
    request = grid_request(grid(guidance_scale=1.0), TINY_SPEC, [given_THWC], seed=1)
    once, twice = (fill_grid(one, request, Quiet()) for one in (plain, both))  # type: ignore[arg-type]
    for cell, clip_THWC in once.items():
        assert (clip_THWC.float() - twice[cell].float()).abs().max() <= 1
    sizes = [tuple(cells.shape[-2:]) for cells, _ in both.velocity_calls]
    assert sizes == [(4, 6), (6, 8)] * 4
    assert both.places is not None
    assert both.places.margin == 0.5


def test_an_offset_grid_counts_half(given_THWC: Tensor) -> None:
    class Louder(Recorder):
        def velocity(self, cells, time, text, places, **_):  # type: ignore[no-untyped-def]
            return torch.full_like(cells, 3.0 if places.margin else 1.0)

    backbone = Louder()
    backbone.spec = replace(backbone.spec, offset_tokens=True)
    one_step = grid(guidance_scale=1.0, num_inference_steps=1)
    fill_grid(backbone, grid_request(one_step, TINY_SPEC, [given_THWC], seed=1), Quiet())
    noise = draw_noise((1, 4, 4, 2, 4, 6), 1)
    torch.testing.assert_close(backbone.decoded[0], noise[:, 1] - 2.0)


def test_two_given_cells_stay_and_two_are_generated(given_THWC: Tensor) -> None:
    backbone = Recorder()
    request = grid_request(grid(guidance_scale=1.0), TINY_SPEC, [given_THWC], seed=1)
    request = replace(request, given={1: 255 - given_THWC, 0: given_THWC})
    filled = fill_grid(backbone, request, Quiet())
    assert list(filled) == [2, 3]
    for cells_BKCFYX, time_BKF in backbone.velocity_calls:
        for cell, clip_THWC in request.given.items():
            clean = backbone.encode(to_model_range(clip_THWC))
            assert torch.equal(cells_BKCFYX[:, cell], clean)
            assert (time_BKF[:, cell] == 0).all()


def test_the_given_cell_is_always_shown_clean_at_time_0(given_THWC: Tensor) -> None:
    backbone = Recorder()
    fill_grid(backbone, grid_request(grid(), TINY_SPEC, [given_THWC], seed=1), Quiet())
    clean = backbone.encode(to_model_range(given_THWC))
    for cells_BKCFYX, time_BKF in backbone.velocity_calls:
        assert torch.equal(cells_BKCFYX[:, 0], clean)
        assert (time_BKF[:, 0] == 0).all()
        assert (time_BKF[:, 1:] > 0).all()


def test_each_edit_is_guided_by_its_own_scale(given_THWC: Tensor) -> None:
    edits = grid(effects=("rain", "fog"))
    scales = (3.0, 1.0)
    edits = replace(
        edits,
        edits=tuple(
            replace(edit, guidance_scale=scale, negative="", num_inference_steps=4)
            for edit, scale in zip(edits.edits, scales, strict=True)
        ),
    )
    backbone = Recorder()
    filled = fill_grid(backbone, grid_request(edits, TINY_SPEC, [given_THWC], seed=1), Quiet())
    # v = v_u + g (v_c - v_u) moves the target from -0.2 by g times the way to the text's push.
    pushes = {0: -0.2 + 3.0 * (0.3 + 0.2), 1: -0.2 + 1.0 * (0.1 + 0.2)}
    for cell, clip_THWC in filled.items():
        push = pushes[edits.edit_of_cell[cell] or 0]
        wanted = (given_THWC.float() + push * 127.5).clamp(0, 255)
        assert (clip_THWC.float() - wanted).abs().max() <= 1
    assert len(backbone.velocity_calls) == 8


def test_a_narrow_model_reads_its_own_clause_only(given_THWC: Tensor) -> None:
    edits = grid(effects=("rain", "fog", "night"), guidance_scale=1.0)
    clauses = [edit.clause for edit in edits.edits]
    for narrow in (True, False):
        backbone = Recorder(own_clause_only=narrow)
        fill_grid(backbone, grid_request(edits, TINY_SPEC, [given_THWC], seed=0), Quiet())
        for cell, text in enumerate(backbone.read[0]):
            assert "grid illustrates" in text
            seen = [index for index, clause in enumerate(clauses) if clause in text]
            own = [] if cell == 0 else [cell - 1]
            assert seen == (own if narrow else [0, 1, 2])


def test_each_cell_is_steered_away_from_its_own_edits_negative(given_THWC: Tensor) -> None:
    edits = grid(effects=("rain",), prompt="made of glass", guidance_scale=2.0)
    backbone = Recorder()
    fill_grid(backbone, grid_request(edits, TINY_SPEC, [given_THWC], seed=0), Quiet())
    negative = edits.edits[0].negative
    assert negative
    assert backbone.read[1] == ["", negative, "", negative]
    unlearned = Recorder(negative_text=False)
    fill_grid(unlearned, grid_request(edits, TINY_SPEC, [given_THWC], seed=0), Quiet())
    assert unlearned.read[1] == ["", "", "", ""]


def test_tokens_stand_where_their_cells_stand(given_THWC: Tensor) -> None:
    backbone = Recorder()
    fill_grid(backbone, grid_request(grid(), TINY_SPEC, [given_THWC], seed=0), Quiet())
    assert backbone.places is not None
    # Two latent frames of 4x6 latents make 2x2x3 tokens a cell; cells abut in this model.
    starts = backbone.places.coordinates_S3[::12].tolist()
    assert starts == [[0, 0, 0], [0, 0, 3], [0, 2, 0], [0, 2, 3]]
    assert sorted(backbone.places.position_S.tolist()) == list(range(48))


def test_noise_follows_the_seed_alone(given_THWC: Tensor) -> None:
    first: dict[int, Tensor] = {}
    for seed in (5, 5, 6):
        backbone = Recorder()
        fill_grid(backbone, grid_request(grid(), TINY_SPEC, [given_THWC], seed=seed), Quiet())
        start = backbone.velocity_calls[0][0][:, 1:]
        assert torch.equal(first.setdefault(seed, start), start)
        assert start.std() == pytest.approx(TINY_SPEC.noise_scale, rel=0.15)
    assert not torch.equal(first[5], first[6])


def test_a_later_window_begins_with_the_frames_it_is_given(given_THWC: Tensor) -> None:
    backbone = Recorder()
    long_THWC = given_THWC[:1].repeat(9, 1, 1, 1)
    heads = {cell: (long_THWC[:5] // (cell + 1)) for cell in (1, 2, 3)}
    request = grid_request(
        grid(guidance_scale=1.0), TINY_SPEC, [long_THWC], seed=1, span=(4, 12), heads=heads
    )
    filled = fill_grid(backbone, request, Quiet())
    for cells_BKCFYX, time_BKF in backbone.velocity_calls:
        assert (time_BKF[:, 1:, :2] == 0).all()
        assert (time_BKF[:, 1:, 2] > 0).all()
        for cell, head_THWC in heads.items():
            clean = backbone.encode(to_model_range(head_THWC))
            assert torch.equal(cells_BKCFYX[:, cell, :, :2], clean)
    for cell, clip_THWC in filled.items():
        assert (clip_THWC[:5].float() - heads[cell].float()).abs().max() <= 1
        assert clip_THWC.shape == long_THWC.shape
    noise = draw_noise((1, 4, 4, 3, 4, 6), 1, span=(4, 12))
    assert torch.equal(backbone.velocity_calls[0][0][:, 1:, :, 2], noise[:, 1:, :, 2])


def test_a_grid_without_any_clip_is_generated_whole() -> None:
    backbone = Recorder()
    edits = replace(grid(guidance_scale=1.0), given=(), edit_of_cell=(0, 0, 0, 0))
    with pytest.raises(ValueError, match="needs its size"):
        grid_request(edits, TINY_SPEC, [])
    request = grid_request(edits, TINY_SPEC, [], seed=1, size_THW=(9, 32, 48))
    filled = fill_grid(backbone, request, Quiet())
    assert list(filled) == [0, 1, 2, 3]
    assert filled[0].shape == (9, 32, 48, 3)
    assert all((time_BKF > 0).all() for _, time_BKF in backbone.velocity_calls)


class Forgetful:
    """A backbone that is never given a memory, and counts the tokens that the other one saves."""

    velocities = Backbone.velocities

    def __init__(self, backbone: NetworkBackbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> object:
        return getattr(self._backbone, name)

    def velocity(self, *arguments: Any, memory: Memory | None = None, **more: Any) -> Tensor:
        return self._backbone.velocity(*arguments, **more)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("negative_text", [True, False])
def test_what_is_kept_from_step_to_step_changes_no_pixel(
    given_THWC: Tensor, first: bool, negative_text: bool
) -> None:
    backbone = find_model("tiny").load()
    backbone._spec = replace(backbone.spec, negative_text=negative_text, offset_tokens=True)
    backbone.use_given(clean=True, first=first)
    calls: list[int] = []
    mlp = backbone.parts.dit.blocks[0].mlp_in  # type: ignore[union-attr]
    mlp.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape[1]))
    edits = grid(guidance_scale=2.0, num_inference_steps=3)
    edits = replace(edits, edits=tuple(replace(one, noise_scale=1.0) for one in edits.edits))
    request = grid_request(edits, TINY_SPEC, [given_THWC], seed=1)
    kept, plain = (
        fill_grid(one, request, Quiet())  # type: ignore[arg-type]
        for one in (backbone, Forgetful(backbone))
    )
    for cell, clip_THWC in kept.items():
        assert (clip_THWC.int() - plain[cell].int()).abs().max() <= 1  # sums in another order
    # Three steps, two branches, two grids of tokens; all of each grid is computed once.
    ours, all_of_it = calls[:12], calls[12:]
    assert [o == a for o, a in zip(ours, all_of_it, strict=True)].count(True) == (
        2 if first else 12
    )
    assert all(o in (a, a * 3 // 4) for o, a in zip(ours, all_of_it, strict=True))


def test_given_cells_read_one_text_in_both_branches_where_they_are_read_first(
    given_THWC: Tensor,
) -> None:
    """Without it, what the first branch keeps would be wrong for the second."""

    class Listening(Recorder):
        def __init__(self, first: bool) -> None:
            super().__init__()
            self.spec = replace(self.spec, given_first=first)
            self.heard: list[list[float]] = []

        def velocity(self, cells, time, text, places, **_):  # type: ignore[no-untyped-def]
            self.heard.append(text.tokens_BKLE.flatten().tolist())
            return super().velocity(cells, time, text, places)

    heard = {}
    for first in (True, False):
        backbone = Listening(first)
        request = grid_request(
            grid(guidance_scale=2.0, num_inference_steps=1), TINY_SPEC, [given_THWC]
        )
        fill_grid(backbone, request, Quiet())
        heard[first] = backbone.heard
    conditional, away = heard[True]
    assert away[0] == conditional[0] != heard[False][1][0]
    assert away[1:] == heard[False][1][1:]
