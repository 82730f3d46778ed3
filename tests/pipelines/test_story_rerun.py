"""`rerun` of stories with `tiny`: the manifest alone is enough, and what differs is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dcgrid import hub
from dcgrid.cli.main import main
from dcgrid.errors import DeviceError, InputVideoError, UsageError, WeightsError
from dcgrid.pipelines import script
from dcgrid.pipelines.manifest import StoryManifest, read_manifest
from dcgrid.pipelines.rerun import RerunJob, prepare_rerun
from dcgrid.pipelines.run import RunResult
from tests.pipelines.runs import Silence, decoded, job, run, story_job, tell


def told(folder: Path, clip: Path | None, upsample: str = "none", **values: object) -> RunResult:
    """Tell a story of two grids, with titles and fades."""
    scenes = ("rain", "in a snowy street", "fog", "night", "smoke")
    settings = {"titles": True, "fade_s": 0.1, "upsample": upsample, **values}
    return tell(story_job(folder, *scenes, source=clip, **settings))


def again(manifest: Path, progress: Silence | None = None, **values: Any) -> RunResult:
    return tell(prepare_rerun(RerunJob(manifest=manifest, **values))[0], progress)


def changed(manifest: Path, *place: str | int, value: object) -> Path:
    """Write the manifest with another value at a place."""
    values = json.loads(manifest.read_text())
    table = values
    for key in place[:-1]:
        table = table[key]
    assert table[place[-1]] != value
    table[place[-1]] = value
    manifest.write_text(json.dumps(values))
    return manifest


@pytest.fixture(scope="module")
def story_manifest(tmp_path_factory: pytest.TempPathFactory, shared_clip: Path) -> str:
    """The manifest of a story, as text."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("story")
        patch.setenv("DCGRID_CACHE_DIR", str(folder / "cache"))
        return told(folder, shared_clip, seed=7).files[-1].read_text()


def written(folder: Path, manifest: str) -> Path:
    """Write a manifest into a folder of its own: a rerun needs nothing else."""
    path = folder / "tale.story.json"
    path.write_text(manifest)
    return path


@pytest.mark.parametrize("from_clip", [True, False])
def test_a_story_comes_out_the_same_from_its_manifest_alone(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, from_clip: bool
) -> None:
    first = told(tmp_path, clip if from_clip else None, upsample="guided", seed=7)
    # Recipes that changed since must not matter.
    for name in ("load_effect", "load_layout"):
        monkeypatch.setattr(script, name, None)
    second = again(first.files[-1])
    assert first.same_pixels is None
    assert second.same_pixels is True
    assert [path.name for path in second.files] == [
        "tale.1-rain.rerun.mp4",
        "tale.2-in-a-snowy-street.rerun.mp4",
        "tale.3-fog.rerun.mp4",
        "tale.4-night.rerun.mp4",
        "tale.5-smoke.rerun.mp4",
        "tale.story.rerun.mp4",
        "tale.story.rerun.png",
        "tale.story.rerun.json",
    ]
    for one, other in zip(first.files[:6], second.files[:6], strict=True):
        assert torch.equal(decoded(one), decoded(other))
    assert second.manifest.outputs[0].frames_sha256 == first.manifest.outputs[0].frames_sha256
    # And once more, from the manifest of the rerun.
    assert again(second.files[-1], force=True).same_pixels is True


def test_a_storys_manifest_can_be_read_back_whole(tmp_path: Path, clip: Path) -> None:
    result = told(tmp_path, clip, duration_s=0.4, start_s=0.1)
    manifest = read_manifest(result.files[-1])
    assert isinstance(manifest, StoryManifest)
    assert replace(manifest, created="") == replace(result.manifest, created="")
    assert manifest.job.titles is True
    assert manifest.job.scenes[1].prompt == "in a snowy street"


