"""The server over a real socket: the page, videos and pieces of them, answers in, nothing else."""

import http.client
import json
import random
import shutil
import socket
import struct
import threading
from contextlib import contextmanager

import pytest

from dcgrid.errors import StudyError, UsageError
from dcgrid.eval.study.answers import LARGEST, read_answers
from dcgrid.eval.study.serve import make_server
from tests.eval.study.conftest import answer_sheet, right_file, wrong_file

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def served(shared_study, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(shared_study.folder, folder)
    came: list[str] = []
    server = make_server(folder, "127.0.0.1", 0, came.append)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    @contextmanager
    def reply(method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            yield connection.getresponse()
        finally:
            connection.close()

    def ask(method, path, body=None, headers=None):
        with reply(method, path, body, headers) as response:
            return response.status, response.read(), response.headers

    ask.folder, ask.key, ask.came, ask.port = folder, shared_study.key, came, server.server_port
    yield ask
    server.shutdown()
    thread.join()
    server.server_close()


def sheet_of(served, rater="ada", choose=right_file):
    sheet = answer_sheet(served.key, rater, lambda shown, _: choose(shown))
    return json.dumps(sheet).encode()


def test_the_page_is_served_and_says_that_it_collects(served):
    status, body, headers = served("GET", "/")
    assert status == 200
    assert body == (served.folder / "page" / "index.html").read_bytes()
    assert headers["Content-Type"].startswith("text/html")
    assert json.loads(served("GET", "/collector.json")[1]) == {"study": served.key.id}
    status, body, headers = served("HEAD", "/index.html")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-1", 0, 2),
        ("bytes=0-", 0, None),
        ("bytes=100-199", 100, 200),
        ("bytes=-50", -50, None),
        ("bytes=500-99999999", 500, None),
    ],
)
def test_pieces_of_videos(served, asked, begin, end):
    path = next((served.folder / "page" / "media").iterdir())
    content = path.read_bytes()
    status, body, headers = served("GET", f"/media/{path.name}", headers={"Range": asked})
    assert status == 206
    assert body == content[begin:end]
    start = begin % len(content)
    last = start + len(body) - 1
    assert headers["Content-Range"] == f"bytes {start}-{last}/{len(content)}"


def test_pieces_that_are_not_there_and_headers_that_are_none(served):
    path = next((served.folder / "page" / "media").iterdir())
    size = path.stat().st_size
    for asked in (f"bytes={size}-", "bytes=-0", "bytes=999999999999-"):
        status, body, headers = served("GET", f"/media/{path.name}", headers={"Range": asked})
        assert (status, body, headers["Content-Range"]) == (416, b"", f"bytes */{size}")
    for asked in (
        "bytes=0-1,4-5",
        "lines=1-2",
        "bytes=-",
        "bytes=9-3",
        "bytes=" + "9" * 5000 + "-",
    ):
        status, body, _ = served("GET", f"/media/{path.name}", headers={"Range": asked})
        assert (status, len(body)) == (200, size)


@pytest.mark.parametrize(
    "path",
    [
        "/key.json",
        "/../key.json",
        "/media/../../key.json",
        "/media/%2e%2e/%2e%2e/key.json",
        "/media/..%2f..%2fkey.json",
        "/answers",
        "/media/",
        "/media/0000000000000000.mp4",
        "//etc/passwd",
    ],
)
def test_nothing_else_is_handed_out(served, path):
    status, body, _ = served("GET", path)
    assert status == 404
    assert b"ours" not in body


def test_answers_come_in_and_are_counted(served):
    status, body, _ = served("POST", "/answers", sheet_of(served), JSON)
    assert (status, json.loads(body)) == (201, {"kept": "ada.json"})
    assert served.came == ["ada.json"]
    found, _ = read_answers([served.folder / "answers"], served.key)
    assert [one.rater for one in found] == ["ada"]


