"""Folders of the user's, and whether the network may be used."""

import os
from pathlib import Path


def config_dir() -> Path:
    """Return the folder of the user's own recipes; it may not exist.

    DCGRID_CONFIG_DIR wins over $DCGRID_HOME/config, and that over the platform's usual place.
    """
    return _user_dir("DCGRID_CONFIG_DIR", "config", "user_config_path")


def config_file() -> Path:
    """Return the path of the user's defaults of options; it may not exist.

    DCGRID_CONFIG wins over config.toml in `config_dir`.
    """
    named = os.environ.get("DCGRID_CONFIG")
    return Path(named).expanduser() if named else config_dir() / "config.toml"


def cache_dir() -> Path:
    """Return the folder of downloaded weights and other things that can be made again.

    DCGRID_CACHE_DIR wins over $DCGRID_HOME/cache, and that over the platform's usual place. The
    folder may not exist.
    """
    return _user_dir("DCGRID_CACHE_DIR", "cache", "user_cache_path")


def hub_dir() -> Path:
    """Return the folder of what comes from the hub: the cache of the hub's own client.

    Programs share what is downloaded. HF_HUB_CACHE wins over HF_HOME, that over a cache folder of
    this program that is set in the environment, and that over the client's usual place.
    """
    variable = hub_dir_variable()
    if variable in ("DCGRID_CACHE_DIR", "DCGRID_HOME"):
        return cache_dir() / "hub"
    if variable == "HF_HOME":
        return _expanded(os.environ[variable]) / "hub"
    if shared := os.environ.get(variable):
        return _expanded(shared)
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def hub_dir_variable() -> str:
    """Return the name of the environment variable that moves `hub_dir`."""
    names = ("HF_HUB_CACHE", "HF_HOME", "DCGRID_CACHE_DIR", "DCGRID_HOME")
    return next((name for name in names if os.environ.get(name)), "HF_HUB_CACHE")


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
