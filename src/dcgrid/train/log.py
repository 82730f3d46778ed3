"""The log of a run: log.jsonl, and the same figures for TensorBoard. Read `RunLog`.

log.jsonl is the truth, one line a report: {"step": 20, "s_per_step": 0.7, "loss": 0.4}. It is cut
to what the checkpoint knows of when a run goes on, and TensorBoard's file is written anew from it.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dcgrid.errors import OutputError
from dcgrid.io.atomic import write_whole
from dcgrid.train.checkpoint import full_disk_hint

LOG_NAME = "log.jsonl"
BOARD_NAME = "tensorboard"
"""Folder of TensorBoard's event file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One report of the loop."""

    step: int
    steps: int
    seconds_per_step: float
    figures: dict[str, float]
    """Means since the last report; "eval" is the newest eval loss, if there is one."""


class Board(Protocol):
    """What is used of TensorBoard's writer."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Add one point of a curve."""

    def flush(self) -> None:
        """Write what is waiting."""

    def close(self) -> None:
        """Write what is waiting and close the file."""


class RunLog:
    """Averages figures, appends them to log.jsonl and reports them.

    Args:
        folder: The run's folder.
        step: Steps done; later lines of an earlier run are cut off.
        every: Steps between lines.
        pending: Figures of the steps since the last line; a checkpoint keeps them, so that a
            resumed run writes the same means.
        board: TensorBoard's writer, if any.
        on_progress: Told of every line of means.

    Raises:
        OutputError: The log cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        *,
        every: int,
        pending: dict[str, list[float]],
        board: Board | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.path = folder / LOG_NAME
        self.every = every
        self.pending = pending
        self._board = board
        self._on_progress = on_progress
        self._since = (step, time.monotonic())
        self._shown: dict[str, float] = {}
        for line in cut_log(self.path, step):
            self._to_board(line)
            if "eval" in line:
                self._shown = {"eval": line["eval"]}

    def add(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
        """Take in the figures of one step; write and report their means when it is time.

        Raises:
            OutputError: The log cannot be written.
        """
        for name, value in figures.items():
            self.pending.setdefault(name, []).append(value)
        if step % self.every and step != steps:
            return
        means = {n: sum(v) / len(v) for n, v in self.pending.items()}
        now = time.monotonic()
        rate = (now - self._since[1]) / max(step - self._since[0], 1)
        self.pending.clear()
        self._since = (step, now)
        self._write({"step": step, "s_per_step": round(rate, 4), **means})
        self._on_progress(
            Progress(
                step=step,
                steps=steps,
                seconds_per_step=rate,
                figures={**means, **self._shown},
            )
        )

    def add_eval(self, step: int, losses: Mapping[str, float], began_s: float) -> None:
        """Write eval losses as a line of their own; their time is not that of the steps.

        Raises:
            OutputError: The log cannot be written.
        """
        self.leave_out(began_s)
        self._shown = {"eval": losses["eval"]}
        self._write({"step": step, **losses})

    def leave_out(self, began_s: float) -> None:
        """Take the time since `began_s` (of `time.monotonic`) out of the seconds a step."""
        self._since = (self._since[0], self._since[1] + time.monotonic() - began_s)

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _write(self, line: dict[str, Any]) -> None:
        try:
            with self.path.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
            self._to_board(line)
            if self._board is not None:
                self._board.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _to_board(self, line: Mapping[str, Any]) -> None:
        if self._board is None:
            return
        for name, value in line.items():
            if name != "step":
                self._board.add_scalar(name, value, line["step"])


def cut_log(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop what a log says of steps after `step`, and lines cut short; return the others.

    A kill leaves a log that is ahead of its checkpoint: those steps are about to be taken again.

    Raises:
        OutputError: The log cannot be written.
    """
    try:
        text = path.read_text(errors="replace") if path.exists() else ""
        read = [_line(line) for line in text.splitlines()]
        kept = [line for line in read if line is not None and line["step"] <= step]
        new = "".join(json.dumps(line) + "\n" for line in kept)
        if new != text:
            write_whole(path, new)
    except OSError as error:
        raise _unwritable(path, error) from error
    return kept


def open_board(folder: Path, say: Callable[[str], None]) -> Board | None:
    """Return TensorBoard's writer on an empty file; None, and a note, if it is not installed.

    Raises:
        OutputError: Its folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say(
            "no TensorBoard, so the log is log.jsonl alone; for curves: pip install 'dcgrid[train]'"
        )
        return None
    target = folder / BOARD_NAME
    try:
        for path in target.glob("events.out.tfevents.*"):
            path.unlink()
        board: Board = SummaryWriter(str(target))
    except OSError as error:
        raise _unwritable(target, error) from error
    return board


def _line(text: str) -> dict[str, Any] | None:
    """Return one line of the log; None for what is no such line."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    whole = isinstance(line, dict) and isinstance(line.get("step"), int)
    return line if whole else None


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {error.strerror}",
        hint=full_disk_hint(path.parent),
    )
