"""Edit videos by filling a grid of cells with a video diffusion transformer.

    import dcgrid

    with dcgrid.Session(model="mini") as session:
        result = session.edit("input.mp4", ["rain"])

What stands in `__all__` is the public API, described in docs/api.md. It is imported when it is
first used, so that `import dcgrid` costs nothing; the command line starts at cli/main.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcgrid.api import Result as Result
    from dcgrid.api import Session as Session
    from dcgrid.api import Video as Video
    from dcgrid.api import compose as compose
    from dcgrid.api import edit as edit
    from dcgrid.api import story as story
    from dcgrid.errors import AdapterError as AdapterError
    from dcgrid.errors import BatchError as BatchError
    from dcgrid.errors import DcgridError as DcgridError
    from dcgrid.errors import DeviceError as DeviceError
    from dcgrid.errors import InputVideoError as InputVideoError
    from dcgrid.errors import LayoutError as LayoutError
    from dcgrid.errors import NetworkError as NetworkError
    from dcgrid.errors import OutputError as OutputError
    from dcgrid.errors import PromptError as PromptError
    from dcgrid.errors import RecipeError as RecipeError
    from dcgrid.errors import UsageError as UsageError
    from dcgrid.errors import WeightsError as WeightsError
    from dcgrid.io.progress import Progress as Progress

__version__ = "0.1.0"

_API = ("Result", "Session", "Video", "compose", "edit", "story")
_ERRORS = (
    "AdapterError",
    "BatchError",
    "DcgridError",
    "DeviceError",
    "InputVideoError",
    "LayoutError",
    "NetworkError",
    "OutputError",
    "PromptError",
    "RecipeError",
    "UsageError",
    "WeightsError",
)
_MODULES = {
    **dict.fromkeys(_API, "dcgrid.api"),
    **dict.fromkeys(_ERRORS, "dcgrid.errors"),
    "Progress": "dcgrid.io.progress",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the API holds
    """Return a name of the public API, imported when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the public API."""
    return sorted(__all__)
