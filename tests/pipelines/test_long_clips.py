"""Clips longer than a window, with `tiny` (windows of 9 frames that share 5)."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from dcgrid import hub
from dcgrid.errors import InputVideoError, OutputError
from dcgrid.io.locks import run_lock
from dcgrid.pipelines import generate
from dcgrid.pipelines.generate import Generated
from dcgrid.pipelines.job import EditJob
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.rerun import RerunJob, prepare_rerun
from dcgrid.pipelines.windows import Join, Window, plan_windows
from tests.pipelines.runs import (
    Silence,
    decoded,
    interrupt_grid,
    job,
    moving_square,
    run,
    spy_on_grids,
)


@pytest.fixture
def long_clip(tmp_path: Path) -> Path:
    return moving_square(tmp_path / "long.mp4", 30)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(tmp_path / "cache"))


def whole(path: Path, upsample: str = "none", **values: object) -> EditJob:
    """All of a clip at the size of its cells; two tests upsample, which takes most of the time."""
    return job(path, duration_s=None, keep="all", upsample=upsample, **values)


def test_a_long_clip_is_generated_to_its_end(long_clip: Path) -> None:
    progress = Silence()
    result = run(whole(long_clip, upsample="guided", save_grid=True), progress)
    for path in (*result.files[:3], result.files[-2]):
        assert len(decoded(path)) == 30
    assert result.manifest.sampler["windows"] == 7
    assert result.manifest.sampler["carried_frames"] == 5
    assert ("window 7 of 7: sampling", 2) in progress.stages
    assert list((hub.cache_dir() / "runs").iterdir()) == []


def test_without_a_duration_all_of_a_clip_is_used(long_clip: Path) -> None:
    plan = plan_run(prepare_run(job(long_clip, duration_s=None)))
    # 30 frames, up to the next 4 n + 1.
    assert (plan.clips[0].num_frames, plan.clips[0].held_frames) == (33, 3)
    assert plan.clips[0].dropped_s == 0


def test_memory_is_that_of_one_window(long_clip: Path) -> None:
    short = plan_run(prepare_run(job(long_clip, duration_s=0.75)))
    long = plan_run(prepare_run(whole(long_clip)))
    assert long.need == short.need
    assert "Windows: 7 of up to 9 frames" in "\n".join(long.lines())


def test_each_window_goes_on_from_what_the_one_before_generated(
    long_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, generated = spy_on_grids(monkeypatch)
    run(whole(long_clip))
    assert requests[0].heads == {}
    firsts = [request.span[0] for request in requests]
    assert firsts == [0, 1, 2, 3, 4, 5, 6]
    for before, request in zip(generated, requests[1:], strict=False):
        for cell, frames_THWC in before.items():
            assert torch.equal(request.heads[cell], frames_THWC[-5:])
    # The given clip is read on where it was left, with the frames that windows share.
    for one, other in itertools.pairwise(requests):
        assert torch.equal(one.given[0][4:], other.given[0][: len(one.given[0]) - 4])


def test_a_run_that_was_killed_goes_on_with_the_windows_it_has(
    long_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untouched = run(whole(long_clip)).manifest.outputs
    calls = interrupt_grid(monkeypatch, 4)
    progress = Silence()
    with pytest.raises(KeyboardInterrupt):
        run(whole(long_clip, force=True), progress)
    assert "What is generated so far is kept; the same command goes on with it." in progress.lines
    progress = Silence()
    again = run(whole(long_clip, force=True), progress)
    assert "3 of 7 windows are there from an earlier run; going on." in progress.lines
    assert len(calls) == 4 + 4
    assert [one.frames_sha256 for one in again.manifest.outputs] == [
        one.frames_sha256 for one in untouched
    ]


def test_a_window_that_was_damaged_since_is_generated_again(
    long_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untouched = run(whole(long_clip)).manifest.outputs

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Generated, "pieces", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(whole(long_clip, force=True))
    part = next((hub.cache_dir() / "runs").rglob("000002.1.mkv"))
    part.write_bytes(part.read_bytes()[:-100])
    progress = Silence()
    again = run(whole(long_clip, force=True), progress)
    assert "Damaged windows of an earlier run that are generated again: 1." in progress.lines
    assert "6 of 7 windows are there from an earlier run; going on." in progress.lines
    assert [one.frames_sha256 for one in again.manifest.outputs] == [
        one.frames_sha256 for one in untouched
    ]


def test_windows_of_another_seed_are_not_taken(
    long_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Generated, "pieces", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(whole(long_clip))
    progress = Silence()
    run(whole(long_clip, seed=1), progress)
    assert not [line for line in progress.lines if "earlier run" in line]


def test_two_processes_do_not_work_on_one_run(
    long_clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    monkeypatch.setattr(generate, "_folder_of", lambda facts: folder)
    with run_lock(folder), pytest.raises(OutputError, match="another run works"):
        run(whole(long_clip))


def test_a_damaged_part_is_refused_and_named(tmp_path: Path) -> None:
    windows = plan_windows(13, 9, Join(head=5, blend=0), 4)
    generated = Generated(windows, [1], tmp_path)
    filled = {1: torch.full((9, 32, 48, 3), 9, dtype=torch.uint8)}
    for window in windows:
        assert not generated.has(window)
        generated.put(window, filled)
        assert generated.has(window)
    pieces = list(generated.pieces(1))
    assert [len(piece) for piece in pieces] == [9, 4]
    assert (generated.heads(windows[1])[1] == 9).all()
    part = tmp_path / "000001.1.mkv"
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(InputVideoError, match=r"000001\.1\.mkv"):
        list(generated.pieces(1))


def test_a_long_run_can_be_made_again(long_clip: Path) -> None:
    first = run(whole(long_clip, upsample="guided", effects=("rain", "fog")))
    text = json.loads(first.files[-1].read_text())
    assert text["clips"][0]["frames"] == 33
    prepared, _ = prepare_rerun(RerunJob(manifest=first.files[-1]))
    assert run(prepared).same_pixels is True


def test_what_both_windows_generate_is_mixed_step_by_step(tmp_path: Path) -> None:
    windows = plan_windows(25, 17, Join(head=5, blend=4), 4)
    assert len(windows) == 2
    generated = Generated(windows, [1], tmp_path)

    def filled(window: Window, level: int) -> dict[int, torch.Tensor]:
        frames = torch.full((window.count, 16, 16, 3), level, dtype=torch.uint8)
        frames[:, 0, 0, 0] = torch.arange(window.first, window.first + window.count)
        return {1: frames}

    for window, level in zip(windows, (100, 200), strict=True):
        generated.put(window, filled(window, level))
    whole_THWC = torch.cat(list(generated.pieces(1)))
    assert whole_THWC[:, 0, 0, 0].tolist() == list(range(25))
    levels = whole_THWC[:, 5, 5, 1].tolist()
    assert levels == [100] * 13 + [120, 140, 160, 180] + [200] * 8
    # The second window was given the first one's frames at its own place.
    head = generated.heads(windows[1])[1]
    assert head[:, 0, 0, 0].tolist() == list(range(8, 13))
