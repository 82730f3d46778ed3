"""Folders of the user's, and whether the network may be used."""

import os
from pathlib import Path


def config_dir() -> Path:
    """Return the folder of the user's own recipes; it may not exist.

    DCGRID_CONFIG_DIR wins over $DCGRID_HOME/config, and that over the platform's usual place.
    """
    return _user_dir("DCGRID_CONFIG_DIR", "config", "user_config_path")


def cache_dir() -> Path:
    """Return the folder of downloaded weights and other things that can be made again.

    DCGRID_CACHE_DIR wins over $DCGRID_HOME/cache, and that over the platform's usual place. The
    folder may not exist.
    """
    return _user_dir("DCGRID_CACHE_DIR", "cache", "user_cache_path")


def hub_dir() -> Path:
    """Return the folder of what comes from the hub, in the hub's own cache layout.

    HF_HUB_CACHE, or else HF_HOME, wins, so that programs share what is downloaded.
    """
    if shared := os.environ.get("HF_HUB_CACHE"):
        return _expanded(shared)
    if home := os.environ.get("HF_HOME"):
        return _expanded(home) / "hub"
    return cache_dir() / "hub"


def hub_dir_variable() -> str:
    """Return the name of the environment variable that moves `hub_dir`."""
    return next((n for n in ("HF_HUB_CACHE", "HF_HOME") if os.environ.get(n)), "DCGRID_CACHE_DIR")


def go_offline() -> None:
    """Keep the network off for the rest of the process: the hub's own switch."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def is_offline() -> bool:
    """Return True if the environment forbids the network (HF_HUB_OFFLINE, as the hub has it)."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "TRUE", "YES", "ON"}


def _user_dir(variable: str, below_home: str, function: str) -> Path:
    if override := os.environ.get(variable):
        return Path(override).expanduser()
    if home := os.environ.get("DCGRID_HOME"):
        return Path(home).expanduser() / below_home
    import platformdirs

    path: Path = getattr(platformdirs, function)("dcgrid", appauthor=False)
    return path


def _expanded(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()
