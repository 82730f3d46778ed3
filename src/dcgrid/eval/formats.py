"""JSON files of evaluations, each with the name of its format. No torch."""

import json
from pathlib import Path
from typing import Any

from dcgrid.errors import DcgridError


def read_format(path: Path, format_: str, error: type[DcgridError], hint: str) -> dict[str, Any]:
    """Return what stands in a file of a format, its name taken out.

    Args:
        path: The file.
        format_: The name that it must have.
        error: What is raised where it cannot be read.
        hint: Where such files come from.

    Raises:
        DcgridError: Missing, unreadable, not JSON, or of another format; of the type `error`.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as cause:
        reason = (cause.strerror or "unknown error").lower()
        raise error(f"cannot read {path} ({reason})", hint=hint) from cause
    except (ValueError, RecursionError) as cause:
        raise error(f"{path} is not JSON: {cause}", hint=hint) from cause
    if not isinstance(values, dict) or values.pop("format", None) != format_:
        raise error(f"{path} is not of the format {format_}", hint=hint)
    return values
