"""A small hub for tests: repositories with commits, links to large files, faults, and uploads.

It speaks the hub's protocol to the real client and to no other machine.
"""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

SECRET = "hf_secret"
LARGE = (".safetensors", ".bin", ".pt")


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def safetensors_bytes(size: int, seed: int = 0) -> bytes:
    """Return a valid safetensors file of about `size` bytes of noise."""
    body = b"".join(
        hashlib.sha256(f"{seed} {index}".encode()).digest() for index in range(size // 32)
    )
    table = {"x": {"dtype": "U8", "shape": [len(body)], "data_offsets": [0, len(body)]}}
    header = json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header + body


@dataclass
class Repo:
    """A repository: files by path for every commit, and what its branches stand at."""

    license: str = "apache-2.0"
    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        words = [f"{path} {git_blob(files[path])}" for path in sorted(files)]
        name = hashlib.sha1(f"{len(self.commits)} {words}".encode()).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name


@dataclass
class Fault:
    """What goes wrong with requests whose line contains `where`, `times` times."""

    where: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = ""
    cut_after: int | None = None
    content: bytes | None = None
    """In place of a file's."""
    body: bytes = b""
    """With `status`."""
    no_ranges: bool = False
    html: bool = False
    wait_s: float = 0.0
    """Before the answer, or before the cut."""
    times: int = 1


@dataclass
class Hub:
    """What the server holds, and what it was asked."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Method and path, and the Range, of each request."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, files: dict[str, bytes], **options: Any) -> str:
        repo = self.repos.setdefault(name, Repo(**options))
        return repo.commit(files)

    def asked(self, where: str) -> list[str | None]:
        """Return the ranges of the requests whose line contains a text."""
        with self.lock:
            return [found for line, found in self.requests if where in line]

    def take_fault(self, line: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.where in line and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def running_hub() -> Iterator[Hub]:
    state = Hub()
    handler = type("BoundHandler", (_Handler,), {"hub": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        with self.hub.lock:
            self.hub.requests.append((line, self.headers.get("Range")))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.fault = self.hub.take_fault(line)
        if self.fault is not None:
            if self.fault.cut_after is None:
                time.sleep(self.fault.wait_s)
            if self.fault.html:
                self._send(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
                return
            if self.fault.status:
                headers = dict(self.fault.headers)
                if self.fault.message:
                    headers["X-Error-Message"] = self.fault.message
                self._send(self.fault.status, self.fault.body, headers)
                return
        if self.command in ("POST", "PUT"):
            self._take(path)
        elif path.startswith("/api/models/"):
            self._tell(path.removeprefix("/api/models/"))
        elif path.startswith("/cdn/"):
            if "Authorization" in self.headers:
                self._error(400, "BadRequest")
                return
            self._content(self._by_digest(path.rpartition("/")[2]), {})
        else:
            self._resolve(path)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _repo(self, name: str) -> Repo | None:
        """Return a repository that this request may see; otherwise answer, and None."""
        repo = self.hub.repos.get(name)
        token = self.headers.get("Authorization", "")
        if token and token != f"Bearer {SECRET}":
            message = "Invalid credentials in Authorization header"
            self._send(401, b"", {"X-Error-Message": message})
        elif repo is None or (repo.private and not token):
            self._error(404 if token else 401, "RepoNotFound")
        else:
            return repo
        return None

    def _tell(self, rest: str) -> None:
        owner, name, *more = rest.split("/")
        repo = self._repo(f"{owner}/{name}")
        if repo is None:
            return
        revision = "/".join(more[1:]) if more else "main"
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            self._error(404, "RevisionNotFound")
            return
        siblings = [_sibling(path, one) for path, one in repo.commits[commit].items()]
        if more and more[0] == "tree":
            self._json([_tree_row(one) for one in siblings])
            return
        self._json(
            {
                "id": f"{owner}/{name}",
                "sha": commit,
                "private": repo.private,
                "gated": "auto" if repo.gated else False,
                "siblings": siblings,
                "cardData": {"license": repo.license},
                "tags": [],
            }
        )

    def _resolve(self, path: str) -> None:
        name, _, rest = path.lstrip("/").partition("/resolve/")
        repo = self._repo(name)
        if repo is None:
            return
        if repo.gated and "Authorization" not in self.headers:
            self._error(401, "GatedRepo")
            return
        revision, _, inside = rest.partition("/")
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            self._error(404, "RevisionNotFound")
            return
        content = repo.commits[commit].get(inside)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        headers = {"X-Repo-Commit": commit}
        if not inside.endswith(LARGE):
            self._content(content, {**headers, "ETag": f'"{git_blob(content)}"'})
            return
        digest = hashlib.sha256(content).hexdigest()
        headers |= {
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(content)),
            # By its other name: large files are on another host, which must not see the token.
            "Location": self.hub.endpoint.replace("127.0.0.1", "localhost")
            + f"/cdn/{name}/{inside}/{digest}",
        }
        self._send(302, b"", headers)

    def _by_digest(self, digest: str) -> bytes:
        for repo in self.hub.repos.values():
            for files in repo.commits.values():
                for content in files.values():
                    if hashlib.sha256(content).hexdigest() == digest:
                        return content
        raise KeyError(digest)

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        if self.fault is not None and self.fault.content is not None:
            content = self.fault.content
        total, start = len(content), 0
        asked = self.headers.get("Range")
        if self.fault is not None and self.fault.no_ranges:
            asked = None
        if asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        headers["Content-Length"] = str(total - start)
        rest = content[start:]
        if self.fault is not None and self.fault.cut_after is not None:
            rest = rest[: self.fault.cut_after]
            self.close_connection = True
            self._send(206 if asked else 200, rest, headers)
            self.wfile.flush()
            time.sleep(self.fault.wait_s)
            return
        self._send(206 if asked else 200, rest, headers)

    def _take(self, path: str) -> None:
        """Uploads: repository, branch, large files, commit."""
        if path == "/api/validate-yaml":
            header = json.loads(self.body)["content"].split("---")[1:2]
            known = yaml.safe_load(header[0]) if header else {}
            errors = [] if isinstance(known, dict) else [{"message": "no table"}]
            self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif self.headers.get("Authorization") != f"Bearer {SECRET}" and "/lfs-put/" not in path:
            self._send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif path == "/api/repos/create":
            asked = json.loads(self.body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            status = 409 if name in self.hub.repos else 200
            if status == 200:
                self.hub.add(name, {}, private=_is_private(asked))
            self._json({"url": f"{self.hub.endpoint}/{name}", "id": name}, status)
        elif "/branch/" in path:
            name, _, branch = path.removeprefix("/api/models/").partition("/branch/")
            repo = self.hub.repos[name]
            repo.branches.setdefault(branch, repo.branches["main"])
            self._json({})
        elif "/preupload/" in path:
            rows = json.loads(self.body)["files"]
            modes = [
                {
                    "path": row["path"],
                    "uploadMode": "lfs" if row["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for row in rows
            ]
            self._json({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **one,
                    "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs-put/{one['oid']}"}},
                }
                for one in json.loads(self.body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif path.startswith("/lfs-put/"):
            self.hub.uploads[path.rpartition("/")[2]] = self.body
            self._json({})
        elif "/commit/" in path:
            self._commit(*path.removeprefix("/api/models/").split("/commit/"))
        else:
            self._error(404, "NotFound")

    def _commit(self, name: str, branch: str) -> None:
        repo = self.hub.repos[name]
        files = dict(repo.commits[repo.branches[branch]])
        for line in self.body.splitlines():
            row = json.loads(line)
            if row["key"] == "file":
                files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            elif row["key"] == "lfsFile":
                files[row["value"]["path"]] = self.hub.uploads[row["value"]["oid"]]
        commit = repo.commit(files, branch)
        url = f"{self.hub.endpoint}/{name}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url})


def _is_private(asked: dict[str, Any]) -> bool:
    """Read both ways in which clients have asked for it."""
    return bool(asked.get("private")) or asked.get("visibility") == "private"


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_blob(content)}
    if path.endswith(LARGE):
        digest = hashlib.sha256(content).hexdigest()
        row["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
    return row


def _tree_row(sibling: dict[str, Any]) -> dict[str, Any]:
    row = {"type": "file", "path": sibling["rfilename"], "oid": sibling["blobId"]}
    if lfs := sibling.get("lfs"):
        row["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 130}
    return {**row, "size": sibling["size"]}
