"""Packages of the extra dcgrid[eval], loaded when they are needed."""

from importlib import import_module
from typing import Any

from dcgrid.errors import UsageError
from dcgrid.runtime.install import install_hint


class MissingPackageError(UsageError):
    """A package of the extra is not installed."""


def need(name: str) -> Any:  # noqa: ANN401 - a module without types
    """Return a package of the extra.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"this score needs {error.name or name}", hint=install_hint("eval")
        ) from error
