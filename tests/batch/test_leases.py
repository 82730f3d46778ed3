"""One owner a row, whatever dies, sleeps or has a wrong clock."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dcgrid.batch.leases import MAX_TRIES, GivenUp, Lease, Leases, Owner, this_process
from dcgrid.batch.store import FolderStore, RemoteStore, Store


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path)
    return RemoteStore(f"memory://{tmp_path.name}-{time.monotonic_ns()}")


def other_machine(number: int = 0) -> Owner:
    return Owner(host=f"node{number} boot", process=1, started="1")


def taken(leases: Leases) -> Lease:
    """Take the row and begin it."""
    lease = leases.take("row")
    assert isinstance(lease, Lease)
    leases.begin(lease)
    return lease


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def age(store: Store, lease: Lease, seconds: float) -> None:
    """Let a lease be as old as if it had not been touched for so long."""
    if isinstance(store, FolderStore):
        path = Path(store.location(lease.file))
        os.utime(path, (path.stat().st_mtime - seconds,) * 2)
    else:
        file = store._files.store[store._path(lease.file)]  # type: ignore[attr-defined]
        file.modified = file.modified.replace(year=file.modified.year - 1)


def test_one_of_many_takes_a_row(store: Store) -> None:
    found: list[Lease | GivenUp | None] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        leases = Leases(store, other_machine(number))
        start.wait()
        found.append(leases.take("row"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(one, Lease) for one in found) == 1
    assert sum(one is None for one in found) == 7


def test_a_lease_of_a_machine_that_is_gone_ends_by_age(store: Store) -> None:
    first = taken(Leases(store, other_machine(), 60))
    others = Leases(store, this_process(), 60)
    assert others.take("row") is None
    age(store, first, 61)
    second = others.take("row")
    assert isinstance(second, Lease)
    assert (second.number, second.tries) == (1, 2)
    # The first wakes up again and finds that the row is not its own.
    assert not Leases(store, other_machine(), 60).holds(first)
    assert others.holds(second)
    others.drop(second)
    assert store.names("claims") == []


def test_clocks_of_machines_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ages are by the file system, so a machine may be days behind or ahead."""
    store = FolderStore(tmp_path)
    assert isinstance(Leases(store, other_machine(), 60).take("row"), Lease)
    now = time.time()
    for days in (-3, 3):
        monkeypatch.setattr(time, "time", lambda days=days: now + days * 86_400)
        assert Leases(store, other_machine(1), 60).take("row") is None


def test_a_heartbeat_keeps_a_lease(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with Leases(store, other_machine(), 1.2) as leases:
        lease = leases.take("row")
        assert isinstance(lease, Lease)
        time.sleep(2)
        assert Leases(store, other_machine(1), 1.2).take("row") is None
        assert leases.holds(lease)


def test_what_is_released_is_free_at_once_and_does_not_count(store: Store) -> None:
    with Leases(store, other_machine()) as leases:
        assert isinstance(leases.take("row"), Lease)
    second = Leases(store, other_machine(1)).take("row")
    assert isinstance(second, Lease)
    assert second.tries == 1


def test_three_deaths_are_too_many(tmp_path: Path) -> None:
    """A worker that died while its starter lives counts; it need not be waited for."""
    store, dead = FolderStore(tmp_path), dead_process()
    here = this_process()
    for number in range(MAX_TRIES):
        owner = replace(here, process=dead, started="1", starter=os.getpid())
        assert taken(Leases(store, owner)).tries == number + 1
    found = Leases(store, here).take("row")
    assert isinstance(found, GivenUp)
    assert found.tries == MAX_TRIES
    assert str(dead) in found.owner.label  # type: ignore[union-attr]


def test_rows_that_were_only_taken_do_not_count(tmp_path: Path) -> None:
    """A worker takes a row ahead; if it dies meanwhile, it is not of that row."""
    store, owner = FolderStore(tmp_path), replace(this_process(), process=dead_process())
    for _ in range(MAX_TRIES + 2):
        lease = Leases(store, replace(owner, starter=os.getpid())).take("row")
        assert isinstance(lease, Lease)
        assert lease.tries == 1


def test_a_batch_that_was_killed_whole_does_not_count(tmp_path: Path) -> None:
    store, here = FolderStore(tmp_path), this_process()
    dead, starter = dead_process(), dead_process()
    for _ in range(MAX_TRIES + 2):
        owner = replace(here, process=dead, started="1", starter=starter)
        assert taken(Leases(store, owner)).tries == 1


def test_a_number_of_a_process_that_came_again_is_another_process(tmp_path: Path) -> None:
    store, here = FolderStore(tmp_path), this_process()
    assert isinstance(Leases(store, replace(here, started="7")).take("row"), Lease)
    assert isinstance(Leases(store, here).take("row"), Lease)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": 3}'])
def test_a_damaged_lease_ends_by_age(content: bytes, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("claims/row.0", content)
    leases = Leases(store, this_process(), 60)
    assert leases.take("row") is None
    os.utime(tmp_path / "claims" / "row.0", (0, 0))
    assert isinstance(leases.take("row"), Lease)
