"""How fast this machine was: rates that runs leave for the plans of the next ones.

One JSON file, a table a setting (model, device, number format); a run replaces its own table.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dcgrid.errors import OutputError
from dcgrid.io.atomic import write_whole

RATES_NAME = "rates.json"
"""Name of the file in the cache folder."""


def keep_rates(path: Path, setting: str, rates: Mapping[str, float]) -> None:
    """Keep the rates of a run; a file that cannot be written is no error.

    Args:
        path: The file, in the cache folder.
        setting: What they hold for.
        rates: Seconds by what they are of.
    """
    known = {**_read(path), setting: dict(rates)}
    with suppress(OutputError):
        write_whole(path, json.dumps(known))


def read_rates(path: Path, setting: str) -> dict[str, float]:
    """Return the rates of the last run with a setting; none if there was none, or the file is bad.

    Args:
        path: The file, in the cache folder.
        setting: What they hold for.
    """
    return _read(path).get(setting, {})


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(path.read_text())
        return {
            setting: {name: _seconds(value) for name, value in rates.items()}
            for setting, rates in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        return {}


def _seconds(value: object) -> float:
    seconds = float(value)  # type: ignore[arg-type]
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"a rate of {seconds}")
    return seconds
