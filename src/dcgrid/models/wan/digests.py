"""Which weights a checkout holds: the SHA-256 of its files, without reading 30 GB each time.

A file of the hub's cache is named by its hash already. Others are read once; their hash is kept in
the cache folder under path, size and time of change.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dcgrid import hub
from dcgrid.errors import OutputError
from dcgrid.io.atomic import write_whole

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEPT = "digests.json"
_MOST_KEPT = 500


def part_digests(files: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """Return one SHA-256 for each part of a checkout.

    Args:
        files: Weight files by part; a part in several shards is hashed over their hashes.

    Raises:
        OSError: A file cannot be read.
    """
    known = _read_kept()
    earlier = len(known)
    found = {
        part: _joined([_digest(path, known) for path in paths]) for part, paths in files.items()
    }
    if len(known) > earlier:
        _write_kept(known)
    return found


def _joined(digests: Sequence[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _digest(path: Path, known: dict[str, str]) -> str:
    whole = path.resolve()
    if _SHA256.fullmatch(whole.name):
        return whole.name
    facts = whole.stat()
    key = f"{whole}|{facts.st_size}|{facts.st_mtime_ns}"
    if key not in known:
        known[key] = hub.file_sha256(whole)
    return known[key]


def _read_kept() -> dict[str, str]:
    try:
        values = json.loads((hub.cache_dir() / _KEPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return (
        {str(key): str(value) for key, value in values.items()} if isinstance(values, dict) else {}
    )


def _write_kept(known: Mapping[str, str]) -> None:
    """Keep the newest hashes; where the folder cannot be written, they are made again next time."""
    kept = dict(list(known.items())[-_MOST_KEPT:])
    with suppress(OutputError):
        write_whole(hub.cache_dir() / _KEPT, json.dumps(kept, indent=1))