@pytest.mark.parametrize(
    ("place", "value", "other"),
    [
        (("grids", 0, "prompt", "text"), "snow for rain", "1-rain.*, the reel"),
        (("grids", 1, "edits", 0, "num_inference_steps"), 3, "4-night, 5-smoke, the reel"),
        (("job", "seed"), 8, "1-rain, .*, 5-smoke, the reel"),
        (("job", "fade_s"), 0.0, "the reel"),
        (("job", "titles"), False, "the reel"),
        (("job", "scenes", 0, "title"), "It pours", "the reel"),
        (("outputs", 0, "frames_sha256"), "0" * 64, "1-rain"),
    ],
)
def test_a_changed_manifest_is_noticed_by_other_pixels(
    tmp_path: Path,
    story_manifest: str,
    place: tuple[str | int, ...],
    value: object,
    other: str,
) -> None:
    manifest = written(tmp_path, story_manifest)
    if place[-1] == "text":
        # Segments are places in the text, so another one must be as long.
        text = json.loads(manifest.read_text())["grids"][0]["prompt"]["text"]
        value = text.replace("rain", "snow")
    changed(manifest, *place, value=value)
    with pytest.raises(DeviceError, match=f"other pixels in {other}$"):
        again(manifest)
    assert not list(tmp_path.glob("*rerun*"))


def test_other_pixels_are_written_where_that_is_forced(tmp_path: Path, story_manifest: str) -> None:
    manifest = changed(written(tmp_path, story_manifest), "job", "seed", value=8)
    progress = Silence()
    assert again(manifest, progress, force=True).same_pixels is False
    assert any("other pixels" in line for line in progress.warnings)


def test_the_clip_must_be_there_and_the_same(tmp_path: Path, clip: Path) -> None:
    manifest = told(tmp_path, clip).files[-1]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    moved = clip.rename(folder / "walk.mp4")
    with pytest.raises(InputVideoError, match=r"input\.mp4 does not exist"):
        again(manifest)
    assert again(manifest, inputs=(moved,)).same_pixels is True
    with pytest.raises(UsageError, match="2 times, the run had 1"):
        again(manifest, inputs=(moved, moved))
    moved.write_bytes(moved.read_bytes() + b"\0")
    with pytest.raises(InputVideoError, match="its hash differs"):
        again(manifest, inputs=(moved,))
    # The pixels of the clip are what they were; only its file is another.
    assert again(manifest, inputs=(moved,), force=True).same_pixels is True


def test_a_clip_is_found_beside_its_manifest_and_results_go_there(
    tmp_path: Path, clip: Path
) -> None:
    manifest = told(tmp_path, clip).files[-1]
    folder = tmp_path / "moved"
    folder.mkdir()
    clip.rename(folder / clip.name)
    result = again(manifest.rename(folder / manifest.name))
    assert {path.parent for path in result.files} == {folder}


def test_a_story_from_text_alone_has_no_input(tmp_path: Path, clip: Path) -> None:
    manifest = told(tmp_path, None).files[-1]
    with pytest.raises(UsageError, match="1 time, the run had 0"):
        again(manifest, inputs=(clip,))


def test_other_weights_are_refused(tmp_path: Path, story_manifest: str) -> None:
    manifest = written(tmp_path, story_manifest)
    prepared, _ = prepare_rerun(RerunJob(manifest=manifest))
    with pytest.raises(WeightsError, match="dit are not those of the manifest"):
        tell(replace(prepared, expected_weights={"dit": "0" * 64}))
    changed(manifest, "model", "weights", value={"dit": "0" * 64})
    with pytest.raises(WeightsError, match="dit are not those of the manifest"):
        again(manifest)
    assert again(manifest, force=True).same_pixels is True


