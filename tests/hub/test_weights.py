"""Single files against a small server of the hub's protocol; no test leaves this machine."""

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dcgrid import hub
from dcgrid.errors import NetworkError, WeightsError

PAYLOAD = bytes(range(256)) * 4096  # 1 MiB
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFERENCE = f"hf:someone/model@{COMMIT}/mini/dit.safetensors"


@dataclass
class FakeHub:
    """What the server does and what it was asked."""

    payload: bytes = PAYLOAD
    break_after: int | None = None
    endpoint: str = ""
    gets: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    etag = f'"{hashlib.sha256(PAYLOAD).hexdigest()}"'

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        if "/resolve/" in self.path:  # the client may ask for other things of its own
            self.hub.gets.append(self.headers.get("Range"))
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.path != f"/someone/model/resolve/{COMMIT}/mini/dit.safetensors":
            known_repo = self.path.startswith("/someone/model/")
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known_repo else "RepoNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        requested = self.headers.get("Range") or "bytes=0-"
        start = int(requested.removeprefix("bytes=").split("-")[0])
        rest = self.hub.payload[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        if start:
            total = len(self.hub.payload)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("ETag", self.etag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not body:
            return
        if self.hub.break_after is not None:
            self.wfile.write(rest[: self.hub.break_after])
            self.hub.break_after = None
            self.close_connection = True
            return
        self.wfile.write(rest)


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    state = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": state}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    # Read once by the client: an earlier test may have imported it offline.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", state.endpoint)
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(tmp_path / "cache"))
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name]


@pytest.mark.parametrize(
    ("text", "source", "repo", "revision", "path"),
    [
        ("package:mini/dit.safetensors", "package", "", "", "mini/dit.safetensors"),
        ("hf:a/b@v1/c/d.safetensors", "hub", "a/b", "v1", "c/d.safetensors"),
        ("hf:a/b/c.safetensors", "hub", "a/b", "main", "c.safetensors"),
        ("hf:a/b", "hub", "a/b", "main", ""),
        ("hf:a/b@v1", "hub", "a/b", "v1", ""),
        ("./my.safetensors", "file", "", "", "./my.safetensors"),
    ],
)
def test_references_are_read(text: str, source: str, repo: str, revision: str, path: str) -> None:
    found = hub.parse_reference(text)
    assert (found.source, found.repo, found.revision, found.path) == (source, repo, revision, path)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "package:",
            "package:../x",
            "package:/x",
            "package:a\\b",
            "hf:a",
            "hf:a/b@",
            "hf:a/b@v1/",
        ),
        *("hf:a/b@main/..\\..\\x", "hf:a/b@main//etc/passwd", "hf:a/b@main/a\0b", "hf:a/b@../x"),
        *(
            "hf:a/b@..\\x/y",
            "hf:a/b/c:/x",
            "hf:a/b/./x",
            "hf:a/b/x/",
            "hf:a/b@v\x1b/x",
            "hf:../b/x",
        ),
    ],
)
def test_incomplete_references_are_refused(text: str) -> None:
    with pytest.raises(WeightsError, match="incomplete") as caught:
        hub.parse_reference(text)
    assert "hf:OWNER/REPO" in caught.value.hint


def test_download_arrives_whole_and_is_cached(fake_hub: FakeHub) -> None:
    seen: list[tuple[str, int, int | None]] = []
    digest = hashlib.sha256(PAYLOAD).hexdigest()
    path = hub.fetch_weights(
        REFERENCE, sha256=digest, report=lambda name, done, total: seen.append((name, done, total))
    )
    assert path.read_bytes() == PAYLOAD
    assert seen[-1] == ("mini/dit.safetensors", len(PAYLOAD), len(PAYLOAD))
    assert hub.locate_weights(REFERENCE) == path
    again = hub.fetch_weights(REFERENCE, sha256=digest, offline=True)
    assert again == path
    assert len(fake_hub.gets) == 1


def test_broken_connection_is_taken_up_where_it_broke(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client keeps what arrived in whole pieces; by default a piece is larger than this file.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 65_536)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    fake_hub.break_after = 300_000
    path = hub.fetch_weights(REFERENCE, sha256=hashlib.sha256(PAYLOAD).hexdigest())
    assert path.read_bytes() == PAYLOAD
    assert fake_hub.gets[0] is None
    assert fake_hub.gets[1] is not None
    assert 0 < int(fake_hub.gets[1].removeprefix("bytes=").rstrip("-")) <= 300_000


