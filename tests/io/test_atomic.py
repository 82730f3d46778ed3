import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dcgrid.errors import OutputError
from dcgrid.io.atomic import (
    ABANDONED_S,
    StagedFiles,
    refused,
    remove_abandoned,
    whole_file,
    whole_folder,
    write_whole,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run_killed(folder: Path, code: str) -> None:
    """Run a writer that kills itself with -9 in the middle."""
    begin = f"import os, signal\nfrom pathlib import Path\nfolder = Path({str(folder)!r})\n"
    begin += "from dcgrid.io.atomic import *\nfrom dcgrid.io.locks import run_lock\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", begin + code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


KILL = "os.kill(os.getpid(), signal.SIGKILL)\n"
WRITERS = {
    "file": f"with whole_file(folder / 'a.mp4') as part:\n part.write_text('half')\n {KILL}",
    "staged": f"with StagedFiles() as s:\n s.stage(folder / 'a.mp4').write_text('half')\n {KILL}",
    "folder": f"with whole_folder(folder / 'a') as part:\n (part / 'x').write_text('1')\n {KILL}",
}


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"

    def fail() -> None:
        with whole_file(path) as part:
            assert part.suffix == ".mp4"
            assert part.parent == tmp_path
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(tmp_path) == []
    with whole_file(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert names(tmp_path) == ["a.mp4"]
    assert path.read_text() == "whole"


def test_the_file_has_the_rights_that_others_have(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "a", "text \N{SNOWMAN}")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "new" / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    assert (tmp_path / "new" / "a").read_text(encoding="utf-8") == "text \N{SNOWMAN}"


def test_a_name_taken_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def race() -> None:
        with whole_file(path, overwrite=False) as part:
            part.write_text("ours")
            path.write_text("theirs")

    with pytest.raises(OutputError, match="exists already"):
        race()
    assert path.read_text() == "theirs"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("missing/a", "the folder .*missing does not exist"),
        ("folder", "is a folder"),
        ("x" * 300, "name too long"),
    ],
)
def test_a_place_where_no_file_can_go(tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=message) as caught, whole_file(tmp_path / target):
        raise AssertionError("refused before any work")
    assert caught.value.hint
    assert names(tmp_path) == ["folder"]


def test_an_error_of_the_disk_becomes_a_sentence(tmp_path: Path) -> None:
    class Foreign(Exception):  # noqa: N818 - as FFmpeg's, which are no OSError
        errno, strerror = errno.ENOSPC, "No space left on device"

    with (
        pytest.raises(OutputError, match=r"cannot write .*a \(no space left") as caught,
        whole_file(tmp_path / "a"),
    ):
        raise Foreign
    assert "df -h" in caught.value.hint
    with pytest.raises(OutputError) as caught, whole_file(tmp_path / "a", hint="pray"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.hint == "pray"
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["write", "staged", "folder"])
def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """The limit on the size of files stands in for the disk: write() fails half-way."""
    content = b"x" * 3_000_000
    (tmp_path / "a").write_text("earlier")

    def staged() -> None:
        with StagedFiles() as files:
            files.stage(tmp_path / "a").write_bytes(b"new")
            files.stage(tmp_path / "b").write_bytes(content)
            files.commit()

    def folder() -> None:
        with whole_folder(tmp_path / "c") as part:
            (part / "x").write_bytes(content)

    writers: dict[str, Callable[[], None]] = {
        "write": lambda: write_whole(tmp_path / "a", content), "staged": staged, "folder": folder,
    }  # fmt: skip
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises((OutputError, OSError), match=r"(?i)file too large"):
            writers[kind]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "earlier"


def test_a_failed_commit_brings_back_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mp4").write_text("earlier")
    rename = os.replace

    def fail_on_json(source: Path, target: Path) -> None:
        if target.suffix == ".json":
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fail_on_json)
    with StagedFiles() as staged:
        for name in ("a.mp4", "new.mp4", "b.json"):
            staged.stage(tmp_path / name).write_text("x")
        with pytest.raises(OutputError, match=r"cannot write .*b\.json \(no space left"):
            staged.commit()
    assert names(tmp_path) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_text() == "earlier"


def test_a_folder_is_replaced_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "study"
    for content in ("1", "2"):
        with whole_folder(target) as part:
            (part / content).write_text(content)
        assert names(tmp_path) == ["study"]
        assert names(target) == [content]
    rename = os.replace

    def fail(source: Path, goal: Path) -> None:
        if ".part" in Path(source).name:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, goal)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="input/output error"), whole_folder(target) as part:
        (part / "3").write_text("3")
    assert names(tmp_path) == ["study"]
    assert names(target) == ["2"]


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_kill_left_goes_when_it_is_old(tmp_path: Path, kind: str) -> None:
    run_killed(tmp_path, WRITERS[kind])
    (left,) = names(tmp_path)
    assert ".part" in left
    write_whole(tmp_path / "b", "")
    assert names(tmp_path) == [left, "b"]  # it may be another machine's
    old = time.time() - ABANDONED_S - 1
    os.utime(tmp_path / left, (old, old))
    write_whole(tmp_path / "b", "")
    assert names(tmp_path) == ["b"]


def test_only_what_nobody_writes_is_removed(tmp_path: Path) -> None:
    kept = {
        f".a.{os.getpid()}-0123abcd.part.mp4",  # this process may be at it
        ".a.part", "film.part", ".hidden.mp4", "a.0123abcd.part", ".a.0123abcd.part.d.mp4",
    }  # fmt: skip
    gone = {".a.0123abcd.part.mp4", ".report.99999999999-0123abcd.part", ".x.4-01234567.old"}
    for name in kept | gone:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    dead = next(n for n in range(2**22 - 1, 1, -1) if not Path(f"/proc/{n}").exists())
    (tmp_path / ".x.4-01234567.old").rename(tmp_path / f".x.{dead}-01234567.old")
    remove_abandoned(tmp_path)
    assert set(names(tmp_path)) == kept
    remove_abandoned(tmp_path / "missing")


def test_errors_name_results_and_not_their_parts(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    part = tmp_path / ".item.12-0123abcd.part" / ".a.b.12-89abcdef.part.png"
    error = refused(part, full)
    assert (
        error.message == f"cannot write {tmp_path / 'item' / 'a.b.png'} (no space left on device)"
    )
    assert error.hint == f"free some space: `df -h {tmp_path}`"
