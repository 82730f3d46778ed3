"""What a weight file is by its first bytes; a pickle is refused whatever its name."""

from pathlib import Path

from dcgrid.errors import WeightsError

HEAD_BYTES = 16
"""How many of the first bytes of a file tell what it is."""


def refuse_pickled_file(path: Path, name: str) -> None:
    """Refuse a file that is a pickle inside.

    Args:
        path: The file.
        name: What to call it in the error.

    Raises:
        WeightsError: It is a pickle, or a zip archive, which is how torch packs them.
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if is_pickled(head, path.stat().st_size):
        raise pickled_error(name)


def pickled_error(name: str) -> WeightsError:
    """Return the error for a pickle."""
    return WeightsError(
        f"{name} is a pickle inside, which can run code and is never loaded",
        hint="get it as safetensors from its maker",
    )


def is_pickled(head: bytes, size: int) -> bool:
    """Return True if a file that begins so is a pickle or a zip archive.

    Args:
        head: The first bytes, `HEAD_BYTES` of them if there are so many.
        size: Bytes of the whole file.
    """
    # First: the length of a safetensors header, say 640, can begin like a pickle of protocol 2.
    if is_safetensors(head, size):
        return False
    zipped = head.startswith(b"PK\x03\x04")
    return zipped or (len(head) > 1 and head[0] == 0x80 and 1 <= head[1] <= 5)


def is_safetensors(head: bytes, size: int) -> bool:
    """Return True if a file that begins so can be a safetensors file; see `is_pickled`."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and 8 + length <= size and head[8:9] == b"{"
