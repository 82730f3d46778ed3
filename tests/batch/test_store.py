"""A folder and an object store hold the same: whole files, created once, with ages."""

from pathlib import Path

import pytest

from dcgrid.batch.store import FolderStore, RemoteStore, Store, open_store
from dcgrid.errors import BatchError, OutputError


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    place = str(tmp_path / "out") if request.param == "folder" else f"memory://{tmp_path.name}/out"
    return open_store(place)


def test_files_are_written_read_and_removed(store: Store, tmp_path: Path) -> None:
    assert store.read("items/a/x.json") is None
    assert store.names("items/a") == []
    store.write("items/a/x.json", b"1")
    assert store.create("items/a/x.json", b"2") is False
    assert store.create("items/a/y.json", b"3") is True
    made = tmp_path / "made"
    made.write_bytes(b"4")
    store.put(made, "items/a/x.json")
    assert not made.exists()
    assert store.read("items/a/x.json") == b"4"
    assert sorted(store.names("items/a")) == ["x.json", "y.json"]
    assert store.exists("items/a/y.json")
    store.remove("items/a/y.json")
    store.remove("items/a/y.json")
    assert not store.exists("items/a/y.json")
    assert store.age_s("items/a/y.json") is None
    age_s = store.age_s("items/a/x.json")
    assert age_s is not None
    assert 0 <= age_s < 30
    store.touch("items/a/none.json")
    assert not store.exists("items/a/none.json")
    assert store.names("claims") == []
    assert store.scratch().is_dir()


def test_storage_that_overwrites_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")

    def careless(self, path, value, mode="overwrite"):  # type: ignore[no-untyped-def]
        self.open(path, "wb", data=value)

    monkeypatch.setattr(memory.MemoryFileSystem, "pipe_file", careless)
    with pytest.raises(BatchError, match="cannot create a file only where there is none"):
        open_store("memory://careless")


@pytest.mark.parametrize(
    ("place", "part"), [("s4://bucket/x", "s4"), ("file:///proc/nothing/here", "cannot be")]
)
def test_storage_that_is_not_there_is_refused(place: str, part: str) -> None:
    with pytest.raises(BatchError, match=part):
        open_store(place)


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        open_store(str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot write"):
        open_store(str(tmp_path / "file" / "inner"))
    assert isinstance(open_store(str(tmp_path)), FolderStore)
    assert isinstance(open_store("memory://x"), RemoteStore)
