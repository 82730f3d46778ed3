"""Answers that no hub gives: one sentence, exit code 4, and nothing is written or slept out."""

import json
import time
from pathlib import Path

import pytest

from dcgrid.cli.main import main
from tests.hub.conftest import patch_sleep
from tests.hub.server import Fault, Hub, git_blob, safetensors_bytes

ADAPTER = safetensors_bytes(1000)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIBLING = {"rfilename": "x.safetensors", "size": 5, "blobId": git_blob(b"hello")}
INFO = {"id": "a/b", "sha": COMMIT, "siblings": [SIBLING], "cardData": {}, "tags": []}


def answer(**changes: object) -> bytes:
    return json.dumps({**INFO, **changes}).encode()


def sibling(**changes: object) -> bytes:
    return answer(siblings=[{**SIBLING, **changes}])


LISTINGS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"<html>",
    "cut": answer()[:-9],
    "NUL": b"\0" * 100,
    "no UTF-8": b"\xff\xfe{}",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "null": b"null",
    "a number": b"1e999",
    "no id": b"{}",
    "siblings are a number": answer(siblings=5),
    "siblings are text": answer(siblings="abc"),
    "a sibling is null": answer(siblings=[None]),
    "a sibling has no name": answer(siblings=[{"size": 5}]),
    "the name is a number": sibling(rfilename=7, size=-1),
    "the name leads out": sibling(rfilename="../../x.safetensors"),
    "the name is absolute": sibling(rfilename="/etc/x.safetensors"),
    "the name has NUL": sibling(rfilename="a\0.safetensors"),
    "the name has an escape": sibling(rfilename="\x1b[31m.safetensors"),
    "the name has a backslash": sibling(rfilename="..\\..\\x.safetensors"),
    "the size is text": sibling(size="many"),
    "the size is negative": sibling(size=-5),
    "the size is huge": sibling(size=10**400),
    "the size is infinite": answer().replace(b": 5,", b": Infinity,"),
    "the hash leads out": sibling(blobId="../../x"),
    "the hash is a number": sibling(blobId=5),
    "the hash is lacking": sibling(blobId=None),
    "large files without a hash": sibling(lfs={"size": 5}),
    "large files are text": sibling(lfs="yes"),
    "large files lead out": sibling(lfs={"size": 5, "sha256": "../x", "pointerSize": 1}),
    "the commit leads out": answer(sha="../../../x"),
    "the commit is lacking": answer(sha=None),
    "the commit is a number": answer(sha=5),
    "the card is a list": answer(cardData=[1], sha="x"),
}


@pytest.mark.parametrize("body", LISTINGS.values(), ids=LISTINGS)
@pytest.mark.parametrize("words", [["adapters", "info", "hf:a/b"], ["models", "pull", "sface"]])
def test_odd_listings_end_in_one_sentence(
    fake_hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: bytes,
    words: list[str],
) -> None:
    monkeypatch.setattr("dcgrid.hub.client._FIRST_WAIT_S", 0.001)
    headers = {"Content-Type": "application/json"}
    fake_hub.faults = [Fault("/api/models", status=200, headers=headers, body=body, times=99)]
    assert_refused(words, tmp_path, capsys)


ANSWERS: dict[str, dict[str, str]] = {
    "a wait of hours": {"Retry-After": "9999"},
    "a wait of 30 digits": {"Retry-After": "9" * 30},
    "a wait of 5000 digits": {"Retry-After": "9" * 5000},
    "a wait in exotic digits": {"Retry-After": "\xb2"},
    "a reset in ages": {"RateLimit": f'"api";r=0;t={"9" * 400}'},
    "ETag": {"ETag": '"../../../evil"'},
    "ETag of NULs": {"ETag": '"a%00b/"'},
    "long ETag": {"ETag": f'"{"a" * 5000}"'},
    "long ETag that leads out": {"ETag": f'"{"a" * 300}/../../../evil"'},
    "linked ETag": {"X-Linked-Etag": '"../../../evil"'},
    "commit": {"X-Repo-Commit": "../../../evil"},
    "upper case": {"X-Repo-Commit": "A" * 40},
    "Xet": {"X-Xet-Hash": "../../../evil", "X-Xet-Refresh-Route": "/../evil"},
    "place": {"Location": "file:///etc/passwd"},
    "place of no host": {"Location": "http://[::1"},
    "size": {"X-Linked-Size": "-1"},
    "huge size": {"X-Linked-Size": "9" * 5000},
    "length": {"Content-Length": "99999999999999999999"},
}


@pytest.mark.parametrize("headers", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("status", [200, 302, 404, 503])
def test_odd_answers_about_files_end_in_one_sentence(
    fake_hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    headers: dict[str, str],
    status: int,
) -> None:
    slept: list[float] = []
    patch_sleep(monkeypatch, slept.append)
    monkeypatch.setattr("dcgrid.hub.client._FIRST_WAIT_S", 0.001)
    fake_hub.add("a/b", {"x.safetensors": ADAPTER})
    code = {"X-Error-Code": "EntryNotFound"} if status == 404 else {}
    whole = {"X-Repo-Commit": COMMIT, "ETag": f'"{git_blob(b"hello")}"', **code, **headers}
    fake_hub.faults = [Fault("resolve", status=status, headers=whole, times=99)]
    assert_refused(["adapters", "info", "hf:a/b/x.safetensors"], tmp_path, capsys)
    assert sum(slept) < 120


@pytest.mark.parametrize(
    "reference",
    [
        *(
            "hf:o/r@main/..\\..\\x",
            "hf:o/r@main//etc/passwd",
            "hf:o/r@main/a\0b",
            "hf:o/r@..",
            "hf:o/..",
        ),
        *(
            "hf:o/r@main/../x",
            "hf:o/r@main/" + "x" * 5000,
            "hf:o/r@\n/x",
            "hf:" + "o" * 300 + "/r/x",
        ),
        *(
            "hf:o r/x y/z",
            "hf:o/r.git/x",
            "hf:o--o/r/x",
            "hf:o/r@main/\ud800",
            "hf:o/r@%2e%2e/x",
            "hf:",
        ),
    ],
)
def test_odd_references_end_in_one_sentence(
    fake_hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], reference: str
) -> None:
    assert_refused(["adapters", "info", reference], tmp_path, capsys)


def assert_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    assert main(words) == 4, capsys.readouterr().err
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.count("error:") == 1
    assert "hint:" in err
    assert time.monotonic() - start < 60
    assert not list(tmp_path.rglob("*evil*"))
    written = {one.name for one in tmp_path.rglob("*") if one.is_file()}
    assert written <= {"CACHEDIR.TAG", "main", "x.safetensors", "pins.json", "pins.lock"} | {
        name for name in written if name.endswith(".lock")
    }
    assert not list(tmp_path.rglob("blobs/*"))
