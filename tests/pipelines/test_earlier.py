"""Results that are there already are not made twice, and never replaced by others unasked."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from dcgrid.cli.main import main
from dcgrid.models.native.model import NativeModel
from dcgrid.pipelines import earlier
from dcgrid.pipelines.job import ComposeJob, EditJob
from dcgrid.pipelines.plan import plan_run
from dcgrid.pipelines.prepared import prepare_run
from dcgrid.pipelines.rerun import RerunJob, prepare_rerun
from dcgrid.pipelines.script import StoryJob
from tests.pipelines.runs import decoded, job, run, spy_on_grids, story_job, tell


def made(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "input.mp4")


FIRST = ["input.rain.json", "input.rain.mp4", "input.rain.png"]
SECOND = ["input.rain-2.json", "input.rain-2.mp4", "input.rain-2.png"]


def test_the_same_settings_are_not_run_twice(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(job(clip))
    before = {path: path.stat().st_mtime_ns for path in first.files}
    requests, _ = spy_on_grids(monkeypatch)
    second = run(job(clip))
    assert second.already_there
    assert not requests
    assert second.files == first.files
    assert second.manifest.outputs == first.manifest.outputs
    assert {path: path.stat().st_mtime_ns for path in first.files} == before
    assert made(clip.parent) == FIRST


def test_other_settings_get_names_of_their_own_and_are_found_again(clip: Path) -> None:
    first = run(job(clip))
    other = run(job(clip, seed=1))
    assert [path.name for path in other.files] == [
        "input.rain-2.mp4",
        "input.rain-2.png",
        "input.rain-2.json",
    ]
    assert not other.already_there
    assert first.manifest.outputs[0].frames_sha256 != other.manifest.outputs[0].frames_sha256
    assert run(job(clip, seed=1)).already_there
    assert run(job(clip)).already_there
    assert run(job(clip, seed=2)).files[0].name == "input.rain-3.mp4"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"seed": 1}, "--seed"),
        ({"num_inference_steps": 3}, "steps"),
        ({"guidance_scale": 2.5}, "guidance"),
        ({"subject": "a cat"}, "text"),
        ({"start_s": 0.2}, "part of the clip"),
        ({"duration_s": 0.8}, "part of the clip"),
        ({"cell_size": (64, 96)}, "part of the clip"),
        ({"upsample": "plain"}, "--upsample"),
        ({"fps": "model"}, "--fps"),
        ({"candidates": 2}, "--candidates"),
        ({"keep": "all"}, "--keep"),
        ({"save_grid": True}, "--save-grid"),
        ({"contact_sheet": False}, "--contact-sheet"),
        ({"dtype": "bf16"}, "dtype"),
    ],
)
def test_any_setting_that_differs_is_named(clip: Path, values: dict[str, Any], said: str) -> None:
    run(job(clip))
    asked = {"dtype": "fp32", **values}
    plan = plan_run(prepare_run(replace(job(clip), **asked)))
    assert plan.prepared.earlier is None
    assert plan.prepared.outputs.videos[0][0].name == "input.rain-2.mp4"
    assert said in plan.prepared.names_remark


@pytest.mark.parametrize(
    "values",
    [{"device": "cpu"}, {"duration_s": 5 / 12}, {"guidance_scale": None}, {"offline": True}],
    ids=str,
)
def test_settings_are_compared_as_resolved(clip: Path, values: dict[str, Any]) -> None:
    grid = run(job(clip)).manifest.grid
    if "guidance_scale" in values:
        values = {"guidance_scale": grid.edits[0].guidance_scale}
    assert run(job(clip, **values)).already_there


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _junk(path: Path) -> None:
    path.write_text("[1, 2]")


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("input.rain.mp4", Path.unlink),
        ("input.rain.mp4", _cut),
        ("input.rain.mp4", _flip),
        ("input.rain.png", Path.unlink),
        ("input.rain.png", _flip),
        ("input.rain.json", Path.unlink),
        ("input.rain.json", _junk),
        ("input.mp4", _flip),
    ],
)
def test_a_manifest_whose_files_have_changed_is_not_believed(
    clip: Path, name: str, harm: Callable[[Path], None]
) -> None:
    run(job(clip))
    harm(clip.parent / name)
    plan = plan_run(prepare_run(job(clip)))
    assert plan.prepared.earlier is None
    assert plan.prepared.outputs.videos[0][0].name == "input.rain-2.mp4"
    assert plan.prepared.names_remark.startswith("There already, ")


def test_files_of_other_origin_are_never_replaced(clip: Path) -> None:
    for name in ("input.rain.mp4", "input.rain-2.png"):
        (clip.parent / name).write_text("mine")
    run(job(clip))
    assert (clip.parent / "input.rain-3.mp4").exists()
    assert (clip.parent / "input.rain.mp4").read_text() == "mine"


def test_weights_and_versions_count(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(job(clip))
    with monkeypatch.context() as patch:
        patch.setattr(NativeModel, "digests", lambda _: {"dit": "0" * 64})
        assert "other weights" in plan_run(prepare_run(job(clip))).prepared.names_remark
    monkeypatch.setattr(earlier, "__version__", "9.9")
    assert "another version" in plan_run(prepare_run(job(clip))).prepared.names_remark


def test_force_makes_the_same_again(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(job(clip))
    requests, _ = spy_on_grids(monkeypatch)
    assert not run(job(clip, force=True)).already_there
    assert requests
    assert made(clip.parent) == FIRST


def test_one_edit_of_several_that_is_there_moves_all(clip: Path) -> None:
    run(job(clip))
    result = run(job(clip, effects=("rain", "fog")))
    assert [path.name for path in result.files] == [
        "input.rain-2.mp4",
        "input.fog-2.mp4",
        "input.rain-fog-2.png",
        "input.rain-fog-2.json",
    ]
    assert run(job(clip, effects=("rain", "fog"))).already_there


def test_compositions_stories_and_reruns_are_found_too(clip: Path) -> None:
    folder = clip.parent
    shutil.copy(clip, folder / "b.mp4")
    two = ComposeJob(
        first=clip, second=folder / "b.mp4", model="tiny", dtype="fp32", duration_s=0.4
    )
    assert not run(two).already_there
    assert run(two).already_there
    assert run(replace(two, seed=5)).files[0].name == "input.b-2.fusion.mp4"
    story = story_job(folder, "rain", "fog", source=clip)
    assert not tell(story).already_there
    assert tell(story).already_there
    assert tell(replace(story, titles=True)).files[2].name == "tale.story-2.mp4"
    manifest = run(job(clip)).files[-1]
    assert not run(prepare_rerun(RerunJob(manifest=manifest))[0]).already_there
    again = run(prepare_rerun(RerunJob(manifest=manifest))[0])
    assert again.already_there
    assert again.same_pixels is True


def test_the_command_says_what_happens_with_names(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["edit", str(clip), "-e", "rain", "--model", "tiny", "--duration", "0.4"]
    assert main(command) == 0
    assert main([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "Already there, same settings: input.rain.mp4, input.rain.png" in shown
    assert main([*command, "--seed", "1", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "There already, made with other settings (--seed): input.rain.mp4" in shown
    assert "Files: input.rain-2.mp4, input.rain-2.png, input.rain-2.json" in shown
    assert main([*command, "--seed", "1", "--force", "--dry-run"]) == 0
    assert "Replaces: input.rain.mp4, input.rain.png" in capsys.readouterr().out
    assert made(clip.parent) == FIRST
    assert main([*command, "--seed", "1"]) == 0
    shown = capsys.readouterr()
    assert "other settings (--seed)" in shown.out
    assert f"wrote {clip.parent / 'input.rain-2.mp4'}" in shown.out
    assert main([*command, "--format", "json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["already_there"] is True
    assert value["files"][0] == str(clip)[:-4] + ".rain.mp4"
    assert made(clip.parent) == sorted(FIRST + SECOND)


def test_only_fields_that_exist_are_left_out_of_the_settings() -> None:
    known = {field.name for kind in (EditJob, ComposeJob, StoryJob) for field in fields(kind)}
    assert known >= earlier.NO_SETTINGS


def test_results_and_inputs_are_found_after_their_tree_has_moved(clip: Path) -> None:
    tree = clip.parent / "tree"
    (tree / "clips").mkdir(parents=True)
    source = Path(shutil.copy(clip, tree / "clips" / "walk.mp4"))
    first = run(job(source, out=tree / "results"))
    moved = clip.parent / "elsewhere" / "deeper"
    moved.parent.mkdir()
    tree.rename(moved)
    manifest = moved / "results" / first.files[-1].name
    prepared, _ = prepare_rerun(RerunJob(manifest=manifest))
    assert prepared.job.inputs == (moved / "clips" / "walk.mp4",)
    result = run(prepared)
    assert result.same_pixels is True
    assert result.files[0].parent == moved / "results"
    assert len(decoded(result.files[0])) == len(decoded(manifest.with_name("walk.rain.mp4")))
    assert run(job(moved / "clips" / "walk.mp4", out=moved / "results")).already_there


def test_an_input_that_was_replaced_is_looked_for_beside_the_manifest(clip: Path) -> None:
    first = run(job(clip))
    kept = clip.parent / "kept"
    kept.mkdir()
    shutil.copy(clip, kept)
    manifest = Path(shutil.copy(first.files[-1], kept))
    _flip(clip)
    prepared, _ = prepare_rerun(RerunJob(manifest=manifest))
    assert prepared.job.inputs == (kept / clip.name,)


def test_an_adapter_is_found_after_its_tree_has_moved(clip: Path) -> None:
    tree = clip.parent / "tree"
    tree.mkdir()
    source = Path(shutil.copy(clip, tree / "walk.mp4"))
    first = run(job(source))
    values = json.loads(first.files[-1].read_text())
    values["job"]["adapter"] = str(tree / "weights" / "own.safetensors")
    first.files[-1].write_text(json.dumps(values))
    moved = tree.rename(clip.parent / "moved")
    (moved / "weights").mkdir()
    (moved / "weights" / "own.safetensors").write_bytes(b"weights")
    prepared, _ = prepare_rerun(RerunJob(manifest=moved / first.files[-1].name))
    assert prepared.job.adapter == str(moved / "weights" / "own.safetensors")
