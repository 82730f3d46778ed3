"""Errors a user can fix, each with its exit code.

Every one carries a message (what is wrong, with the offending value and place) and a hint (the next
command to try). `cli.main` is the only place that catches them. A ValueError, by contrast, is a
caller's bug and ends in exit code 1.
"""


class DcgridError(Exception):
    """Base of all errors that a user can fix.

    Args:
        message: One sentence: what is wrong, with the offending value and where it stands.
        hint: What to try next, preferably a command. May be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DcgridError):
    """The command line asks for something that cannot be (exit code 2)."""

    exit_code = 2


class InputVideoError(DcgridError):
    """A video cannot be read or does not fit the job (exit code 3)."""

    exit_code = 3


class OutputError(DcgridError):
    """A result cannot be written: path missing, read-only, exists, disk full (exit code 3)."""

    exit_code = 3


class RecipeError(DcgridError):
    """A recipe file is missing, malformed or has a wrong key or value (exit code 3)."""

    exit_code = 3


class PromptError(DcgridError):
    """A prompt template is wrong or lacks a value (exit code 3)."""

    exit_code = 3


class LayoutError(DcgridError):
    """A grid layout does not fit the model or the job (exit code 3)."""

    exit_code = 3


class StudyError(DcgridError):
    """A user study cannot be made, or its files or answers are damaged (exit code 3)."""

    exit_code = 3


class BatchError(DcgridError):
    """Rows of a batch are wrong or failed, or its folder is another batch's (exit code 3)."""

    exit_code = 3


class WeightsError(DcgridError):
    """Weights are missing, damaged or of the wrong shape (exit code 4)."""

    exit_code = 4


class AdapterError(WeightsError):
    """An adapter is damaged or made for another model (exit code 4)."""


class NetworkError(DcgridError):
    """A download failed or the network is off (exit code 4)."""

    exit_code = 4


class DeviceError(DcgridError):
    """The device is missing or out of memory (exit code 5)."""

    exit_code = 5


class AlreadyToldError(DcgridError):
    """What another process of the same job has told; this one ends without a word.

    Args:
        exit_code: What it would have ended with.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an exception says that memory of the host or a GPU ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # On a CPU torch has no class of its own for it.
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text
    )
