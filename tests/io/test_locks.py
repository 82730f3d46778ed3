import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dcgrid.errors import OutputError
from dcgrid.io.locks import LOCK_NAME, run_lock

HOLD = (
    "import sys, pathlib\nfrom dcgrid.io.locks import run_lock\n"
    "with run_lock(pathlib.Path(sys.argv[1])):\n print('held', flush=True)\n sys.stdin.read()\n"
)


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_run_is_alone_and_says_who_it_is(tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK_NAME).read_text() == f"{os.getpid()}\n"
        with pytest.raises(OutputError, match=f"another run.*process {os.getpid()}"):
            run_lock(tmp_path / "run").__enter__()
        with run_lock(tmp_path / "run", "other"):
            pass
    assert list((tmp_path / "run").iterdir()) == []


def test_another_process_is_named_each_time(tmp_path: Path) -> None:
    holder = start(tmp_path)
    try:
        for _ in range(2):
            with (
                pytest.raises(OutputError, match=rf"x is taken \(process {holder.pid}\)"),
                run_lock(tmp_path, held="x is taken"),
            ):
                raise AssertionError
    finally:
        holder.communicate("")
    with run_lock(tmp_path):
        pass


def test_a_killed_run_leaves_no_lock_and_its_parts_go_at_once(tmp_path: Path) -> None:
    holder = start(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / LOCK_NAME).exists()
    left = tmp_path / f".state.{holder.pid}-0123abcd.part.safetensors"
    left.touch()
    with run_lock(tmp_path, "name of one file"):
        assert left.exists()
    with run_lock(tmp_path):
        assert not left.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError), run_lock(tmp_path / "run"):
        raise AssertionError