def test_answers_are_never_replaced(served):
    first = sheet_of(served)
    served("POST", "/answers", first, JSON)
    assert json.loads(served("POST", "/answers", first, JSON)[1]) == {"kept": "ada.json"}
    other = sheet_of(served, choose=wrong_file)
    assert json.loads(served("POST", "/answers", other, JSON)[1]) == {"kept": "ada.2.json"}
    folder = served.folder / "answers"
    assert sorted(path.name for path in folder.iterdir()) == ["ada.2.json", "ada.json"]
    assert (folder / "ada.json").read_bytes() == first
    with pytest.raises(StudyError, match="other answers"):
        read_answers([folder], served.key)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", JSON, 400),
        (b"not json", JSON, 400),
        (b"", JSON, 400),
        (b"{}", {"Content-Type": "text/plain"}, 403),
        (b"{}", {**JSON, "Origin": "http://elsewhere.example"}, 403),
        (b"{}", {**JSON, "Content-Length": str(LARGEST + 1)}, 413),
        (b"{}", {**JSON, "Content-Length": "9" * 4000}, 413),
        (b"{}", {**JSON, "Content-Length": "0" * 20 + "612000000"}, 413),
        (b"{}", {**JSON, "Content-Length": "0" * 5000 + str(LARGEST + 1)}, 413),
        (b"{}", {**JSON, "Content-Length": "-1"}, 411),
        (b"{}", {**JSON, "Content-Length": "+2"}, 411),
        (b"{}", {**JSON, "Content-Length": "\u00b2"}, 411),
        (b"{}", {**JSON, "Transfer-Encoding": "chunked", "Content-Length": "2"}, 411),
        (b"{}", {**JSON, "Origin": "http://[::1"}, 403),
        (b"{}", {**JSON, "Origin": "null"}, 403),
        (b"{}", {**JSON, "Origin": "http://evil.example:80", "Host": "evil.example:80"}, 403),
    ],
)
def test_what_is_no_answers_is_refused_and_not_kept(served, body, headers, status):
    assert served("POST", "/answers", body, headers)[0] == status
    folder = served.folder / "answers"
    assert not folder.exists() or not list(folder.iterdir())
    assert served.came == []


def test_the_own_origin_is_let_in(served):
    headers = {**JSON, "Origin": f"http://127.0.0.1:{served.port}"}
    assert served("POST", "/answers", sheet_of(served), headers)[0] == 201


def test_no_server_without_a_study_or_a_port(served, tmp_path):
    with pytest.raises(StudyError, match=r"key\.json"):
        make_server(tmp_path, "127.0.0.1", 0, print)
    with pytest.raises(UsageError, match="cannot listen"):
        make_server(served.folder, "127.0.0.1", served.port, print)
    with pytest.raises(UsageError, match="cannot listen"):
        make_server(served.folder, "no.such.host.invalid", 0, print)


def test_leading_zeros_alone_are_harmless(served):
    body = sheet_of(served)
    headers = {**JSON, "Content-Length": f"{len(body):030}"}
    assert served("POST", "/answers", body, headers)[0] == 201


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("[::1]:{port}", 200),
        ("192.168.1.7:8765", 200),
        (socket.gethostname(), 200),
        ("evil.example:{port}", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:{port}", 403),
        ("evil.example@127.0.0.1.nip.io", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
@pytest.mark.parametrize("path", ["/", "/collector.json"])
def test_a_name_that_is_not_ours_gets_nothing(served, path, host, status):
    """DNS rebinding: a page elsewhere lets its own name point here and reads what is here."""
    assert served("GET", path, headers={"Host": host.format(port=served.port)})[0] == status


def send_raw(port, content):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


HOST = b"Host: localhost\r\n"
RAW = [
    b"GET http://[ HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET //[::1 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST http://] HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"GET /\r\n",
    b"\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n",
    b"GET /%00%ff/../media/%00.mp4 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/9999999999.1\r\n" + HOST + b"\r\n",
    b"\xff\xfe / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n: \r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 500 + HOST + b"\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /answers HTTP/1.1\r\n" + HOST + b"Content-Length: 99\r\n"
    b"Content-Type: application/json\r\n\r\n{}",
    b"POST /answers HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n"
    b"Content-Type: application/json\r\n\r\n{}",
]


def test_malformed_requests_leave_no_trace(served, capfd):
    dice = random.Random(26)
    good = b"GET /media/a.mp4 HTTP/1.1\r\n" + HOST + b"Range: bytes=0-1\r\nOrigin: http://a\r\n\r\n"
    for raw in RAW:
        send_raw(served.port, raw)
    for raw in (RAW[3], RAW[4]):  # no name of ours, and one of ours beside another
        assert send_raw(served.port, raw).startswith(b"HTTP/1.1 403")
    for _ in range(200):
        damaged = bytearray(good)
        for _ in range(dice.choice((1, 3, 10))):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        send_raw(served.port, bytes(damaged))
    with socket.create_connection(("127.0.0.1", served.port)) as gone:  # resets the connection
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert served("GET", "/")[0] == 200
    assert capfd.readouterr() == ("", "")
