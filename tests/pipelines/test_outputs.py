import os
from pathlib import Path

import pytest

from dcgrid.errors import OutputError, UsageError
from dcgrid.io.atomic import StagedFiles
from dcgrid.pipelines.job import ComposeJob, EditJob
from dcgrid.pipelines.outputs import claimed, name_outputs


def job(folder: Path, **values: object) -> EditJob:
    source = folder / "a.clip.mp4"
    source.write_bytes(b"video")
    return EditJob(input=source, **values)  # type: ignore[arg-type]


def names(paths: object) -> list[str]:
    return [path.name for path in paths.all()]  # type: ignore[attr-defined]


def test_names_follow_input_and_edit(tmp_path: Path) -> None:
    paths = name_outputs(job(tmp_path), ["rain"], [3])
    assert names(paths) == ["a.clip.rain.mp4", "a.clip.rain.png", "a.clip.rain.json"]
    assert paths.manifest.parent == tmp_path


def test_every_try_and_the_grid_can_be_kept(tmp_path: Path) -> None:
    paths = name_outputs(job(tmp_path, keep="all", save_grid=True), ["rain", "fog"], [2, 1])
    assert names(paths) == [
        "a.clip.rain.mp4",
        "a.clip.rain.2.mp4",
        "a.clip.fog.mp4",
        "a.clip.rain-fog.png",
        "a.clip.rain-fog.grid.mp4",
        "a.clip.rain-fog.json",
    ]


def test_out_may_be_a_folder_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    paths = name_outputs(job(tmp_path, out=tmp_path / "out"), ["rain"], [3])
    assert paths.manifest == tmp_path / "out" / "a.clip.rain.json"
    paths = name_outputs(
        job(tmp_path, out=tmp_path / "wet.mp4", contact_sheet=False), ["rain"], [3], ".rerun"
    )
    assert names(paths) == ["wet.mp4", "wet.json"]


@pytest.mark.parametrize(
    ("out", "video"), [("new/place", "a.clip.rain.mp4"), ("new/place/wet.mp4", "wet.mp4")]
)
def test_a_folder_that_is_not_there_is_made_when_results_are_written(
    tmp_path: Path, out: str, video: str
) -> None:
    paths = name_outputs(job(tmp_path, out=tmp_path / out), ["rain"], [3])
    assert paths.videos == ((tmp_path / "new" / "place" / video,),)
    assert not (tmp_path / "new").exists()
    with claimed(job(tmp_path), paths), StagedFiles() as staged:
        staged.stage(paths.manifest).write_text("{}")
    assert not (tmp_path / "new").exists()
    with claimed(job(tmp_path), paths), StagedFiles() as staged:
        staged.stage(paths.manifest).write_text("{}")
        staged.commit()
    assert paths.manifest.read_text() == "{}"


def test_braces_in_a_file_name_stay(tmp_path: Path) -> None:
    (tmp_path / "{}{0}.mp4").write_bytes(b"video")
    paths = name_outputs(EditJob(input=tmp_path / "{}{0}.mp4"), ["rain"], [3])
    assert names(paths)[0] == "{}{0}.rain.mp4"


def test_what_appears_after_the_plan_is_not_replaced_without_force(tmp_path: Path) -> None:
    (tmp_path / "a.clip.rain.json").write_text("{}")
    paths = name_outputs(job(tmp_path), ["rain"], [3])
    with (
        pytest.raises(OutputError, match=r"a\.clip\.rain\.json exists already") as caught,
        claimed(job(tmp_path), paths),
    ):
        pass
    assert "again" in caught.value.hint
    with claimed(job(tmp_path, force=True), paths):
        assert len(list(tmp_path.glob(".*.lock"))) == len(paths.all())
    assert not list(tmp_path.glob(".*"))


def test_a_number_goes_into_every_name(tmp_path: Path) -> None:
    every = job(tmp_path, keep="all", save_grid=True)
    assert names(name_outputs(every, ["rain", "fog"], [2, 1], ".sdedit", 3)) == [
        "a.clip.rain.sdedit-3.mp4",
        "a.clip.rain.sdedit-3.2.mp4",
        "a.clip.fog.sdedit-3.mp4",
        "a.clip.rain-fog.sdedit-3.png",
        "a.clip.rain-fog.sdedit-3.grid.mp4",
        "a.clip.rain-fog.sdedit-3.json",
    ]
    single = job(tmp_path, out=tmp_path / "wet.mp4", contact_sheet=False)
    assert names(name_outputs(single, ["rain"], [3], "", 2)) == ["wet-2.mp4", "wet-2.json"]


def test_the_number_of_a_composition_is_not_that_of_a_fusion(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"video")
    two = ComposeJob(first=tmp_path / "a.mp4", second=tmp_path / "b.mp4", contact_sheet=False)
    assert names(name_outputs(two, ["fusion", "fusion-2"], [1, 1], "", 2)) == [
        "a.b-2.fusion.mp4",
        "a.b-2.fusion-2.mp4",
        "a.b-2.fusion.json",
    ]


def test_names_are_one_run_s_while_it_works(tmp_path: Path) -> None:
    """Another run that shares a file with it is refused, one that shares none is not."""
    rain = name_outputs(job(tmp_path), ["rain"], [3])
    both = name_outputs(job(tmp_path), ["rain", "fog"], [2, 1])
    fog = name_outputs(job(tmp_path), ["fog"], [3])
    with claimed(job(tmp_path), rain):
        for force in (False, True):
            with (
                pytest.raises(OutputError, match=r"rain\.mp4 is being written by another run"),
                claimed(job(tmp_path, force=force), both),
            ):
                pass
        with claimed(job(tmp_path), fog):
            pass
    with claimed(job(tmp_path), both):
        pass


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is an input"):
        name_outputs(job(tmp_path, out=tmp_path / "a.clip.mp4", force=True), ["rain"], [3])


@pytest.mark.parametrize(
    ("out", "message", "hint"),
    [
        ("a.clip.mp4/none", "cannot write into", "choose another folder"),
        ("x.webm", r"results are \.mp4 files", "x.mp4"),
    ],
)
def test_bad_places_are_refused(tmp_path: Path, out: str, message: str, hint: str) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        name_outputs(job(tmp_path, out=tmp_path / out), ["rain"], [3])
    assert hint in caught.value.hint


def test_one_file_cannot_hold_two_edits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one file for 2 results"):
        name_outputs(job(tmp_path, out=tmp_path / "x.mp4"), ["rain", "fog"], [2, 1])


def test_unwritable_folder_is_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match=r"cannot write into .* \(permission denied\)"):
        name_outputs(job(tmp_path), ["rain"], [3])


def test_staged_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    first, second = tmp_path / "a.mp4", tmp_path / "b.json"
    with StagedFiles() as staged:
        staged.stage(first).write_text("1")
        staged.stage(second).write_text("2")
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []
    with StagedFiles() as staged:
        for path in (first, second):
            part = staged.stage(path)
            assert part.suffix == path.suffix
            part.write_text(path.name)
        staged.commit()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.json"]


def test_a_failed_rename_takes_the_others_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def fail_on_json(source: Path, target: Path) -> None:
        if target.suffix == ".json":
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fail_on_json)
    with StagedFiles() as staged:
        for name in ("a.mp4", "b.json"):
            staged.stage(tmp_path / name).write_text("x")
        with pytest.raises(OutputError, match="no space left"):
            staged.commit()
    assert list(tmp_path.iterdir()) == []
