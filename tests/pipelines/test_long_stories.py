"""Stories whose scenes are longer than a window, with `tiny` (windows of 9 frames that share 5)."""

import itertools
from pathlib import Path

import pytest
import torch

from dcgrid import hub
from dcgrid.pipelines import generate
from dcgrid.pipelines.generate import Generated, GeneratedClip
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.rerun import RerunJob, prepare_rerun
from dcgrid.pipelines.script import StoryJob, read_story
from dcgrid.pipelines.upsampling import ResultClip
from dcgrid.pipelines.windows import Join, plan_windows
from tests.pipelines.runs import (
    Silence,
    decoded,
    interrupt_grid,
    job,
    moving_square,
    run,
    spy_on_grids,
    tell,
)
from tests.pipelines.runs import story_job as any_story

LONG_S = 17 / 12
"""Seconds of 17 frames: 3 windows."""


def story_job(folder: Path, *scenes: str, **values: object) -> StoryJob:
    """A story at the size of its cells: upsampling takes most of the time and is tested once."""
    settings = {"duration_s": LONG_S, "upsample": "none", **values}
    return any_story(folder, *scenes, **settings)


@pytest.fixture
def long_clip(tmp_path: Path) -> Path:
    return moving_square(tmp_path / "long.mp4", 30)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(tmp_path / "cache"))


def test_scenes_are_as_long_as_is_asked(tmp_path: Path, long_clip: Path) -> None:
    scenes = ("rain", "night", "fog", "smoke")
    result = tell(story_job(tmp_path, *scenes, source=long_clip, fade_s=0.5))
    assert [len(decoded(path)) for path in result.files[:4]] == [17] * 4
    assert len(decoded(result.files[4])) == 4 * 17 - 3 * 6
    assert [one["windows"] for one in result.manifest.samplers] == [3, 3]
    assert result.manifest.clips[0]["frames"] == 17
    assert not list((hub.cache_dir() / "runs").iterdir())


def test_a_scene_from_a_clip_is_what_an_edit_of_it_is(tmp_path: Path, long_clip: Path) -> None:
    """`edit --keep all` generates the same grid window by window; a story equals it."""
    edit = run(
        job(long_clip, effects=("rain", "night", "fog"), guidance_scale=1.0, duration_s=LONG_S)
    )
    story = tell(story_job(tmp_path, "rain", "night", "fog", source=long_clip, upsample="guided"))
    assert [one.frames_sha256 for one in story.manifest.outputs] == [
        one.frames_sha256 for one in edit.manifest.outputs
    ]


def test_from_text_alone_all_cells_are_carried_from_window_to_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, made = spy_on_grids(monkeypatch)
    scenes = ("rain", "night", "fog", "smoke", "snow")
    result = tell(story_job(tmp_path, *scenes))
    assert [len(decoded(path)) for path in result.files[:5]] == [17] * 5
    first, second = requests[:3], requests[3:]
    assert len(second) == 3
    assert [sorted(request.given) for request in requests] == [[]] * 3 + [[0]] * 3
    assert [sorted(request.heads) for request in first] == [[]] + [[0, 1, 2, 3]] * 2
    assert [request.span[0] for request in first] == [0, 1, 2]
    for before, request in zip(made, first[1:], strict=False):
        for cell, clip_THWC in before.items():
            assert torch.equal(request.heads[cell], clip_THWC[-5:])
    # The second grid goes on from the whole last scene of the first: the frames of its windows
    # that count, at the size of a cell.
    last = [made[0][3], *(window[3][5:] for window in made[1:3])]
    last_THWC = torch.cat(last)
    for number, request in enumerate(second):
        assert torch.equal(request.given[0], last_THWC[4 * number :][:9])


def test_memory_and_plan_are_those_of_one_window(tmp_path: Path, long_clip: Path) -> None:
    long = plan_run(prepare_run(story_job(tmp_path, "rain", source=long_clip, duration_s=2)))
    short = plan_run(prepare_run(story_job(tmp_path, "rain", source=long_clip, duration_s=0.7)))
    text = "\n".join(long.lines())
    assert "Windows: 5 of up to 9 frames (0.75 s)" in text
    assert "Windows" not in "\n".join(short.lines())
    assert long.need == short.need
    assert long.as_json()["windows"] == 5
    assert long.as_json()["size"][0] == 25  # 24 of the clip, and one to the model's rule


