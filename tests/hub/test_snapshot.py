"""Whole models against a small hub; no test leaves this machine."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from dcgrid import hub
from dcgrid.errors import DcgridError, NetworkError, OutputError, UsageError, WeightsError
from dcgrid.hub import client, known_models
from tests.hub.conftest import UNPINNED, patch_sleep
from tests.hub.server import SECRET, Fault, Hub, git_blob, safetensors_bytes

NAME = "wan2.2-5b"
REPO = hub.MODELS[NAME].repo
SHARD = "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"
UNWANTED = (".gitattributes", "README.md", "examples/cat.jpg", "Wan2.2_VAE.pth")
PICKLED = "text_encoder/pytorch_model.bin"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_WAIT_S", 0.01)
    # The client's own waits, and its pieces: what has arrived of one is lost at a cut.
    patch_sleep(monkeypatch, lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)


def files_in(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def wanted(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: files[path] for path in files if path not in (*UNWANTED, PICKLED)}


def blobs(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("blobs/*"))


def test_a_model_arrives_whole_and_is_found_again(
    fake_hub: Hub, model_files: dict[str, bytes]
) -> None:
    commit = fake_hub.add(REPO, model_files)
    seen: list[tuple[str, int, int | None]] = []
    assert hub.locate_model(NAME) is None
    path = hub.fetch_model(NAME, report=lambda *told: seen.append(told))
    assert files_in(path) == wanted(model_files)
    total = sum(map(len, wanted(model_files).values()))
    assert seen[-1] == (NAME, total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert hub.locate_model(NAME) == path
    asked = len(fake_hub.requests)
    assert hub.fetch_model(NAME, offline=True) == path
    assert len(fake_hub.requests) == asked
    # Oracle: the hub's own client finds what it would have put there.
    theirs = huggingface_hub.try_to_load_from_cache(REPO, SHARD, cache_dir=hub.hub_dir())
    assert theirs == str(path / SHARD)
    scan = huggingface_hub.scan_cache_dir(hub.hub_dir())
    (repo,) = scan.repos
    assert (repo.size_on_disk, scan.warnings) == (total, [])
    assert {one.commit_hash: one.refs for one in repo.revisions} == {commit: {"main"}}


def test_what_it_would_cost_is_known_before(
    fake_hub: Hub, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(map(len, wanted(model_files).values()))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    unknown = hub.ModelDownload(bytes_left=None, bytes_all=None, files=None, license="Apache-2.0")
    assert hub.model_download(NAME) == unknown
    assert fake_hub.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert hub.model_download(NAME) == unknown  # the hub has no such repository
    fake_hub.add(REPO, model_files, license="mit")
    first = hub.model_download(NAME)
    count = len(wanted(model_files))
    assert first == hub.ModelDownload(bytes_left=total, bytes_all=total, files=count, license="mit")
    assert fake_hub.asked("GET /Wan-AI") == []
    hub.fetch_model(NAME)
    assert hub.model_download(NAME).bytes_left == 0


def test_a_cut_connection_is_taken_up_where_it_broke(
    fake_hub: Hub, model_files: dict[str, bytes]
) -> None:
    fake_hub.add(REPO, model_files)
    # Six cuts are more than it tries without getting anywhere: each one brings some bytes.
    fake_hub.faults = [Fault("GET /cdn", cut_after=150_000, times=6)]
    path = hub.fetch_model(NAME)
    assert files_in(path) == wanted(model_files)
    assert [one for one in fake_hub.asked("cdn") if one is not None]


def test_what_a_killed_download_has_of_whole_files_is_kept(
    fake_hub: Hub, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = fake_hub.add(REPO, model_files)
    fake_hub.faults = [Fault(f"GET /cdn/{REPO}/{SHARD}", cut_after=400_000, wait_s=60)]
    script = f"{UNPINNED}from dcgrid import hub; hub.fetch_model({NAME!r})"
    running = subprocess.Popen([sys.executable, "-c", script])
    large = {path for path in wanted(model_files) if path.endswith(".safetensors")} - {SHARD}
    others = {hashlib.sha256(model_files[path]).hexdigest() for path in large}
    deadline = time.monotonic() + 60
    mine = f"{hashlib.sha256(model_files[SHARD]).hexdigest()}.*.incomplete"
    while time.monotonic() < deadline:
        if others <= set(blobs(tmp_path)) and list(tmp_path.rglob(mine)):
            break
        time.sleep(0.02)
    running.kill()
    running.wait()
    assert hub.locate_model(NAME) is None
    assert hub.model_download(NAME).bytes_left == len(model_files[SHARD])
    # The client leaves its part behind; it is not taken up again, and removed when it is old.
    (part,) = tmp_path.rglob("*.incomplete")
    os.utime(part, (0, 0))
    # The branch moves on meanwhile: what was begun is finished at the same commit.
    fake_hub.add(REPO, {**model_files, "vae/config.json": b"{}"})
    fake_hub.requests.clear()
    path = hub.fetch_model(NAME)
    assert path.name == commit
    assert files_in(path) == wanted(model_files)
    assert fake_hub.asked("cdn") == [None]
    assert not part.exists()


def test_files_all_of_which_are_there_are_still_checked(
    fake_hub: Hub, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.add(REPO, model_files)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dcgrid.hub.snapshot.fetch_file", killed)
        with pytest.raises(KeyboardInterrupt):
            hub.fetch_model(NAME)
    pin = hub.read_pin(hub.MODELS[NAME])
    assert pin is not None
    huggingface_hub.snapshot_download(
        REPO,
        revision=pin.commit,
        cache_dir=hub.hub_dir(),
        endpoint=fake_hub.endpoint,
        allow_patterns=[file.path for file in pin.files],
    )
    damaged = (pin.folder / SHARD).resolve()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    assert not pin.missing()
    assert hub.locate_model(NAME) is None
    assert files_in(hub.fetch_model(NAME)) == wanted(model_files)


def test_a_server_that_ignores_ranges_is_listened_to_from_the_start(
    fake_hub: Hub, model_files: dict[str, bytes]
) -> None:
    fake_hub.add(REPO, model_files)
    line = f"GET /cdn/{REPO}/{SHARD}"
    fake_hub.faults = [Fault(line, cut_after=150_000), Fault(line, no_ranges=True)]
    assert files_in(hub.fetch_model(NAME)) == wanted(model_files)
    first, second = fake_hub.asked(line)
    assert first is None
    assert second is not None


def test_a_range_that_cannot_be_is_asked_anew(fake_hub: Hub, model_files: dict[str, bytes]) -> None:
    fake_hub.add(REPO, model_files)
    line = f"GET /cdn/{REPO}/{SHARD}"
    fake_hub.faults = [Fault(line, cut_after=150_000), Fault(line, status=416)]
    with pytest.raises(NetworkError, match="416"):
        hub.fetch_model(NAME)
    assert files_in(hub.fetch_model(NAME)) == wanted(model_files)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/api/models/", status=429, headers={"Retry-After": "0"}),
        Fault("/api/models/", status=429, headers={"RateLimit": '"api";r=0;t=0'}),
        Fault("/api/models/", status=503, times=2),
        Fault("resolve", status=429, headers={"Retry-After": "0"}, times=3),
        Fault("cdn", status=500, times=3),
        Fault("cdn", wait_s=0.2),
        Fault("vae/config.json", cut_after=3),
    ],
    ids=lambda fault: f"{fault.where} {fault.status}",
)
def test_what_passes_is_waited_for(
    fake_hub: Hub, model_files: dict[str, bytes], fault: Fault
) -> None:
    fake_hub.add(REPO, model_files)
    fake_hub.faults = [fault]
    assert files_in(hub.fetch_model(NAME)) == wanted(model_files)
    assert fault.times == 0


@pytest.mark.parametrize(
    ("fault", "kind", "told", "hint"),
    [
        (Fault("/api/", status=500, times=99), NetworkError, "failed: .*500", "again"),
        (
            Fault("/api/", status=429, headers={"Retry-After": "3600"}, times=9),
            NetworkError,
            "asks to wait 3600 s",
            "later",
        ),
        (Fault("/api/", status=403, message="no"), NetworkError, "right to use", "token"),
        (
            Fault("/api/", status=403, message="Access to this resource is disabled."),
            NetworkError,
            "disabled",
            "say why",
        ),
        (Fault("/api/", html=True), NetworkError, "not the hub", "HF_ENDPOINT"),
        (Fault("cdn", status=404, times=99), NetworkError, "failed: .*404", "again"),
        (
            Fault("resolve", status=404, headers={"X-Error-Code": "EntryNotFound"}, times=99),
            WeightsError,
            "no file",
            "huggingface.co",
        ),
        (
            Fault("resolve", status=404, headers={"X-Error-Code": "RevisionNotFound"}, times=99),
            WeightsError,
            "no revision",
            "--update",
        ),
        (
            Fault("resolve", status=403, headers={"X-Error-Code": "GatedRepo"}, times=99),
            NetworkError,
            "needs an account",
            "accept the licence",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_pass_is_told_in_a_sentence(
    fake_hub: Hub,
    model_files: dict[str, bytes],
    fault: Fault,
    kind: type[DcgridError],
    told: str,
    hint: str,
) -> None:
    fake_hub.add(REPO, model_files)
    fake_hub.faults = [fault]
    with pytest.raises(kind, match=told) as caught:
        hub.fetch_model(NAME)
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
    assert hub.locate_model(NAME) is None


@pytest.mark.parametrize("where", ["/api/models", "HEAD", "GET /cdn", "GET /Wan"])
@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (429, {"Retry-After": "9999"}, "asks to wait 9999 s"),
        (503, {"Retry-After": "121"}, "asks to wait 121 s"),
        (503, {"Retry-After": "9" * 30}, "asks to wait weeks"),
        (429, {"RateLimit": '"api";r=0;t=301'}, "asks to wait 301 s"),
    ],
)
def test_long_waits_are_left_to_the_user(
    fake_hub: Hub,
    model_files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    status: int,
    headers: dict[str, str],
    told: str,
) -> None:
    slept: list[float] = []
    patch_sleep(monkeypatch, slept.append)
    fake_hub.add(REPO, model_files)
    fake_hub.faults = [Fault(where, status=status, headers=headers, times=99)]
    with pytest.raises(NetworkError, match=told) as caught:
        hub.fetch_model(NAME)
    assert "later" in caught.value.hint
    assert sum(slept) == 0
    reference = f"hf:{REPO}@main/vae/config.json"
    if where in ("HEAD", "GET /Wan"):
        with pytest.raises(NetworkError, match=told):
            hub.fetch_weights(reference)
        assert sum(slept) == 0


def test_short_waits_are_those_that_the_hub_asks_for(
    fake_hub: Hub, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    patch_sleep(monkeypatch, slept.append)

    class Waited(threading.Event):
        """Files arrive in threads; whichever the hub sends away waits so."""

        def wait(self, timeout: float | None = None) -> bool:
            slept.append(timeout or 0.0)
            return self.is_set()

    for module in ("client", "download", "snapshot"):
        monkeypatch.setattr(f"dcgrid.hub.{module}.Event", Waited)
    commit = fake_hub.add(REPO, model_files)
    # The client asks a second time at once. Of one file, so that both come to it: files arrive in
    # threads, and two of them would be sent away once each, with no wait at all.
    head = f"HEAD /{REPO}/resolve/{commit}/model_index.json"
    for where in ("/api/models", head, "GET /Wan"):
        fake_hub.faults = [Fault(where, status=429, headers={"Retry-After": "7"}, times=2)]
        hub.fetch_model(NAME)
        # The client's own wait is a second longer.
        assert {7.0, 8.0} & set(slept), where
        slept.clear()
        hub.remove_model(NAME)


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"../../../../evil"'},
        {"X-Linked-Etag": '"..\\..\\evil"'},
        {"X-Linked-Etag": '"/tmp/evil"'},
        {"ETag": '".."'},
        {"ETag": '"nul\\x00"'},
        {"X-Repo-Commit": "../../../evil"},
        {"X-Repo-Commit": "0" * 39},
    ],
)
@pytest.mark.parametrize("status", [200, 404])
def test_nothing_that_a_server_names_is_written_outside_of_the_cache(
    fake_hub: Hub, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    fake_hub.add("a/b", {"x.json": b"{}"})
    code = {"X-Error-Code": "EntryNotFound"} if status == 404 else {}
    whole = {"X-Repo-Commit": "0" * 40, "ETag": '"abc"', **code, **headers}
    fake_hub.faults = [Fault("resolve", status=status, headers=whole, times=99)]
    with pytest.raises(NetworkError, match=r"answer about hf:a/b@main/x\.json has"):
        hub.fetch_weights("hf:a/b/x.json")
    assert not list(tmp_path.rglob("*evil*"))
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]


def test_missing_private_and_gated_repositories(
    fake_hub: Hub,
    model_files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with pytest.raises(NetworkError, match=r"no repository .* without a token \(401\)"):
        hub.fetch_model(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(NetworkError, match="does not accept the token"):
        hub.fetch_model(NAME)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(NetworkError, match="has no repository") as caught:
        hub.fetch_model(NAME)
    assert "deleted" in caught.value.hint
    monkeypatch.delenv("HF_TOKEN")
    fake_hub.add(REPO, model_files, gated=True)
    with pytest.raises(NetworkError, match="needs an account") as caught:
        hub.fetch_model(NAME)
    assert REPO in caught.value.hint
    # What `hf auth login` writes.
    (tmp_path / "token").write_text(SECRET)
    fake_hub.repos[REPO].private = True
    assert files_in(hub.fetch_model(NAME)) == wanted(model_files)


@pytest.mark.parametrize("path", [SHARD, "vae/config.json"])
def test_a_wrong_hash_is_refused_and_not_kept(
    fake_hub: Hub, model_files: dict[str, bytes], tmp_path: Path, path: str
) -> None:
    fake_hub.add(REPO, model_files)
    fault = Fault(path, content=model_files[path][:-1] + b"!", times=99)
    fake_hub.faults = [fault]
    with pytest.raises(WeightsError, match=r"is damaged.* the hub says") as caught:
        hub.fetch_model(NAME)
    assert "removed" in caught.value.hint
    assert hub.locate_model(NAME) is None
    digests = hashlib.sha256(model_files[path]).hexdigest(), git_blob(model_files[path])
    assert not any(name.startswith(digests) for name in blobs(tmp_path))
    fault.times = 0
    assert files_in(hub.fetch_model(NAME)) == wanted(model_files)


def test_a_file_that_another_program_damaged_is_fetched_again(
    fake_hub: Hub, model_files: dict[str, bytes]
) -> None:
    fake_hub.add(REPO, model_files)
    digest = hashlib.sha256(model_files[SHARD]).hexdigest()
    blob = hub.hub_dir() / f"models--{REPO.replace('/', '--')}" / "blobs" / digest
    blob.parent.mkdir(parents=True)
    blob.write_bytes(model_files[SHARD][:-9] + b"damaged!!")
    assert files_in(hub.fetch_model(NAME)) == wanted(model_files)


PICKLES = {
    "protocol 2": b"\x80\x02}q\x00.",
    "protocol 5": b"\x80\x05\x95\x0f\x00\x00\x00",
    "torch's zip": b"PK\x03\x04\x00\x00\x08\x08\x00\x00",
}


@pytest.mark.parametrize("head", PICKLES.values(), ids=PICKLES)
def test_a_pickle_under_another_name_is_refused_and_not_kept(
    fake_hub: Hub, model_files: dict[str, bytes], tmp_path: Path, head: bytes
) -> None:
    content = head.ljust(3_000_000, b"\0")
    fake_hub.add(REPO, {**model_files, SHARD: content})
    with pytest.raises(WeightsError, match="pickle inside"):
        hub.fetch_model(NAME)
    assert hashlib.sha256(content).hexdigest() not in " ".join(blobs(tmp_path))


def test_protocol_0_pickles_are_no_safetensors_either(
    fake_hub: Hub, model_files: dict[str, bytes]
) -> None:
    fake_hub.add(REPO, {**model_files, SHARD: b"cos\nsystem\n(S'true'\ntR."})
    with pytest.raises(WeightsError, match="no safetensors"):
        hub.fetch_model(NAME)


def test_a_header_that_begins_like_a_pickle_is_none(
    fake_hub: Hub, model_files: dict[str, bytes]
) -> None:
    plain = safetensors_bytes(64)
    length = int.from_bytes(plain[:8], "little")
    header = plain[8 : 8 + length].ljust(0x280)
    content = len(header).to_bytes(8, "little") + header + plain[8 + length :]
    assert content[:2] == b"\x80\x02"
    fake_hub.add(REPO, {**model_files, SHARD: content})
    assert (hub.fetch_model(NAME) / SHARD).read_bytes() == content


def test_a_repository_of_pickles_is_refused(fake_hub: Hub, model_files: dict[str, bytes]) -> None:
    left = {path: one for path, one in model_files.items() if "safetensors" not in path}
    fake_hub.add(REPO, left)
    with pytest.raises(WeightsError, match=r"Wan2\.2_VAE\.pth is a pickle"):
        hub.fetch_model(NAME)


def test_a_shard_that_the_server_lacks_is_told_before_the_large_files(
    fake_hub: Hub, model_files: dict[str, bytes]
) -> None:
    whole = dict(model_files)
    del model_files[SHARD]
    fake_hub.add(REPO, model_files)
    with pytest.raises(WeightsError, match="lacks 1 of 2 shards") as caught:
        hub.fetch_model(NAME)
    assert "--update" in caught.value.hint
    assert fake_hub.asked("cdn") == []
    fake_hub.add(REPO, whole)
    assert files_in(hub.fetch_model(NAME, update=True)) == wanted(whole)


def test_a_full_disk_is_told_before_the_first_byte(
    fake_hub: Hub, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.add(REPO, model_files)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(
        OutputError, match=r"needs 0\.0 GB more in .*cache/hub, 0\.0 GB are free"
    ) as no:
        hub.fetch_model(NAME)
    assert "DCGRID_CACHE_DIR" in no.value.hint
    assert fake_hub.asked("resolve") == []
    monkeypatch.setenv("HF_HOME", str(hub.cache_dir()))
    with pytest.raises(OutputError) as no:
        hub.fetch_model(NAME)
    assert "HF_HOME" in no.value.hint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, which takes root to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_meanwhile_keeps_what_arrived(
    fake_hub: Hub,
    model_files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    small_disk: Path,
) -> None:
    fake_hub.add(REPO, model_files)
    monkeypatch.setenv("DCGRID_CACHE_DIR", str(small_disk))
    with pytest.raises(OutputError, match="more in"):
        hub.fetch_model(NAME)
    usage = shutil.disk_usage(small_disk)
    # Another program fills the disk after the check.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9))
    with pytest.raises(OutputError, match="no space left") as caught:
        hub.fetch_model(NAME)
    assert "DCGRID_CACHE_DIR" in caught.value.hint
    assert hub.locate_model(NAME) is None
    left = hub.model_download(NAME).bytes_left
    assert left is not None
    assert left < sum(map(len, wanted(model_files).values()))
    assert not list(small_disk.rglob("*.incomplete"))


def test_offline_without_the_model_says_how_to_go_on(
    fake_hub: Hub, model_files: dict[str, bytes]
) -> None:
    with pytest.raises(NetworkError, match="network is off") as caught:
        hub.fetch_model(NAME, offline=True)
    assert f"dcgrid models pull {NAME}" in caught.value.hint
    assert fake_hub.requests == []
    fake_hub.add(REPO, model_files)
    path = hub.fetch_model(NAME)
    (path / SHARD).unlink()
    with pytest.raises(NetworkError, match="not here whole"):
        hub.fetch_model(NAME, offline=True)
    with pytest.raises(NetworkError, match="cannot be updated"):
        hub.fetch_model(NAME, offline=True, update=True)


def test_the_commit_is_kept_until_an_update_is_asked_for(
    fake_hub: Hub, model_files: dict[str, bytes]
) -> None:
    first = fake_hub.add(REPO, model_files)
    hub.fetch_model(NAME)
    newer = {**model_files, "vae/config.json": b'{"vae": 2}'}
    second = fake_hub.add(REPO, newer)
    assert hub.fetch_model(NAME).name == first
    fake_hub.faults = [Fault("vae/config.json", status=404, times=99)]
    with pytest.raises(NetworkError):
        hub.fetch_model(NAME, update=True)
    assert hub.fetch_model(NAME, offline=True).name == first
    fake_hub.faults = []
    fake_hub.requests.clear()
    assert files_in(hub.fetch_model(NAME, update=True)) == wanted(newer)
    assert fake_hub.asked("cdn") == []  # only what differs is downloaded
    pin = hub.read_pin(hub.MODELS[NAME])
    assert pin is not None
    assert (pin.commit, pin.earlier, pin.license) == (second, (first,), "apache-2.0")


def test_damaged_pins_are_told(fake_hub: Hub, model_files: dict[str, bytes]) -> None:
    fake_hub.add(REPO, model_files)
    hub.fetch_model(NAME)
    pins = hub.cache_dir() / "pins.json"
    content = json.loads(pins.read_text())
    content["models"][NAME]["commit"] = "../../elsewhere"
    for damaged in ("{", "[]", '{"models": []}', json.dumps(content)):
        pins.write_text(damaged)
        with pytest.raises(WeightsError, match=r"pins\.json cannot be read") as caught:
            hub.locate_model(NAME)
        assert f"rm {pins}" in caught.value.hint
    pins.unlink()
    assert files_in(hub.fetch_model(NAME)) == wanted(model_files)


@pytest.mark.parametrize("path", ["../evil.json", "transformer/../../x.json", "a\\b.json"])
def test_a_server_cannot_write_outside_of_the_cache(
    fake_hub: Hub, model_files: dict[str, bytes], path: str
) -> None:
    fake_hub.add(REPO, {**model_files, path: b"{}"})
    with pytest.raises(NetworkError, match="names a file"):
        hub.fetch_model(NAME)


def test_two_processes_share_one_download(
    fake_hub: Hub, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    fake_hub.add(REPO, model_files)
    fake_hub.faults = [Fault("cdn", wait_s=0.05, times=99)]
    script = f"{UNPINNED}from dcgrid import hub; print(hub.fetch_model({NAME!r}))"
    command = [sys.executable, "-c", script]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [one.communicate(timeout=60) for one in running]
    assert [one.returncode for one in running] == [0, 0], told
    (path,) = {Path(out.strip()) for out, _ in told}
    assert files_in(path) == wanted(model_files)
    weights = [name for name in wanted(model_files) if name.endswith(".safetensors")]
    assert len(fake_hub.asked("GET /cdn")) == len(weights)
    assert not any(name.endswith(".part") for name in blobs(tmp_path))


def test_a_thread_that_waits_for_another_process_can_be_stopped(
    fake_hub: Hub, model_files: dict[str, bytes]
) -> None:
    fake_hub.add(REPO, model_files)
    digest = hashlib.sha256(model_files[SHARD]).hexdigest()
    lock = hub.hub_dir() / ".locks" / f"models--{REPO.replace('/', '--')}" / f"{digest}.lock"
    lock.parent.mkdir(parents=True)
    script = (
        "import sys; from huggingface_hub.utils import WeakFileLock\n"
        f"with WeakFileLock({str(lock)!r}): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    outcome: list[Path] = []
    waiting = threading.Thread(target=lambda: outcome.append(hub.fetch_model(NAME)))
    waiting.start()
    time.sleep(0.4)
    assert waiting.is_alive()
    holder.stdin.close()
    waiting.join(timeout=20)
    holder.wait(timeout=20)
    assert files_in(outcome[0]) == wanted(model_files)


def test_removing_frees_what_no_other_snapshot_shares(
    fake_hub: Hub, model_files: dict[str, bytes], tmp_path: Path
) -> None:
    fake_hub.add(REPO, model_files)
    hub.fetch_model(NAME)
    # Another program brings another branch that shares most files.
    other = {**model_files, "vae/config.json": b'{"vae": 3}'}
    commit = fake_hub.repos[REPO].commit(other, "other")
    theirs = Path(
        huggingface_hub.snapshot_download(
            REPO,
            revision="other",
            cache_dir=hub.hub_dir(),
            endpoint=fake_hub.endpoint,
            allow_patterns=["vae/*"],
        )
    )
    assert theirs.name == commit
    assert hub.fetch_model(NAME) != theirs
    shared = len(model_files["vae/diffusion_pytorch_model.safetensors"])
    total = sum(map(len, wanted(model_files).values()))
    cached = hub.cached_model(NAME)
    assert cached is not None
    assert cached.bytes == total - shared
    assert hub.remove_model(NAME) == total - shared
    assert hub.locate_model(NAME) is None
    kept = {path: other[path] for path in other if path.startswith("vae/")}
    assert files_in(theirs) == kept
    assert hub.remove_model(NAME) == 0


def test_removing_half_a_download(fake_hub: Hub, model_files: dict[str, bytes]) -> None:
    fake_hub.add(REPO, model_files)
    fake_hub.faults = [
        Fault("00001-of-00002.safetensors/", cut_after=400_000),
        Fault("00001-of-00002.safetensors/", status=404),
    ]
    with pytest.raises(NetworkError):
        hub.fetch_model(NAME)
    assert hub.remove_model(NAME) > 400_000
    assert list(hub.hub_dir().glob("models--*")) == []


def test_a_model_that_another_program_fetched_is_found(
    fake_hub: Hub, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = fake_hub.add(REPO, model_files)
    files = wanted(model_files)
    digests = {
        p: hashlib.sha256(c).hexdigest() for p, c in files.items() if "safetensors" in p[-11:]
    }
    sizes = {path: len(content) for path, content in files.items()}
    row = replace(known_models.hub_model(NAME), revision=commit, sizes=sizes, sha256=digests)
    monkeypatch.setattr(known_models, "MODELS", {NAME: row})
    where = {"cache_dir": hub.hub_dir(), "endpoint": fake_hub.endpoint}
    folder = huggingface_hub.snapshot_download(REPO, **where)
    asked = len(fake_hub.requests)
    assert hub.locate_model(NAME) == Path(folder)
    assert hub.fetch_model(NAME, offline=True) == Path(folder)
    assert hub.model_download(NAME).bytes_left == 0
    assert len(fake_hub.requests) == asked
    # It is not ours to remove.
    assert hub.remove_model(NAME) == 0
    wrong = {**digests, SHARD: "0" * 64}
    monkeypatch.setattr(known_models, "MODELS", {NAME: replace(row, sha256=wrong)})
    assert hub.locate_model(NAME) is None


def test_names_and_places(fake_hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        hub.locate_model("wan2.2-5")
    assert "'wan2.2-5b'" in caught.value.hint
    assert hub.hub_dir() == tmp_path / "cache" / "hub"
    monkeypatch.delenv("DCGRID_CACHE_DIR")
    monkeypatch.delenv("DCGRID_CONFIG_DIR")
    monkeypatch.setenv("DCGRID_HOME", str(tmp_path / "home"))
    assert hub.cache_dir() == tmp_path / "home" / "cache"
    assert hub.config_dir() == tmp_path / "home" / "config"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert hub.hub_dir() == tmp_path / "hf" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    assert hub.hub_dir() == tmp_path / "hf-cache"
    # Nothing is set: where every other program of this user looks.
    for name in ("HF_HUB_CACHE", "HF_HOME", "DCGRID_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert hub.hub_dir() == tmp_path / ".cache" / "huggingface" / "hub"
    # Oracle: the client itself, which reads the environment once.
    for name, value in (("XDG_CACHE_HOME", "xdg"), ("HF_HOME", "hf"), ("HF_HUB_CACHE", "hc")):
        monkeypatch.setenv(name, str(tmp_path / value))
        script = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
        theirs = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert str(hub.hub_dir()) == theirs.stdout.strip()


def test_a_model_of_the_table_is_its_commit_and_its_files(
    fake_hub: Hub, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = fake_hub.add(REPO, model_files)
    sizes = {path: len(content) for path, content in wanted(model_files).items()}
    digest = hashlib.sha256(model_files[SHARD]).hexdigest()
    row = replace(
        known_models.hub_model(NAME), revision=commit, sizes=sizes, sha256={SHARD: digest}
    )
    monkeypatch.setattr(known_models, "MODELS", {NAME: row})
    plan = hub.model_download(NAME)
    assert (plan.bytes_left, plan.bytes_all, plan.files) == (*[sum(sizes.values())] * 2, len(sizes))
    assert fake_hub.requests == [], "what the table knows is not asked"
    fake_hub.add(REPO, {**model_files, "vae/config.json": b"{}"})
    assert files_in(hub.fetch_model(NAME)) == wanted(model_files)
    assert hub.model_download(NAME).bytes_left == 0


@pytest.mark.parametrize("lacks", [True, False])
def test_another_file_than_the_known_one_is_refused(
    fake_hub: Hub, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, lacks: bool
) -> None:
    fake_hub.add(REPO, model_files)
    known = {"sizes": {"vae/gone.json": 1}} if lacks else {"sha256": {SHARD: "0" * 64}}
    row = replace(known_models.hub_model(NAME), **known)
    monkeypatch.setattr(known_models, "MODELS", {NAME: row})
    wrong = r"lacks vae/gone\.json" if lacks else "is not the file that"
    with pytest.raises(WeightsError, match=wrong):
        hub.fetch_model(NAME)
    assert not hub.hub_dir().exists()
