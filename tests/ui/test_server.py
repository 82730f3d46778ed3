"""The page without a browser: who is let in, what is handed out, what is missing."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dcgrid.api import Session
from dcgrid.cli.main import main
from dcgrid.ui.page import Page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with Session("tiny") as session:
        yield Page(session, tmp_path_factory.mktemp("out"), lambda error: (str(error), "a hint"))


@pytest.fixture(scope="module")
def client(page):
    pytest.importorskip("gradio", reason="needs the extra dcgrid[ui]")
    from starlette.testclient import TestClient

    from dcgrid.ui.server import make_app

    with TestClient(make_app(page), base_url="http://127.0.0.1:7860") as client:
        yield client


def test_the_page_names_no_other_machine(client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    # What a browser would fetch on its own: not links to click, not metadata, not the settings.
    fetched = re.findall(r"<(?:link|script|img|iframe)[^>]+(?:href|src)=\"([^\"]+)\"", answer.text)
    assert "/page/page.js" in answer.text
    assert len(fetched) > 1
    assert [one for one in fetched if re.match(r"(https?:)?//", one)] == []
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http" not in answer.headers["content-security-policy"]
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False


@pytest.mark.parametrize("path", ["/", "/config", "/page/page.js", "/gradio_api/upload"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:7860"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "[::1"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "null"},
    ],
)
def test_a_page_elsewhere_is_refused(client, path, headers) -> None:
    for ask in (client.get, client.post):
        assert ask(path, headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost:9000"])
def test_this_machine_is_let_in(client, host) -> None:
    headers = {"host": host, "origin": f"http://{host}"}
    assert client.get("/page/page.js", headers=headers).status_code == 200


def test_files_are_handed_out_only_by_a_name_that_cannot_be_guessed(client, page, clip) -> None:
    link = page.media.link(clip)
    assert link == page.media.link(clip)
    assert client.get(link).content == clip.read_bytes()
    piece = client.get(link, headers={"range": "bytes=10-19"})  # what seeking needs
    assert (piece.status_code, piece.content) == (206, clip.read_bytes()[10:20])
    other = link.split("/")
    other[2] = "a" * len(other[2])
    assert client.get("/".join(other)).status_code == 404
    assert client.get(f"/gradio_api/file={clip}").status_code == 403
    clip.unlink()
    assert client.get(link).status_code == 404


def test_every_shipped_effect_and_concept_has_a_moving_preview(client, page) -> None:
    tiles = [*page.effect_tiles(), *page.concept_tiles()]
    assert len(tiles) == 16 + 7
    for tile in tiles:
        assert b"ftyp" in client.get(tile["link"]).content[:16], tile["name"]


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["ui", "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: dcgrid ui needs gradio"
    assert re.match(r"hint: .* -m pip install .*\[ui\]", lines[1])
    assert len(lines) == 2


def test_another_version_of_gradio_is_refused(monkeypatch, capsys, tmp_path) -> None:
    gradio = pytest.importorskip("gradio", reason="needs the extra dcgrid[ui]")
    monkeypatch.setattr(gradio, "__version__", "5.4.0")
    assert main(["ui", "--out", str(tmp_path / "out")]) == 2
    assert "error: dcgrid ui needs gradio 6.31.x, not 5.4.0" in capsys.readouterr().err


def test_a_taken_port_is_named(capsys, tmp_path) -> None:
    pytest.importorskip("gradio", reason="needs the extra dcgrid[ui]")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["ui", "--port", str(port), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"error: cannot listen at 127.0.0.1, port {port} (Address already in use)" in said
    assert "hint: choose another --port" in said
    assert not (tmp_path / "out").exists()


def test_help_loads_neither_gradio_nor_torch() -> None:
    code = (
        "import sys; from dcgrid.cli.main import main; main(['ui', '--help']); "
        "sys.exit(str({'gradio', 'torch', 'fastapi'} & set(sys.modules)))"
    )
    source = Path(__file__).parents[2] / "src"
    asked = [sys.executable, "-c", code]
    done = subprocess.run(
        asked, capture_output=True, text=True, env={"PYTHONPATH": str(source)}, timeout=120
    )
    assert done.stderr.strip() == "set()", done.stderr
    assert "Open a page in the browser" in done.stdout
