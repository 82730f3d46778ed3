"""Where an adapter's file is: beside the user, in the package, or downloaded. No torch here."""

from pathlib import Path

from dcgrid import hub
from dcgrid.adapters.foreign_alpha import PEFT_CONFIG
from dcgrid.errors import AdapterError


def require_file(reference: str, *, hint: str = "", kind: str = "adapter") -> None:
    """Check that a reference to a file on this machine, or in the package, names one.

    Raises:
        AdapterError: There is none.
        WeightsError: The reference is malformed.
    """
    if hub.parse_reference(reference).source == "hub":
        return
    path = hub.locate_weights(reference)
    if path is not None and path.exists() and not path.is_file() and not path.is_dir():
        raise AdapterError(f"{kind} {reference!r} is a pipe or a device", hint="name a file")
    if path is None:
        raise AdapterError(
            f"{kind} {reference!r} does not exist",
            hint="name a file, hf:OWNER/REPO[@REVISION][/FILE], or package:MODEL/FILE such as "
            f"package:mini/fill.safetensors{hint}",
        )


def find_adapter(reference: str, *, offline: bool, hint: str = "") -> Path:
    """Return an adapter's file, downloaded if need be.

    Args:
        reference: A file, hf:OWNER/REPO[@REVISION][/FILE], or package:MODEL/FILE. A repository
            without a file means its only safetensors file.
        offline: True: nothing is downloaded.
        hint: More that one may try where it does not exist, after the kinds of reference.

    Raises:
        AdapterError: The file does not exist.
        WeightsError: The repository holds no safetensors file or several, or it is a pickle.
        NetworkError: The download failed or the network is off.
    """
    require_file(reference, hint=hint)
    path = hub.fetch_weights(reference, offline=offline)
    if not _is_own(path):
        # PEFT keeps a LoRA's alpha there.
        hub.fetch_beside(path, reference, PEFT_CONFIG, offline=offline)
    return path


def _is_own(path: Path) -> bool:
    """Return True for a file of this program, False for any other, damaged ones included."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return str((file.metadata() or {}).get("format")).startswith("dcgrid-")
    except (SafetensorError, OSError):
        return False