def test_bad_hash_is_refused_and_not_kept(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.payload = PAYLOAD[:-1] + b"!"
    with pytest.raises(WeightsError, match="SHA-256") as caught:
        hub.fetch_weights(REFERENCE, sha256=hashlib.sha256(PAYLOAD).hexdigest())
    assert "removed" in caught.value.hint
    assert hub.locate_weights(REFERENCE) is None
    left = [path for path in files_under(tmp_path / "cache") if path.stat().st_size > 100_000]
    assert left == []


FLIPPED = PAYLOAD[:1000] + bytes([PAYLOAD[1000] ^ 4]) + PAYLOAD[1001:]


@pytest.mark.parametrize("links", [True, False])
def test_a_flipped_bit_is_refused_without_a_pin_and_not_kept(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        # As on Windows, where a snapshot holds the files themselves.
        monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda _: False)
    fake_hub.payload = FLIPPED
    for _ in range(2):
        with pytest.raises(WeightsError, match="is damaged: its SHA-256 is"):
            hub.fetch_weights(REFERENCE)
        assert hub.locate_weights(REFERENCE) is None
    assert not [path for path in files_under(tmp_path / "cache") if path.stat().st_size > 1000]
    fake_hub.payload = PAYLOAD
    path = hub.fetch_weights(REFERENCE)
    assert path.read_bytes() == PAYLOAD
    assert path.is_symlink() is links


def test_a_file_that_spoils_in_the_cache_is_fetched_again(fake_hub: FakeHub) -> None:
    path = hub.fetch_weights(REFERENCE)
    path.resolve().write_bytes(FLIPPED)
    assert hub.fetch_weights(REFERENCE).read_bytes() == PAYLOAD
    path.resolve().write_bytes(FLIPPED)
    with pytest.raises(WeightsError, match="is damaged"):
        hub.fetch_weights(REFERENCE, offline=True)
    assert hub.locate_weights(REFERENCE) is None


def test_a_file_without_a_hash_is_not_kept(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "etag", '"7-abc"')
    with pytest.raises(WeightsError, match="names no hash"):
        hub.fetch_weights(REFERENCE)
    assert hub.locate_weights(REFERENCE) is None
    assert not [path for path in files_under(tmp_path / "cache") if path.stat().st_size > 1000]


def test_offline_and_not_cached_says_how_to_go_on(fake_hub: FakeHub) -> None:
    with pytest.raises(NetworkError, match="network is off") as caught:
        hub.fetch_weights(REFERENCE, offline=True)
    assert "--offline" in caught.value.hint
    assert fake_hub.gets == []


def test_environment_turns_the_network_off(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.download_bytes(REFERENCE) is None
    with pytest.raises(NetworkError, match="network is off"):
        hub.fetch_weights(REFERENCE)
    assert fake_hub.gets == []


def test_unreachable_server_is_a_network_error(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client waits between its tries
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match="failed"):
        hub.fetch_weights(REFERENCE)
    assert files_under(tmp_path / "cache") == []


def test_missing_file_and_repository_are_told_apart(fake_hub: FakeHub) -> None:
    with pytest.raises(WeightsError, match=r"no file .other\.safetensors."):
        hub.fetch_weights(f"hf:someone/model@{COMMIT}/other.safetensors")
    with pytest.raises(NetworkError, match="no repository 'nobody/else'"):
        hub.fetch_weights(f"hf:nobody/else@{COMMIT}/other.safetensors")


def test_download_size_is_asked_without_downloading(fake_hub: FakeHub) -> None:
    assert hub.download_bytes(REFERENCE) == len(PAYLOAD)
    assert fake_hub.gets == []
    assert hub.download_bytes("package:mini/none.safetensors") == 0


def test_local_file_is_checked_but_never_deleted(tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"abc")
    assert hub.fetch_weights(str(mine), sha256=hub.file_sha256(mine)) == mine
    with pytest.raises(WeightsError, match="SHA-256"):
        hub.fetch_weights(str(mine), sha256="0" * 64)
    assert mine.exists()


def test_missing_local_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        hub.fetch_weights(str(tmp_path / "none.safetensors"))


def test_folders_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DCGRID_CONFIG_DIR", str(tmp_path / "config"))
    assert hub.config_dir() == tmp_path / "config"
    monkeypatch.delenv("DCGRID_CONFIG_DIR")
    assert hub.config_dir().name == "dcgrid"


def test_file_sha256_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hub.file_sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")