def test_no_more_than_a_window_is_generated_or_read_at_once(
    tmp_path: Path, long_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, made = spy_on_grids(monkeypatch)
    taken: list[int] = []
    real = ResultClip.__getitem__

    def watch(clip: ResultClip, stretch: slice) -> torch.Tensor:
        frames_THWC = real(clip, stretch)
        taken.append(len(frames_THWC))
        return frames_THWC

    monkeypatch.setattr(ResultClip, "__getitem__", watch)
    monkeypatch.setattr("dcgrid.video.reel._STRETCH", 8)
    scenes = ("rain", "fog")
    tell(any_story(tmp_path, *scenes, source=long_clip, duration_s=LONG_S, fade_s=0.25))
    assert max(len(request.given[0]) for request in requests) == 9
    assert max(len(clip_THWC) for window in made for clip_THWC in window.values()) == 9
    assert max(taken) <= 9


def test_a_long_story_can_be_made_again(tmp_path: Path, long_clip: Path) -> None:
    # Two grids each: three scenes fill a grid beside a clip, four one without.
    scenes = ("rain", "night", "fog", "smoke", "snow")
    for source, count in ((long_clip, 4), (None, 5)):
        folder = tmp_path / str(count)
        folder.mkdir()
        first = tell(story_job(folder, *scenes[:count], source=source, fade_s=0.2))
        prepared, _ = prepare_rerun(RerunJob(manifest=first.files[-1]))
        assert tell(prepared).same_pixels is True


@pytest.mark.parametrize("from_clip", [True, False])
def test_a_story_that_was_killed_goes_on_with_the_windows_it_has(
    tmp_path: Path, long_clip: Path, monkeypatch: pytest.MonkeyPatch, from_clip: bool
) -> None:
    scenes = ("rain", "night", "fog", "smoke", "snow")
    source = long_clip if from_clip else None
    story = story_job(tmp_path, *scenes, source=source, force=True)
    untouched = tell(story).manifest
    calls = interrupt_grid(monkeypatch, 5)
    progress = Silence()
    with pytest.raises(KeyboardInterrupt):
        tell(story, progress)
    assert "What is generated so far is kept; the same command goes on with it." in progress.lines
    progress = Silence()
    again = tell(story, progress).manifest
    assert "4 of 6 windows are there from an earlier run; going on." in progress.lines
    assert len(calls) == 5 + 2
    assert again.outputs == untouched.outputs
    assert again.reel_sha256 == untouched.reel_sha256


def test_a_story_that_generated_nothing_leaves_nothing_in_the_cache(
    tmp_path: Path, long_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "fill_grid", interrupt)
    progress = Silence()
    with pytest.raises(KeyboardInterrupt):
        tell(story_job(tmp_path, "rain", source=long_clip), progress)
    assert not [line for line in progress.lines if "is kept" in line]
    assert not list((hub.cache_dir() / "runs").iterdir())


def test_a_story_file_names_the_seconds_and_the_command_line_goes_over_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tale.toml"
    path.write_text('seconds = 2.1\n[[scenes]]\neffect = "rain"\n')
    assert read_story(path).duration_s == 2.1
    path.write_text('[[scenes]]\neffect = "rain"\n')
    assert read_story(path).duration_s is None


@pytest.mark.parametrize("on_disk", [True, False])
def test_any_stretch_of_a_generated_clip_is_that_of_the_whole(
    tmp_path: Path, on_disk: bool
) -> None:
    windows = plan_windows(41, 17, Join(head=5, blend=4), 4)
    generated = Generated(windows, [1], tmp_path / "grid" if on_disk else None)
    generator = torch.Generator().manual_seed(3)

    def noise(window: int, size: int) -> torch.Tensor:
        shape = (windows[window].count, size, size, 3)
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator)

    for window in windows:
        generated.put(window, {1: noise(window.index, 16)})
    clip = GeneratedClip(generated, 1)
    whole_THWC = torch.cat(list(clip.pieces()))
    assert len(whole_THWC) == len(clip) == 41
    # Windows end at 13, 21 and 29.
    for start, stop in itertools.combinations((0, 1, 12, 13, 14, 20, 21, 30, 40, 41), 2):
        assert torch.equal(clip[start:stop], whole_THWC[start:stop])
    with pytest.raises(ValueError, match="no frames"):
        clip[41:50]
