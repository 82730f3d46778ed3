"""A small server for a study: the page, and a place for answers. The standard library's server.

It is made for one room: no encryption, no names, on this machine alone unless told otherwise. Only
page/ is served; key.json lies beside it. Requests must call it by an address or by this machine's
name: a page elsewhere that points its own name at this machine (DNS rebinding) is refused.
"""

import contextlib
import ipaddress
import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from dcgrid.errors import StudyError, UsageError
from dcgrid.eval.study.answers import LARGEST, parse_answers
from dcgrid.eval.study.design import ANSWERS_DIR, MEDIA_DIR, PAGE_DIR, StudyKey, read_key

_CHUNK = 1 << 16
_SECONDS = 30
_NAME = re.compile(r"[A-Za-z0-9_-]+\.mp4")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_MOST_FILES_OF_A_RATER = 20
_MOST_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStudy:
    """What a server hands out and takes in."""

    folder: Path
    """The study."""
    key: StudyKey
    """Its key."""
    names: frozenset[str]
    """What this machine is called, beside its addresses; lower case."""
    on_answers: Callable[[str], None]
    """Called with the name of each file of answers that came in."""


def make_server(
    folder: Path, host: str, port: int, on_answers: Callable[[str], None]
) -> ThreadingHTTPServer:
    """Return a server that is bound and waits for `serve_forever`.

    Args:
        folder: The study, from `make_study`.
        host: Address to listen at.
        port: Port; 0: any free one.
        on_answers: Called with the name of each file of answers that came in.

    Raises:
        StudyError: It is no study.
        UsageError: The address cannot be had.
    """
    key = read_key(folder)
    if not (folder / PAGE_DIR / "index.html").is_file():
        raise StudyError(f"{folder / PAGE_DIR} holds no page", hint="make the study again")
    own = socket.gethostname().lower()
    names = frozenset({"localhost", own, f"{own}.local", host.lower()})
    study = OpenStudy(folder=folder, key=key, names=names, on_answers=on_answers)
    try:
        return _Server((host, port), partial(_Handler, study=study))
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen at {host}, port {port} ({error})", hint="choose another --port"
        ) from error


def keep_answers(study: OpenStudy, content: bytes) -> str:
    """Keep answers that came in; what is there is never replaced.

    The same answers again change nothing. Others by the same rater are kept beside them under a
    number, for the researcher to decide.

    Returns:
        Name of the file.

    Raises:
        StudyError: They do not fit the study.
        ValueError: The rater has handed in too often.
        OSError: They cannot be written.
    """
    answers = parse_answers(content, study.key)
    folder = study.folder / ANSWERS_DIR
    folder.mkdir(exist_ok=True)
    part = folder / f".{secrets.token_hex(8)}.part"
    try:
        part.write_bytes(content)
        for number in range(1, _MOST_FILES_OF_A_RATER + 1):
            path = folder / f"{answers.rater}{'' if number == 1 else f'.{number}'}.json"
            with contextlib.suppress(FileExistsError):
                # A link, not a rename: it fails where the name is taken.
                os.link(part, path)
                study.on_answers(path.name)
                return path.name
            if path.read_bytes() == content:
                return path.name
    finally:
        part.unlink(missing_ok=True)
    raise ValueError(f"rater {answers.rater} has handed in {_MOST_FILES_OF_A_RATER} files")


