"""Checkpoints kept beside the newest, and what a run goes on from.

    state.safetensors          the newest, every two minutes
    state-500.safetensors      copies at certain steps, the last few of them

A copy is a file of its own, not a link: what damages one must not damage the other.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dcgrid.errors import WeightsError
from dcgrid.io.atomic import whole_file
from dcgrid.train.checkpoint import (
    STATE_NAME,
    DamagedCheckpoint,
    TrainState,
    full_disk_hint,
    load_state,
    read_facts,
)


def kept_states(folder: Path) -> list[tuple[int, Path]]:
    """Return the kept checkpoints with their steps, newest first."""
    named = [(re.fullmatch(r"state-(\d+)\.safetensors", p.name), p) for p in folder.glob("state-*")]
    return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


def keep_state(folder: Path, step: int, keep_last: int) -> None:
    """Copy the newest checkpoint to `state-STEP.safetensors`, and drop the oldest copies.

    Raises:
        OutputError: The copy cannot be written; the newest checkpoint stays.
    """
    target = folder / f"state-{step}.safetensors"
    with whole_file(target, hint=full_disk_hint(folder)) as part:
        shutil.copyfile(folder / STATE_NAME, part)
    drop_states(folder, keep_last)


def drop_states(folder: Path, keep_last: int = 0) -> None:
    """Remove all kept checkpoints but the newest few."""
    for _, path in kept_states(folder)[keep_last:]:
        with suppress(OSError):  # one too many is no reason to stop
            path.unlink(missing_ok=True)


def find_state(folder: Path) -> tuple[Path, int, dict[str, str], str]:
    """Return the checkpoint to go on from, its step and facts, and why it is not the newest.

    Only heads and lengths are read, which is what a file that was cut short fails on.

    Raises:
        WeightsError: There is no checkpoint.
        DamagedCheckpoint: The newest is damaged, and so is every kept one.
    """
    newest = folder / STATE_NAME
    try:
        return newest, *read_facts(newest), ""
    except WeightsError as error:
        for _, path in kept_states(folder):
            with suppress(DamagedCheckpoint):
                return path, *read_facts(path), error.message
        raise


def load_newest(folder: Path, state: TrainState, say: Callable[[str], None]) -> None:
    """Fill `state` from the newest checkpoint that is whole; tell if that is a kept one.

    Raises:
        WeightsError: There is no checkpoint, or it is of another model.
        DamagedCheckpoint: The newest is damaged, and so is every kept one.
    """
    try:
        load_state(folder / STATE_NAME, state)
        return
    except WeightsError as error:
        if (folder / STATE_NAME).exists() and not isinstance(error, DamagedCheckpoint):
            raise
        for step, path in kept_states(folder):
            with suppress(DamagedCheckpoint):
                load_state(path, state)
                say(f"{error.message}; going on from {path.name}, {step} steps")
                return
        raise


def drop_later_states(folder: Path, step: int) -> None:
    """Remove kept checkpoints of later steps than the one a run goes on from: they are damaged.

    Not before every process of the run has looked for one that is whole.
    """
    for later, damaged in kept_states(folder):
        if later > step:
            damaged.unlink(missing_ok=True)


def read_step(folder: Path) -> int | None:
    """Return how many steps the checkpoint to go on from has behind it; None without one.

    Raises:
        DamagedCheckpoint: No checkpoint is whole.
    """
    if not (folder / STATE_NAME).exists() and not kept_states(folder):
        return None
    return find_state(folder)[1]
