"""Interrupts that wait for the end of a training step.

An exception in the middle of a step would leave weights, moments and random state of different
steps. Read `HeldInterrupts`.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class HeldInterrupts:
    """Holds back the first interrupt inside a `with`, and raises it when the block ends well.

    The second one is raised at once. Signals that the process ignores stay ignored. Outside the
    main thread, where Python delivers no signals, nothing is held.

    Raises:
        KeyboardInterrupt: On leaving the block, if one was held back.
    """

    def __init__(self) -> None:
        self.pending = False
        self._number = signal.SIGINT
        self._earlier: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._earlier[number] = signal.signal(number, self._hold)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back and raise what was held."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self.pending and error is None:
            handler = self._earlier.get(self._number)
            if callable(handler):
                handler(self._number, None)  # which sees to it that it isn't lost
            raise KeyboardInterrupt

    def _hold(self, number: int, _frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending, self._number = True, signal.Signals(number)
