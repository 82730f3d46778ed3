"""Ctrl-C and SIGTERM, from the first line of the program to the last: exit code 130, never lost.

A signal has one of three effects, after where the process is:

- Before the command runs (imports take half a second) and after it, nothing has to be undone: the
  process ends on the spot (`end_at_once`).
- While the command runs, KeyboardInterrupt unwinds the stack, so that no temporary file is left
  (`Interrupts`). Python drops an exception that is raised in a finaliser or a callback of C, and an
  import of a C extension may turn it into another one: until the stack unwinds, it is raised again.
- While the stack unwinds, further signals wait, for they would cut the removal of files short. One
  that comes late ends the process on the spot: what is unwound may itself hang.

Nothing but the standard library's lightest modules is imported here.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self

INTERRUPTED = 130

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 0.25
_PATIENCE_S = 5.0


def end_at_once(*_: object) -> None:
    """Say so and end the process: a handler for when nothing has to be undone."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def end_signals_at_once() -> None:
    """Let SIGINT and SIGTERM end the process at once; those that it was told to ignore stay so."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end_at_once)


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block and nothing else: they are how its work is to end."""
    earlier = {
        number: signal.signal(number, signal.default_int_handler)
        for number in _SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


class Interrupts:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt while a command runs.

    A context manager for the main thread; in another one, where Python delivers no signals, it does
    nothing. On leaving, the earlier handlers are back, and a signal that came after `hold` goes to
    them.
    """

    def __init__(self) -> None:
        self.received = False
        """True: the command was interrupted, whatever became of the exception."""
        self._first_s = 0.0
        self._held: int | None = None
        self._holds = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._earlier[number] = signal.signal(number, self._interrupt)
            self._earlier[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._again)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        self.hold()
        for number, handler in self._earlier.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self._held is not None:
            signal.raise_signal(self._held)

    def hold(self) -> None:
        """Raise nothing from now on: the command has ended, and what came of it is reported."""
        self._holds = True
        if self._earlier:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        if self._holds:
            self._held = number
            return
        now_s = time.monotonic()
        if not self.received:
            self.received, self._first_s = True, now_s
        elif now_s - self._first_s > _PATIENCE_S:
            end_at_once()
        self._raise()

    def _again(self, _number: int, _frame: FrameType | None) -> None:
        if self.received and not self._holds:
            self._raise()

    def _raise(self) -> None:
        """Raise, unless the stack unwinds already; look again soon, in case it is swallowed."""
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        if not _is_unwinding():
            raise KeyboardInterrupt


def _is_unwinding() -> bool:
    """Return True if what runs now runs because of an interrupt: a `finally`, an `__exit__`."""
    error = sys.exception()
    while error is not None:
        # A generator that is dropped half-way is closed with an exception of its own.
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            return True
        error = error.__context__
    return False


def silence_dropped(unraisable: "sys.UnraisableHookArgs") -> None:
    """Print no trace of an interrupt that Python dropped, for it is raised again."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
