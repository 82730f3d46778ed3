"""`dcgrid ui`: a page in the browser for edits, compositions and stories."""

import os
import sys
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from dcgrid.cli.errors import explain
from dcgrid.cli.interrupts import until_interrupted
from dcgrid.cli.options import ModelOptions, QuietOption, main, where, with_options
from dcgrid.cli.output import Output

_Out = Annotated[
    Path, main("--out", "-o", metavar="DIR", help="Folder of dropped clips and their results.")
]
_Port = Annotated[int, where("--port", min=0, max=65535, metavar="N", help="0: any free one.")]
_Browser = Annotated[bool, where(help="Open the page in a browser.")]


@with_options
def ui(
    out: _Out = Path("dcgrid-ui"),
    port: _Port = 7860,
    browser: _Browser = True,
    *,
    options: ModelOptions,
    quiet: QuietOption = False,
) -> None:
    """Open a page in the browser: drop a clip, choose effects, watch before and after, save.

    It is served to this machine alone, asks nothing of the network, and ends with Ctrl-C. Needs
    the extra dcgrid[ui].
    """
    from dcgrid.api import Session
    from dcgrid.ui.server import serve

    def say(error: BaseException) -> tuple[str, str]:
        found = explain(error)
        return found.message, found.hint

    with Output(quiet=quiet) as output:

        def ready(url: str) -> None:
            output.result([url], {})
            output.note(f"clips and results go to {out}; Ctrl-C ends it")
            if browser and not (_has_screen() and webbrowser.open(url)):
                output.note("no browser was found here: open the address in one")

        named = {name: value for name, value in asdict(options).items() if name != "origins"}
        with Session(**named) as session, until_interrupted():
            serve(session, out, port, say, ready)


def _has_screen() -> bool:
    """Return False where only a browser in this terminal could open."""
    names = ("DISPLAY", "WAYLAND_DISPLAY")
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in names)