class _Server(ThreadingHTTPServer):
    """A server that says nothing of peers who go away in the middle."""

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Print a trace of bugs only."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server_version = "dcgrid"
    sys_version = ""
    timeout = _SECONDS

    def __init__(self, *arguments: object, study: OpenStudy) -> None:
        self.study = study
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        """Write nothing: addresses of raters are not kept."""

    def do_HEAD(self) -> None:
        """Answer as to GET, without the body."""
        self._get(with_body=False)

    def do_GET(self) -> None:
        """Hand out the page, a video, or the word that answers are collected here."""
        self._get(with_body=True)

    def do_POST(self) -> None:
        """Take in answers."""
        if not self._is_for_us():
            return
        origin = self.headers.get("Origin")
        # Another site's page can post plain text here unasked; JSON and our own origin it cannot.
        kind = self.headers.get_content_type()
        is_ours = origin is None or _split(origin).netloc == self.headers["Host"]
        lengths = set(self.headers.get_all("Content-Length", []))
        length = lengths.pop().lstrip("0") or "0" if len(lengths) == 1 else ""
        if _split(self.path).path != "/answers" or not is_ours or kind != "application/json":
            self._refuse(HTTPStatus.FORBIDDEN, "answers go to /answers, as JSON, from this page")
        elif not length.isascii() or not length.isdigit() or "Transfer-Encoding" in self.headers:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "no length")
        elif len(length) > _MOST_DIGITS or int(length) > LARGEST:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {LARGEST} bytes")
        else:
            self._take(self.rfile.read(int(length)))

    def _is_for_us(self) -> bool:
        """Return True if the request names this machine; else refuse it."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) == 1 and _names_us(hosts[0], self.study.names):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "open this page by the address that the server printed")
        return False

    def _take(self, content: bytes) -> None:
        try:
            name = keep_answers(self.study, content)
        except (ValueError, StudyError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, f"not written: {error.strerror}")
        else:
            self._reply(HTTPStatus.CREATED, json.dumps({"kept": name}).encode(), "application/json")

    def _get(self, *, with_body: bool) -> None:
        if not self._is_for_us():
            return
        place = unquote(_split(self.path).path)
        page = self.study.folder / PAGE_DIR
        if place in ("/", "/index.html"):
            self._send_file(page / "index.html", "text/html; charset=utf-8", with_body=with_body)
        elif place == "/collector.json":
            body = json.dumps({"study": self.study.key.id}).encode()
            self._reply(HTTPStatus.OK, body, "application/json", with_body=with_body)
        elif place.startswith(f"/{MEDIA_DIR}/") and _NAME.fullmatch(place.split("/", 2)[2]):
            path = page / MEDIA_DIR / place.split("/", 2)[2]
            self._send_file(path, "video/mp4", with_body=with_body)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _send_file(self, path: Path, kind: str, *, with_body: bool) -> None:
        """Send a file, or the piece that was asked for: Safari plays no video without pieces."""
        try:
            file = path.open("rb")
        except OSError:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")
            return
        with file:
            size = path.stat().st_size
            asked = self.headers.get("Range")
            piece = None if asked is None else _piece(asked, size)
            if piece is not None and not piece:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                self._end(0)
                return
            begin, end = (piece.start, piece.stop) if piece else (0, size)
            self.send_response(HTTPStatus.PARTIAL_CONTENT if piece else HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Accept-Ranges", "bytes")
            if piece:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
            self._end(end - begin)
            file.seek(begin)
            while with_body and begin < end and (part := file.read(min(_CHUNK, end - begin))):
                self.wfile.write(part)
                begin += len(part)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        # What was sent along is not read, so the connection cannot be used again.
        self.close_connection = True
        self._reply(status, f"{reason}\n".encode(), "text/plain; charset=utf-8")

    def _reply(self, status: HTTPStatus, body: bytes, kind: str, *, with_body: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self._end(len(body))
        if with_body and self.command != "HEAD":
            self.wfile.write(body)

    def _end(self, length: int) -> None:
        self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _split(address: str) -> SplitResult:
    """Return the parts of an address; all are empty where it is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _names_us(host: str, names: frozenset[str]) -> bool:
    """Return True if a Host header holds an IP address or one of the names, at whatever port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in names:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _piece(asked: str, size: int) -> range | None:
    """Return the bytes that a Range header asks for.

    Returns:
        An empty range where there are none such; None: not one range, so the whole file is due.
    """
    match = _RANGE.fullmatch(asked.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:  # the last so many bytes
        return range(max(0, size - int(last)), size)
    end = min(size, int(last) + 1) if last else size
    if last and int(last) < int(first):
        return None
    return range(min(int(first), end), end)
