"""The server of the page: on this machine alone, and nothing on the page asks another one.

Every request passes `_Guard`. /media hands out the files that the page shows, /page its script;
all else is Gradio.
"""

import os
import socket
import tempfile
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from dcgrid.api import Session
from dcgrid.errors import UsageError
from dcgrid.eval.report import player_script
from dcgrid.runtime.install import install_hint
from dcgrid.ui.page import Explain, Page

_GRADIO = "6.31."
"""Versions that this was tried with; the extra asks for them."""
_HOSTS = {"127.0.0.1", "localhost"}
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
"""Gradio needs its own inline scripts; nothing comes from, or goes to, elsewhere."""

_Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]


class _Guard:
    """Lets in what was asked of this machine by this machine's name, from a page of its own.

    A page elsewhere that points its own name at 127.0.0.1 (DNS rebinding), or that posts here
    unasked, is refused.
    """

    def __init__(self, app: Any) -> None:  # noqa: ANN401 - an ASGI application
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: _Send) -> None:  # noqa: ANN401
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]
        ours = len(hosts) == 1 and _split(f"//{hosts[0]}")[0] in _HOSTS
        if ours and all(_split(one)[1] == hosts[0] for one in origins):
            await self._app(scope, receive, _with_policy(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            body = b"open this page by the address that dcgrid ui has printed\n"
            plain = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": plain})
            await send({"type": "http.response.body", "body": body})


def _split(address: str) -> tuple[str, str]:
    """Return host and host with port of an address; both are empty where it is none."""
    try:
        parts = urlsplit(address)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


def _with_policy(send: _Send) -> _Send:
    async def send_with(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            more = [
                (b"content-security-policy", _POLICY.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
            ]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return send_with


def load_gradio() -> Any:  # noqa: ANN401 - a module without types
    """Return Gradio with its telemetry off.

    Raises:
        UsageError: It is not installed, or another version is.
    """
    # Read when it is imported, by Gradio and by huggingface_hub.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        gradio = import_module("gradio")
    except ImportError as error:
        missing = error.name or "gradio"
        raise UsageError(f"dcgrid ui needs {missing}", hint=install_hint("ui")) from error
    if not gradio.__version__.startswith(_GRADIO):
        raise UsageError(
            f"dcgrid ui needs gradio {_GRADIO}x, not {gradio.__version__}", hint=install_hint("ui")
        )
    return gradio


def make_app(page: Page) -> Any:  # noqa: ANN401 - an ASGI application
    """Return the whole page as an ASGI application."""
    gradio = load_gradio()
    from fastapi import FastAPI
    from starlette.responses import FileResponse, PlainTextResponse, Response

    from dcgrid.ui.components import make_blocks

    own = files("dcgrid.ui") / "page"
    app = FastAPI(openapi_url=None)
    script = player_script() + (own / "page.js").read_text("utf-8")

    def page_script() -> Response:
        return Response(script, media_type="text/javascript")

    def media(name: str, _file: str) -> Response:
        path = page.media.find(name)
        if path is None:
            return PlainTextResponse("this file is gone\n", status_code=404)
        return FileResponse(path)

    app.add_api_route("/page/page.js", page_script, response_model=None)
    app.add_api_route("/media/{name}/{_file}", media, response_model=None)
    gradio.mount_gradio_app(
        app,
        make_blocks(page),
        path="/",
        css=(own / "page.css").read_text("utf-8"),
        head='<script src="/page/page.js"></script>',
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=True,
    )
    return _Guard(app)


def listen(port: int) -> socket.socket:
    """Return a socket at 127.0.0.1 that is bound to a port (0: any free one).

    Raises:
        UsageError: The port is taken.
    """
    listener = socket.socket()
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"cannot listen at 127.0.0.1, port {port} ({reason})",
            hint="choose another --port; 0 is any free one",
        ) from error
    return listener


def serve(
    session: Session,
    out: Path,
    port: int,
    explain: Explain,
    on_ready: Callable[[str], None],
) -> None:
    """Serve the page until the process is interrupted; then stop what is being generated.

    Args:
        session: Generates.
        out: Folder of clips and results.
        port: Port at 127.0.0.1; 0: any free one.
        explain: Returns message and hint of an exception.
        on_ready: Called with the page's address.

    Raises:
        UsageError: The port is taken, or Gradio is not installed.
    """
    load_gradio()
    import uvicorn

    with listen(port) as listener, tempfile.TemporaryDirectory(prefix="dcgrid-ui-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page = Page(session, out, explain)
        # Open pages keep a connection for news, which would never end by itself.
        config = uvicorn.Config(
            make_app(page), log_level="critical", timeout_graceful_shutdown=1, lifespan="on"
        )
        on_ready(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            page.stop_all()