def test_another_adapter_is_refused(
    tmp_path: Path, clip: Path, tiny_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = told(tmp_path, clip, adapter=str(tiny_adapter))
    assert list(first.manifest.model["adapters"]) == [str(tiny_adapter)]
    assert again(first.files[-1]).same_pixels is True
    changed(first.files[-1], "model", "adapters", str(tiny_adapter), value="0" * 64)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(WeightsError, match="adapter are not those of the manifest"):
        again(first.files[-1], out=elsewhere)
    assert not list(elsewhere.iterdir())


@pytest.fixture
def tiny_adapter(tmp_path: Path) -> Path:
    """An adapter for the tiny model that changes what it generates."""
    from dcgrid.adapters.attach import attach_adapter
    from dcgrid.adapters.files import save_adapter
    from dcgrid.adapters.spec import AdapterSpec
    from dcgrid.models.registry import find_model

    network = find_model("tiny").load().network
    name = next(n for n, m in network.named_modules() if isinstance(m, torch.nn.Linear))
    spec = AdapterSpec(name="x", stage="fill", rank=2, alpha=2.0, targets=(name,), base="tiny")
    attach_adapter(network, spec)
    path = tmp_path / "x.safetensors"
    save_adapter(network, spec, path)
    return path


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("format",), "dcgrid-story-1", "earlier dcgrid .dcgrid-story-1"),
        (("format",), "dcgrid-story-99", "not a run manifest"),
        (("job", "scenes"), [], "'job.scenes' needs at least 1 entry"),
        (("job", "scenes", 0, "prompt"), 3, "scenes.0.prompt' must be a string, not 3"),
        (("job", "name"), "../../tale", "'job.name' must be a file name"),
        (("job", "fade_s"), 11, "'job.fade_s' must be a number from 0 to 10"),
        (("job", "source"), None, "'inputs_sha256' must have a hash for each of 0"),
        (("job", "nonsense"), 1, "'job.nonsense' is unknown"),
        (("grids",), [], "damaged"),
        (("grids", 1, "given"), [], "edit_of_cell' does|given' does"),
        (("grids", 1, "edits", 0, "name"), "1-rain", "'grids' does not fit"),
        (("grids", 0, "mode"), "other", "mode' must be one of consistent, composition"),
        (("outputs",), [], "'outputs' does not fit"),
        (("machine", "threads"), 0, "'machine.threads' must be an integer from 1 to 1024"),
        (("model", "adapters"), [], "'model.adapters' does not fit"),
        (("machine", "threads"), 4096, "must be an integer from 1 to 1024, not 4096"),
        (("job", "candidates"), 10**9, "'job.candidates' must be an integer from 1 to 64"),
        (("job", "seed"), 10**400, "'job.seed' must be an integer"),
        (("samplers", 0, "noise_scale"), 1e308, "noise_scale' must be a number from 0.001 to 100"),
        (("grids", 0, "edits", 0, "noise_scale"), 1e308, "must be a number from 0.001 to 100"),
        (("job", "name"), "a\\b", "'job.name' must be a file name"),
        (("job", "name"), "a\0b", r"'job.name' holds the control character U\+0000"),
        (("job", "model"), "a\x1b[2Jb", r"'job.model' holds the control character U\+001B"),
        (("job", "source"), "/a\0b.mp4", r"'job.source' holds the control character U\+0000"),
        (("reel_sha256",), None, "'reel_sha256' must be a string, not None"),
    ],
)
def test_damaged_manifests_of_stories_are_refused_with_their_place(
    story_manifest: str, tmp_path: Path, place: tuple[str | int, ...], value: object, named: str
) -> None:
    path = written(tmp_path, story_manifest)
    if place == ("job", "nonsense"):
        values = json.loads(story_manifest)
        values["job"]["nonsense"] = value
        path.write_text(json.dumps(values))
    else:
        changed(path, *place, value=value)
    with pytest.raises(InputVideoError, match=named) as refused:
        read_manifest(path)
    assert refused.value.hint


def test_a_manifest_that_is_cut_short_is_refused(story_manifest: str, tmp_path: Path) -> None:
    path = tmp_path / "tale.json"
    for share in (0.0, 0.3, 0.99):
        path.write_text(story_manifest[: int(len(story_manifest) * share)])
        with pytest.raises(InputVideoError, match="not JSON"):
            read_manifest(path)


def test_the_command_tells_stories_and_runs_apart(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story, edit = told(tmp_path, clip).files[-1], run(job(clip)).files[-1]
    assert main(["rerun", str(story), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "Scenes: 5 of" in shown.out
    assert "Repeats a story of" in shown.err
    assert main(["rerun", str(story), "--format", "json", "--offline", "--quiet"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["same_pixels"] is True
    assert value["files"][0].endswith("tale.1-rain.rerun.mp4")
    assert main(["rerun", str(story)]) == 0
    shown = capsys.readouterr().out
    assert "already there, same settings" in shown
    assert "same pixels as the story it repeats" in shown
    assert main(["rerun", str(story), "--force"]) == 0
    assert "same pixels as the story it repeats" in capsys.readouterr().out
    assert main(["rerun", str(edit), "--out", str(tmp_path)]) == 0
    assert "same pixels as the run it repeats" in capsys.readouterr().out


def test_the_clip_is_hashed_once_a_run(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, real = [], hub.file_sha256

    def count(path: Path) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(hub, "file_sha256", count)
    manifests = [
        told(tmp_path, clip, duration_s=0.9).files[-1],
        run(job(clip, duration_s=0.9)).files[-1],
    ]
    assert [path.name for path in hashed].count(clip.name) == 2
    hashed.clear()
    again(manifests[0])
    run(prepare_rerun(RerunJob(manifest=manifests[1]))[0])
    assert [path.name for path in hashed].count(clip.name) == 2
