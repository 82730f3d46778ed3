"""Rows by one worker in this process: results, resuming, failures, memory, disks, other plans."""

import errno
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dcgrid
from dcgrid.api import Session
from dcgrid.batch import worker
from dcgrid.batch.store import open_store
from dcgrid.batch.worker import work
from dcgrid.errors import BatchError, DeviceError, OutputError
from dcgrid.io.progress import NullProgress
from tests.batch.batches import (
    SMALL,
    copies,
    leftovers,
    pixels,
    plan_of,
    run,
    task_of,
    write_jobs,
)
from tests.pipelines.runs import Silence


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Rows that are run, by input and seed."""
    names: list[str] = []
    real = Session.run_job

    def counted(self, job, progress):  # type: ignore[no-untyped-def]
        names.append(f"{job.inputs[0].name} {job.seed}")
        return real(self, job, progress)

    monkeypatch.setattr(Session, "run_job", counted)
    return names


def test_a_batch_has_the_pixels_of_single_edits_and_is_done_once(
    clip: Path, tmp_path: Path, ran: list[str]
) -> None:
    rows = [{"seed": 0, "name": "first"}, {"effects": ["fog", "night"], "seed": 1}]
    jobs, out = write_jobs(clip, rows), tmp_path / "out"
    done = run(jobs, out)
    assert [(row["status"], row["name"]) for row in done.rows] == [("done", "first"), ("done", "")]
    alone = dcgrid.edit(clip, ["fog", "night"], seed=1, out=tmp_path / "alone", **SMALL)
    found = pixels(open_store(str(out)), done)
    assert found[1] == [one["frames_sha256"] for one in alone.manifest["outputs"]]
    for name in done.rows[1]["outputs"]:
        assert (out / name).is_file()
    lines = (out / "index.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(done.rows)
    assert leftovers(out) == []
    before = {path: path.stat().st_mtime_ns for path in (out / "items").rglob("*")}
    ran.clear()
    assert run(jobs, out).count("done") == 2
    assert ran == []
    assert {path: path.stat().st_mtime_ns for path in (out / "items").rglob("*")} == before


def test_a_result_that_was_changed_is_made_anew(clip: Path, tmp_path: Path, ran: list[str]) -> None:
    jobs, out = write_jobs(clip, [{"seed": 0}, {"seed": 1}]), tmp_path / "out"
    first = run(jobs, out)
    (video,) = first.rows[0]["outputs"]
    good = (out / video).read_bytes()
    (out / video).write_bytes(good[:-9])
    ran.clear()
    progress = Silence()
    second = run(jobs, out, progress=progress)
    assert ran == ["input.mp4 0"]
    assert "results have changed" in progress.warnings[0]
    store = open_store(str(out))
    assert pixels(store, first) == pixels(store, second)


def test_a_bad_clip_is_one_row(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = copies(clip, 3)
    rows = [{"input": name, "seed": seed} for seed, name in enumerate(names)]
    jobs, out = write_jobs(clip, rows), tmp_path / "out"
    real = Session.run_job

    def broken(self, job, progress):  # type: ignore[no-untyped-def]
        if job.inputs[0].name == names[1]:
            raise ValueError("of a bug\nin two lines")
        return real(self, job, progress)

    monkeypatch.setattr(Session, "run_job", broken)
    progress = Silence()
    done = run(jobs, out, progress=progress)
    by_name = {Path(row["inputs"][0]).name: row for row in done.rows}
    assert by_name[names[1]]["status"] == "failed"
    assert "internal error: of a bug" in by_name[names[1]]["error"]
    assert any(f"{jobs}:2" in line for line in progress.warnings)
    error = json.loads((out / "items" / by_name[names[1]]["id"] / "error.json").read_text())
    assert (error["kind"], error["exit_code"], error["tries"]) == ("ValueError", 1, 1)
    assert done.count("done") == 2
    monkeypatch.setattr(Session, "run_job", real)
    assert run(jobs, out).count("failed") == 1
    again = run(jobs, out, retry_failed=True)
    assert again.count("done") == 3
    assert not list(out.rglob("error.json"))


def test_equal_jobs_on_equal_clips_are_one(clip: Path, tmp_path: Path) -> None:
    """Two rows with one output: the second would be found done."""
    jobs = write_jobs(clip, [{"seed": 0}, {"seed": 1}, {"num_inference_steps": 1}])
    with pytest.raises(BatchError, match=rf"jobs.jsonl:3: the same job as {jobs}:1"):
        plan_of(jobs, tmp_path / "out")
    (name,) = copies(clip, 1)
    jobs = write_jobs(clip, [{"seed": 0}, {"input": name}])
    with pytest.raises(BatchError, match="the same job as"):
        plan_of(jobs, tmp_path / "out")


def test_the_id_names_all_that_decides_a_result(clip: Path, tmp_path: Path) -> None:
    def id_of(**row: Any) -> str:
        return plan_of(write_jobs(clip, [row]), tmp_path / "out").items[0].id

    usual = id_of()
    assert usual == id_of(name="other", seed=0)
    others = [
        {"seed": 1},
        {"prompt": "made of glass"},
        {"effects": ["night"]},
        {"subject": "a cat"},
        {"start": 0.1},
        {"duration": 0.3},
        {"num_inference_steps": 2},
        {"guidance_scale": 3.0},
        {"keep": "all"},
        {"upsample": "plain"},
        {"dtype": "bf16"},
        {"contact_sheet": True},
    ]
    ids = [id_of(**row) for row in others]
    assert len({usual, *ids}) == 1 + len(others)
    with clip.open("ab") as stream:
        stream.write(b"\0" * 8)
    assert id_of() != usual


def test_checks_name_every_problem_before_anything_is_begun(clip: Path, tmp_path: Path) -> None:
    (clip.parent / "empty.mp4").write_bytes(b"")
    rows = [
        {},
        {"input": "gone.mp4"},
        {"effects": ["rian"]},
        {"input": "empty.mp4"},
        {"sed": 3},
        {"model": "minni"},
        {"start": 99.0},
        {"prompt": "a {b"},
        {"size": "33x7"},
    ]
    jobs, out = write_jobs(clip, rows), tmp_path / "out"
    with pytest.raises(BatchError) as caught:
        plan_of(jobs, out)
    lines = caught.value.message.split("\n")
    named = {line.removeprefix(f"{jobs}:").split(":")[0] for line in lines if str(jobs) in line}
    assert {"2", "3", "4", "5", "6", "7", "9"} <= named
    assert "1" not in named
    assert any("gone.mp4 does not exist" in line for line in lines)
    assert not out.exists()


def test_a_folder_of_another_batch_is_refused(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(write_jobs(clip, [{"seed": 0}]), out)
    with pytest.raises(BatchError, match="another batch: 1 row, of which 1 are among the 2"):
        run(write_jobs(clip, [{"seed": 0}, {"seed": 1}]), out)
    (out / "plan.json").write_text("{}")
    with pytest.raises(BatchError, match="not a plan of format"):
        run(write_jobs(clip, [{"seed": 0}]), out)


def test_no_more_rows_are_begun_after_too_many_failures(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self, job, progress):  # type: ignore[no-untyped-def]
        raise DeviceError("gone")

    jobs, out = write_jobs(clip, [{"seed": n} for n in range(5)]), tmp_path / "out"
    monkeypatch.setattr(Session, "run_job", broken)
    done = run(jobs, out, max_failures=2)
    assert done.is_stopped
    assert 2 <= done.count("failed") <= 3  # the next one is taken while one runs
    assert done.count("open") >= 2


def test_memory_that_runs_out_takes_the_next_setting(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    real = Session.run_job

    def full(self, job, progress):  # type: ignore[no-untyped-def]
        tried.append(job.offload)
        if job.offload != "block":
            raise DeviceError("wan ran out of memory") from MemoryError()
        return real(self, replace(job, offload="auto"), progress)

    monkeypatch.setattr(Session, "run_job", full)
    monkeypatch.setattr(worker, "is_small", lambda _: False)
    out = tmp_path / "out"
    done = run(write_jobs(clip, [{}]), out)
    assert done.count("done") == 1, done.rows
    assert tried == ["auto", "model", "block"]
    tried.clear()
    monkeypatch.setattr(worker, "is_small", lambda _: True)
    done = run(write_jobs(clip, [{"seed": 1}]), tmp_path / "small")
    assert tried == ["auto"]
    assert "ran out of memory" in done.rows[0]["error"]


def test_a_full_disk_stops_the_batch_and_fails_no_row(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self, path, name):  # type: ignore[no-untyped-def]
        raise OutputError("cannot write (no space left)") from OSError(errno.ENOSPC, "full")

    jobs, out = write_jobs(clip, [{"seed": 0}, {"seed": 1}]), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("dcgrid.batch.store.FolderStore.put", full)
        with pytest.raises(OutputError, match="no space left"):
            run(jobs, out)
    assert not list(out.rglob("error.json"))
    assert run(jobs, out).count("done") == 2
    assert leftovers(out) == []


def test_two_drivers_share_a_folder(clip: Path, tmp_path: Path, ran: list[str]) -> None:
    jobs, out = write_jobs(clip, [{"seed": n} for n in range(4)]), tmp_path / "out"
    serial = run(jobs, tmp_path / "serial")
    ran.clear()
    found = []
    threads = [threading.Thread(target=lambda: found.append(run(jobs, out))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == [f"input.mp4 {n}" for n in range(4)]
    last = run(jobs, out)
    assert last.count("done") == 4
    expected = pixels(open_store(str(tmp_path / "serial")), serial)
    assert pixels(open_store(str(out)), last) == expected


def test_an_object_store_holds_the_same(clip: Path, tmp_path: Path) -> None:
    jobs, place = write_jobs(clip, [{"seed": 0}, {"seed": 1}]), f"memory://{tmp_path.name}/batch"
    done = run(jobs, place)
    folder = run(jobs, tmp_path / "folder")
    found = pixels(open_store(place), done)
    assert found == pixels(open_store(str(tmp_path / "folder")), folder)
    assert run(jobs, place).count("done") == 2
    store = open_store(place)
    assert {one.split(".")[-1] for one in store.names(f"items/{done.rows[0]['id']}")} == {
        "mp4",
        "json",
    }
    assert store.names("claims") == []


def test_a_worker_without_a_plan_says_so(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"plan.json is not there"):
        work(task_of(tmp_path), NullProgress())
