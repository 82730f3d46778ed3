"""`story` with `tiny`: scenes in order, grids that go on from one another, one reel."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcgrid.errors import InputVideoError, RecipeError, UsageError
from dcgrid.models.native.presets import MINI_SPEC
from dcgrid.pipelines import deliver
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.sampling import settle_grid
from dcgrid.pipelines.script import (
    Scene,
    read_story,
    resolve_story,
    titles_of,
)
from tests.pipelines.runs import decoded, spy_on_grids, story_job, tell

FILE = """
from = "input.mp4"
subject = "a man"
motion = "walk"
seed = 3
titles = true
fade = 0.1
[[scenes]]
effect = "rain"
title = "It pours"
[[scenes]]
prompt = "in a snowy street"
"""


def test_a_story_file_says_all(clip: Path) -> None:
    path = clip.parent / "tale.toml"
    path.write_text(FILE)
    job = read_story(path)
    assert job.source == clip
    assert (job.subject, job.motion, job.seed) == ("a man", "walk", 3)
    assert job.scenes == (
        Scene(effect="rain", title="It pours"),
        Scene(prompt="in a snowy street"),
    )
    assert titles_of(job) == ("It pours", "in a snowy street")
    result = tell(replace(job, model="tiny", dtype="fp32", duration_s=0.4))
    assert [path.name for path in result.files] == [
        "tale.1-rain.mp4",
        "tale.2-in-a-snowy-street.mp4",
        "tale.story.mp4",
        "tale.story.png",
        "tale.story.json",
    ]
    # Two scenes of 5 frames at 12 a second, one frame shared.
    assert len(decoded(result.files[2])) == 9


def test_scenes_of_the_reel_are_the_scenes(tmp_path: Path, clip: Path) -> None:
    result = tell(story_job(tmp_path, "rain", "night", "fog", source=clip))
    scenes = [decoded(path).float() for path in result.files[:3]]
    reel = decoded(result.files[3]).float()
    assert len(reel) == sum(len(scene) for scene in scenes)
    # Both went through H.264.
    assert (torch.cat(scenes) - reel).abs().mean() < 4
    assert (scenes[0] - scenes[1]).abs().mean() > 3


def test_a_clip_stands_in_every_grid(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, _ = spy_on_grids(monkeypatch)
    job = story_job(tmp_path, *["rain", "night", "fog", "rain"], source=clip)
    result = tell(job)
    assert len(result.files) == 4 + 3
    assert [sorted(request.given) for request in requests] == [[0], [0]]
    assert torch.equal(requests[0].given[0], requests[1].given[0])


def test_from_text_alone_later_grids_go_on_from_the_last_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, made = spy_on_grids(monkeypatch)
    job = story_job(tmp_path, *["rain", "night", "fog", "noir", "snow"], duration_s=0.5)
    result = tell(job)
    assert [sorted(request.given) for request in requests] == [[], [0]]
    assert torch.equal(requests[1].given[0], made[0][3])
    assert len(decoded(result.files[0])) == 5
    # Nothing was given to the first grid, so there is nothing to score its scenes by.
    scores = [one.structure is None for one in result.manifest.outputs]
    assert scores == [True, True, True, True, False]
    grids = resolve_story(story_job(tmp_path, *["rain"] * 5, num_inference_steps=None))
    settled = [settle_grid(grid, MINI_SPEC).num_inference_steps for grid in grids]
    assert settled == [MINI_SPEC.from_text.num_inference_steps, 1]


def test_a_story_is_the_same_again_and_another_with_another_seed(
    tmp_path: Path, clip: Path
) -> None:
    frames = []
    for seed in (0, 0, 1):
        files = tell(story_job(tmp_path, "rain", "fog", source=clip, seed=seed, force=True)).files
        frames.append(decoded(files[0]))
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])


def test_the_manifest_has_what_made_it(tmp_path: Path, clip: Path) -> None:
    result = tell(story_job(tmp_path, "rain", "in a garden", source=clip))
    values = json.loads(result.files[-1].read_text())
    assert values["format"] == "dcgrid-story-3"
    assert [one["path"] for one in values["outputs"]] == [path.name for path in result.files[:2]]
    assert values["inputs_sha256"] == [hashlib.sha256(clip.read_bytes()).hexdigest()]
    for one, path in zip(values["outputs"], result.files, strict=False):
        assert one["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert -1 <= one["structure"] <= 1
    assert values["machine"]["threads"] == torch.get_num_threads()
    assert [one["num_inference_steps"] for one in values["samplers"]] == [2]
    assert set(values["timings_s"]) == {"read", "load", "fill", "choose", "write"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "scenes' is missing"),
        ("[[scenes]]\n", "exactly one of both"),
        ('[[scenes]]\neffect = "rain"\nprompt = "x"\n', "exactly one of both"),
        ('[[scenes]]\nefect = "rain"\n', "'scenes.0.efect' is unknown"),
        ('seed = -1\n[[scenes]]\neffect = "rain"\n', "seed"),
        ('seconds = 0\n[[scenes]]\neffect = "rain"\n', "seconds"),
        ("scenes = 3\n", "array of tables"),
        ("[[scenes]\n", "tale.toml"),
    ],
)
def test_wrong_story_files_are_refused_with_their_place(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "tale.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_story(path)


def test_impossible_stories_are_refused(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(UsageError, match="1 to 60 scenes"):
        prepare_run(story_job(tmp_path))
    with pytest.raises(UsageError, match="1 to 60 scenes"):
        prepare_run(story_job(tmp_path, *["rain"] * 61))
    with pytest.raises(RecipeError, match="did you mean 'rain'"):
        prepare_run(replace(story_job(tmp_path), scenes=(Scene(effect="rian"),)))
    with pytest.raises(InputVideoError, match="does not exist"):
        prepare_run(story_job(tmp_path, "rain", source=tmp_path / "none.mp4"))
    for duration_s in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="--duration"):
            plan_run(prepare_run(story_job(tmp_path, "rain", duration_s=duration_s)))
    with pytest.raises(UsageError, match="longer than half of a scene"):
        plan_run(prepare_run(story_job(tmp_path, "rain", source=clip, fade_s=5.0)))


def test_an_interrupt_leaves_no_file(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(deliver, "write_contact_sheet", interrupt)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        tell(story_job(tmp_path, "rain", source=clip))
    assert sorted(tmp_path.iterdir()) == before
