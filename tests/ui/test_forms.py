"""What forms become, and what a run does: plan, progress, result, stop, one at a time."""

import shutil
import threading
import time

import pytest

from dcgrid.api import Session
from dcgrid.cli.errors import explain
from dcgrid.errors import DcgridError
from dcgrid.options import edit_job
from dcgrid.ui.page import Page
from dcgrid.ui.runs import Run, StoppedError

LONG = {"num_inference_steps": 1000, "candidates": 64}
"""Options of a run that takes minutes."""


@pytest.fixture(scope="module")
def session():
    with Session("tiny") as session:
        yield session


@pytest.fixture
def page(session, tmp_path):
    def say(error):
        return explain(error).message, explain(error).hint

    return Page(session, tmp_path / "out", say)


@pytest.fixture
def upload(clip, tmp_path):
    """A clip as Gradio keeps what was dropped: in a folder named by a hash."""
    folder = tmp_path / "uploads" / "0123456789abcdef"
    folder.mkdir(parents=True)
    return shutil.copy(clip, folder / "clip.mp4")


def end_of(run, seconds=60):
    run.join(seconds)
    assert not run.is_alive
    return run


def test_a_dropped_clip_has_its_place_beside_its_results(page, upload, tmp_path) -> None:
    form = {"input": str(upload), "effects": ["rain"], "duration": 0.5, "seed": 3}
    job = page.job("edit", {**form, "prompt": "", "num_inference_steps": 0})
    kept = tmp_path / "out" / "clip-01234567" / "clip.mp4"
    assert job == edit_job({**form, "input": kept, "model": "tiny"}, "edit")
    assert kept.read_bytes() == upload.read_bytes()
    again = kept.stat().st_mtime_ns
    assert page.job("edit", form).input == kept
    assert kept.stat().st_mtime_ns == again


def test_clips_of_one_name_are_kept_apart(page, upload, tmp_path) -> None:
    folder = tmp_path / "uploads" / "ffff0000ffff0000"
    folder.mkdir()
    other = shutil.copy(upload, folder / "clip.mp4")
    first, second = (
        page.job("edit", {"input": one, "effects": ["rain"]}).input for one in (upload, other)
    )
    assert first.name == second.name == "clip.mp4"
    assert first != second


def test_forms_of_compositions_and_stories(page, upload) -> None:
    clip = {"first": upload, "prompt": "a man of sparks"}
    composed = page.job("compose", {**clip, "tile": ["sparks"], "concept": ""})
    assert composed.second.name == "sparks.mp4"
    assert composed.concept == "a shower of golden sparks"
    assert composed.prompts == ("a man of sparks",)
    own = page.job("compose", {**clip, "tile": ["sparks"], "second": upload, "concept": "a cat"})
    assert (own.second.name, own.concept) == ("clip.mp4", "a cat")
    told = page.job("story", {"source": upload, "scenes": " rain \n\nat night by a lake\n"})
    assert [one.effect or one.prompt for one in told.scenes] == ["rain", "at night by a lake"]
    assert page.job("story", {"scenes": "rain"}).out == page._out


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"effects": ["rain"]}, "there is no clip yet"),
        ({"effects": ["rian"]}, "no effect recipe is called 'rian'; did you mean 'rain'?"),
        ({}, "nothing to do: neither --effect nor --prompt is given"),
        ({"effects": ["rain"], "seed": -1}, "key 'seed' must be an integer of 0 or more, not -1"),
        ({"effects": ["rain", "night", "fog", "snow"]}, "at most"),
    ],
)
def test_errors_are_those_of_the_command_line(page, upload, form, said) -> None:
    if said != "there is no clip yet":
        form = {"input": upload, **form}
    with pytest.raises(DcgridError) as caught:
        raise end_of(page.start("tab", "edit", form)).error
    shown = page.error(caught.value)
    # What is not filled in yet is no mistake yet.
    assert page.plan("edit", form) == (shown if {"input", "effects"} <= set(form) else "")
    text = shown.replace("&#x27;", "'")
    assert "error: " in text
    assert "hint: " in text
    assert said in text


def test_names_and_errors_become_text(page, upload) -> None:
    shown = page.plan("edit", {"input": upload, "effects": ["<img src=x onerror=alert(1)>"]})
    assert "<img" not in shown
    assert "&lt;img" in shown


def test_the_plan_says_sizes_and_minutes_before_anything_is_loaded(page, upload) -> None:
    shown = page.plan("edit", {"input": upload, "effects": ["rain"]})
    assert "Result: 96x64" in shown
    assert "Time: " in shown
    assert "Model: tiny on cpu" in shown


def test_an_edit_from_the_form_to_the_player(page, upload, tmp_path) -> None:
    form = {"input": upload, "effects": ["rain"], "start": 0.25, "duration": 0.5}
    run = end_of(page.start("tab", "edit", form))
    assert run.error is None
    assert run.moment.share > 0.9
    assert run.result.manifest["job"]["model"] == "tiny"
    folder = tmp_path / "out" / "clip-01234567"
    assert {one.name for one in folder.iterdir()} == {
        "clip.mp4", "clip.rain.mp4", "clip.rain.png", "clip.rain.json",
    }  # fmt: skip
    status = page.status(run)
    assert status.count(" download>") == 3
    before, after = page.player(run.planned, run.result)["cells"]
    assert page.media.find(before["link"].split("/")[2]) == folder / "clip.mp4"
    assert page.media.find(after["link"].split("/")[2]) == folder / "clip.rain.mp4"
    assert (before["label"], before["begin"], after["label"]) == ("Before", 0.25, "rain")
    assert before["seconds"] == pytest.approx(0.5, abs=0.1)
    again = end_of(page.start("tab", "edit", form))
    assert again.result.already_there
    assert "Already there" in page.status(again)


def test_a_run_that_is_stopped_stops_and_leaves_nothing(page, upload, tmp_path) -> None:
    form = {"input": upload, "effects": ["rain"], **LONG}
    run = page.start("tab", "edit", form)
    while run.is_alive and (run.moment is None or "sampling" not in run.moment.stage):
        time.sleep(0.01)
    assert "<progress" in page.status(run)
    assert "sampling" in page.status(run)
    stopped_s = time.monotonic()
    page.stop("tab")
    end_of(run)
    assert time.monotonic() - stopped_s < 5  # all of it takes minutes
    assert isinstance(run.error, StoppedError)
    assert "Stopped" in page.status(run)
    assert [one.name for one in (tmp_path / "out" / "clip-01234567").iterdir()] == ["clip.mp4"]
    assert end_of(
        page.start("tab", "edit", {**form, "num_inference_steps": 1, "candidates": 1})
    ).result


def test_one_at_a_time_and_who_waits_can_be_stopped(page, session, upload, tmp_path) -> None:
    turn = threading.Lock()
    job = page.job("edit", {"input": upload, "effects": ["rain"], "out": str(tmp_path / "a")})
    with turn:
        waiting, second = (Run(session, job, turn) for _ in range(2))
        assert "Another run is first" in page.status(waiting)
        waiting.stop()
        assert isinstance(end_of(waiting, 5).error, StoppedError)
        assert second.is_alive
        assert second.moment is None
    assert end_of(second).result is not None


def test_a_tab_stops_its_own_run_alone(page, upload) -> None:
    form = {"input": upload, "effects": ["rain"], **LONG}
    mine, other = page.start("mine", "edit", form), page.start("other", "edit", form)
    page.stop("other")
    assert isinstance(end_of(other, 10).error, StoppedError)
    assert mine.is_alive
    page.stop_all()
    assert isinstance(end_of(mine, 10).error, StoppedError)
