"""How this installation gets what it lacks, and packages that are loaded when they are needed."""

import json
import shlex
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dcgrid.errors import UsageError


def install_hint(extra: str) -> str:
    """Return the command that adds an extra, e.g. "wan", to the dcgrid that runs.

    dcgrid is installed from a checkout and not from an index, so the command names the checkout;
    only where none is known it names the package.
    """
    checkout = _checkout()
    source = f"dcgrid[{extra}]" if checkout is None else f"{checkout}[{extra}]"
    editable = () if checkout is None else ("-e",)
    return shlex.join([sys.executable, "-m", "pip", "install", *editable, source])


def _checkout() -> Path | None:
    """Return the folder that dcgrid runs from or was installed from, if it is still there."""
    folders = [Path(__file__).parents[3]]
    try:
        origin = json.loads(metadata.distribution("dcgrid").read_text("direct_url.json") or "{}")
        folders.append(Path(unquote(urlsplit(origin["url"]).path)))
    except (metadata.PackageNotFoundError, KeyError, ValueError):
        pass
    return next((one for one in folders if (one / "pyproject.toml").is_file()), None)


class MissingPackageError(UsageError):
    """A package of the extra dcgrid[eval] is not installed."""


def need(name: str) -> Any:  # noqa: ANN401 - a module without types
    """Return a package of the extra dcgrid[eval].

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"this score needs {error.name or name}", hint=install_hint("eval")
        ) from error
