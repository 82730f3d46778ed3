"""SDEdit and FlowEdit: closed forms on plain fields, plain loops, and their ends on `tiny`."""

import math

import pytest
import torch
from torch import Tensor

from dcgrid.flow.sampler import SampleSettings, sample
from dcgrid.flow.schedule import Schedule
from dcgrid.io.progress import NullProgress
from dcgrid.models.registry import find_model
from dcgrid.pipelines.baselines import codec, flowedit, sdedit, unedited
from dcgrid.pipelines.baselines.cells import clip_text, finish, open_clip
from dcgrid.pipelines.baselines.flowedit import FlowEditSettings, FlowPath, flow_edit
from dcgrid.pipelines.baselines.sdedit import edited, noised_and_back, times_below
from dcgrid.pipelines.sampling import to_frames, to_model_range
from tests.pipelines.baselines.cases import opened, request, square

SHAPE = (1, 1, 3, 2, 4, 5)


def numbers(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def even(steps: int, start: float = 1.0) -> tuple[float, ...]:
    return tuple(start * (1 - step / steps) for step in range(steps + 1))


def pointing_at(place: Tensor):
    """The velocity of all data at one place: v = (x - place) / t."""
    return lambda state, time: (state - place) / time


def test_flowedit_moves_by_the_distance_of_two_places():
    # dz/dt = (z - x0 - (b - a)) / t, so z - x0 grows evenly to b - a: Euler is exact.
    clip, a, b = numbers(0), numbers(1), numbers(2)
    path = FlowPath(times=even(7, 0.8), end_times=(0.0,), averages=2)
    found = flow_edit((pointing_at(a), pointing_at(b)), clip, lambda turn: numbers(9 + turn), path)
    assert torch.allclose(found, clip + b - a, atol=1e-5)


def test_flowedit_follows_the_exponential_of_a_linear_field():
    # dz/dt = r (z - x0) + d from t = 1 to 0; its noise has no part in it.
    clip, push, rate = numbers(0), numbers(1), 0.7
    slopes = (lambda x, t: rate * x), (lambda x, t: rate * x + push)
    path = FlowPath(times=even(2000), end_times=(0.0,), averages=1)
    found = flow_edit(slopes, clip, lambda turn: numbers(turn), path)
    wanted = clip + push / rate * (math.exp(-rate) - 1)
    assert torch.allclose(found, wanted, atol=2e-3)


def plain_flowedit(clip, times, last, source, target, averages):
    """Algorithm 1 of the paper, straight down; the last steps are plain Euler sampling."""
    edit, turn = clip.double(), 0
    first_of_last = len(times) - 1 - last
    for index in range(first_of_last):
        total = 0.0
        for _ in range(averages):
            noise = numbers(100 + turn).double()
            turn += 1
            z_src = (1 - times[index]) * clip + times[index] * noise
            z_tar = edit + z_src - clip
            total = total + target(z_tar, times[index]) - source(z_src, times[index])
        edit = edit + (times[index + 1] - times[index]) * total / averages
    if last:
        t = times[first_of_last]
        edit = edit + (1 - t) * clip + t * numbers(100 + turn).double() - clip
    for index in range(first_of_last, len(times) - 1):
        edit = edit + (times[index + 1] - times[index]) * target(edit, times[index])
    return edit


@pytest.mark.parametrize(("averages", "last"), [(1, 0), (3, 0), (2, 1)])
def test_flowedit_is_the_papers_algorithm(averages, last):
    clip = numbers(0)

    def source(x, t):
        return torch.tanh(x) * (1 + t)

    def target(x, t):
        return torch.sin(2 * x + t) - 0.3

    times = Schedule(num_inference_steps=9, shift=3.0).times()
    chosen = FlowEditSettings(start_share=6 / 9, end_steps=last, averages=averages)
    path = FlowPath.of(times, chosen)
    found = flow_edit((source, target), clip, lambda turn: numbers(100 + turn), path)
    # A single last step is the same for every solver.
    wanted = plain_flowedit(clip.double(), times[3:], last, source, target, averages)
    assert torch.allclose(found.double(), wanted, atol=1e-5)


def test_parts_of_a_schedule():
    times = Schedule(num_inference_steps=28).times()
    path = FlowPath.of(times, FlowEditSettings())
    assert path.times == times[4:]
    assert path.end_times == (0.0,)
    path = FlowPath.of(times, FlowEditSettings(end_steps=5))
    assert path.times == times[4:24]
    assert path.end_times == times[23:]
    assert FlowPath.of((1.0, 0.0), FlowEditSettings()).times == (1.0, 0.0)
    assert times_below((1.0, 0.5, 0.0), 0.5) == (0.5, 0.0)
    assert times_below((1.0, 0.5, 0.0), 0.0) == (0.0,)


def test_sdedit_ends_where_a_field_points_whatever_the_clip():
    clip, place = numbers(0), numbers(1)
    found = noised_and_back(pointing_at(place), clip, numbers(2), even(5, 0.6))
    assert torch.allclose(found, place, atol=1e-5)


def test_sdedit_follows_the_exponential_of_a_linear_field():
    clip, noise, rate, start = numbers(0), numbers(1), 0.8, 0.7
    found = noised_and_back(lambda x, t: rate * x, clip, noise, even(400, start))
    wanted = ((1 - start) * clip + start * noise) * math.exp(-rate * start)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_sdedit_without_strength_is_the_codec_and_with_all_of_it_plain_sampling():
    backbone = find_model("tiny").load()
    clip = opened(backbone)
    still = finish(clip, edited(clip, 0.0, NullProgress(), clip.edit_slope), NullProgress())
    wanted = codec.generate(backbone, request(backbone), NullProgress())
    assert list(still) == [1, 2, 3]
    assert all(torch.equal(clip_THWC, wanted[cell]) for cell, clip_THWC in still.items())

    for cell, found in edited(clip, 1.0, NullProgress(), clip.edit_slope):
        slope = clip.edit_slope(cell)
        sampled = sample(
            lambda cells, time_BKF, slope=slope: slope(cells, float(time_BKF[0, 0, 0])),
            torch.zeros_like(clip.latents_BKCFYX),
            clip.noise(cell),
            torch.ones(1, dtype=torch.bool),
            SampleSettings(
                schedule=Schedule(num_inference_steps=4, shift=backbone.spec.time_shift)
            ),
        )
        assert torch.equal(found, sampled)


def test_flowedit_under_equal_texts_and_scales_gives_the_clip_back_exactly():
    clip = opened(find_model("tiny").load())
    slopes = clip.slope(clip.text, 3.0), clip.slope(clip.text, 3.0)
    path = FlowPath.of(
        clip.settings.schedule.times(), FlowEditSettings(start_share=1.0, averages=2)
    )
    found = flow_edit(slopes, clip.latents_BKCFYX, lambda turn: clip.noise(1, turn), path)
    assert torch.equal(found, clip.latents_BKCFYX)


def test_flowedit_draws_moving_noise_once_and_the_rest_anew():
    clip = opened(find_model("tiny").load())
    noise = flowedit._noises(clip, 2)
    assert torch.equal(noise(0), clip.noise(2))
    assert not torch.equal(noise(1), noise(0))
    moving = opened(_with_moving_noise())
    noise = flowedit._noises(moving, 1)
    assert torch.equal(noise(3)[:, :, -2:], noise(0)[:, :, -2:])
    assert not (noise(3)[:, :, :-2] == noise(0)[:, :, :-2]).any()
    # It moves: one row down a latent frame.
    channel_FYX = noise(0)[0, 0, -1]
    assert torch.equal(channel_FYX[1, 1:], channel_FYX[0, :-1])


def _with_moving_noise():
    from dataclasses import replace

    backbone = find_model("tiny").load()
    backbone._spec = replace(backbone.spec, noise_motion=((1, 0.0), (1, 0.0)))
    return backbone


@pytest.mark.parametrize("method", [sdedit, flowedit])
def test_same_seed_same_pixels_and_cells_have_noise_of_their_own(method):
    backbone = find_model("tiny").load()
    asked = [request(backbone, effects=("rain",), seed=seed) for seed in (0, 0, 1)]
    first, again, other = (method.generate(backbone, one, NullProgress()) for one in asked)
    for cell, clip_THWC in first.items():
        assert torch.equal(clip_THWC, again[cell])
        assert not torch.equal(clip_THWC, other[cell])
    assert not torch.equal(first[1], first[2])


def test_references_are_the_clip_and_its_codec():
    backbone, clip_THWC = find_model("tiny").load(), square()
    asked = request(backbone, clip_THWC=clip_THWC)
    same = unedited.generate(backbone, asked, NullProgress())
    assert list(same) == [1, 2, 3]
    video_BCTHW = to_model_range(clip_THWC)
    assert all(torch.equal(one_THWC, clip_THWC) for one_THWC in same.values())
    coded = codec.generate(backbone, asked, NullProgress())
    assert torch.equal(coded[1], to_frames(backbone.decode(backbone.encode(video_BCTHW))))


def test_captions_are_those_of_clips_that_stand_alone():
    asked = request(find_model("tiny").load(), subject="a cat", motion="jump")
    assert clip_text(asked.grid.prompt, 0) == "A cat jump"
    assert clip_text(asked.grid.prompt, 1) == (
        "A cat jump in heavy rain, wet streaks falling across the whole scene"
    )
    assert clip_text(asked.grid.prompt, 3) == clip_text(asked.grid.prompt, 1)


def test_a_window_of_a_long_clip_is_refused():
    from dataclasses import replace

    from dcgrid.errors import UsageError

    backbone = find_model("tiny").load()
    long = replace(request(backbone), span=(0, 9))
    with pytest.raises(UsageError, match="in one go") as told:
        open_clip(backbone, long, NullProgress())
    assert "--duration" in told.value.hint
