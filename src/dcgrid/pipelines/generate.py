"""Generate a grid window by window, and keep what was generated until it is written.

A grid of one window is kept in memory; with a folder it goes to disk without loss, so that memory
is that of one window and a run that was killed goes on where it stopped.

Letters: T frames, H W height/width, C the 3 colours.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch

from dcgrid import __version__, hub
from dcgrid.errors import InputVideoError
from dcgrid.io.locks import run_lock
from dcgrid.io.progress import PrefixProgress, Progress
from dcgrid.models.base import Backbone
from dcgrid.pipelines.plan import GenerationPlan
from dcgrid.pipelines.sampling import GenerateFn, codec_pass, fill_grid, grid_request
from dcgrid.pipelines.times import DECODE_STAGE, window_label
from dcgrid.pipelines.windows import Window
from dcgrid.video.parts import read_part, write_part

KEPT_DAYS = 14
"""Days that the windows of a run that was not finished stay on disk."""


class GivenClip(Protocol):
    """A clip that is given to a grid: `Footage`, or what another grid has generated."""

    def frames(self, window: Window) -> torch.Tensor:
        """Return the frames of a window, THWC, uint8."""


def generate_grid(
    plan: GenerationPlan,
    number: int,
    generated: "Generated",
    given: Sequence[GivenClip],
    backbone: Backbone,
    progress: Progress,
    generate_fn: GenerateFn | None = None,
) -> None:
    """Generate the windows of a grid that are not there yet.

    Args:
        plan: What is run.
        number: Which of its grids it is, from 0.
        generated: Gets what is generated; it has the seed.
        given: The clips given to the grid, in the order of its given cells.
        backbone: The model.
        progress: Gets stages and steps.
        generate_fn: How a window is generated; None: with `fill_grid`.

    Raises:
        InputVideoError: A given clip ends or breaks before its plan does.
        OutputError: The disk is full.
    """
    windows, stride = plan.windows, backbone.spec.stride_T
    total = (windows[-1].first + windows[-1].count - 1) // stride + 1
    for window in windows:
        if generated.has(window):
            continue
        label = window_label(window.index, len(windows), number, len(plan.grids))
        request = grid_request(
            plan.grids[number],
            backbone.spec,
            [one.frames(window) for one in given],
            seed=generated.seed,
            size_THW=(window.count, *plan.cell_size),
            span=(window.first // stride, total) if len(windows) > 1 else None,
            heads=generated.heads(window),
        )
        shown = PrefixProgress(progress, label) if label else progress
        generated.put(window, (generate_fn or fill_grid)(backbone, request, shown))


def decode_given(
    backbone: Backbone, clip: GivenClip, decoded: "Generated", progress: Progress
) -> None:
    """Keep a given clip as the autoencoder gives it back.

    What was generated went through the autoencoder, which blurs what moves fast. Beside the clip
    itself that looks like a part of the edit; beside this it does not.

    Raises:
        InputVideoError: The clip ends or breaks before its plan does.
        OutputError: The disk is full.
    """
    progress.start(DECODE_STAGE, len(decoded.windows))
    for done, window in enumerate(decoded.windows, start=1):
        if not decoded.has(window):
            decoded.put(window, {decoded.cells[0]: codec_pass(backbone, clip.frames(window))})
        progress.update(done)


class Generated:
    """The generated cells of all windows of a grid, from one seed."""

    def __init__(
        self, windows: Sequence[Window], cells: Sequence[int], folder: Path | None, seed: int = 0
    ) -> None:
        self.windows = tuple(windows)
        self.cells = tuple(cells)
        self.seed = seed
        self._folder = folder
        self._kept: dict[tuple[int, int], torch.Tensor] = {}

    def has(self, window: Window) -> bool:
        """Return True if the window is generated already."""
        if self._folder is None:
            return all((window.index, cell) in self._kept for cell in self.cells)
        return all(path.exists() for path in self._paths(window))

    def drop_damaged(self) -> int:
        """Remove parts on disk that cannot be read; return how many windows they were of."""
        dropped = 0
        for window in self.windows if self._folder is not None else ():
            paths = self._paths(window)
            damaged = [path for path in paths if path.exists() and not _is_whole(path)]
            for path in damaged:
                path.unlink()
            dropped += bool(damaged)
        return dropped

    def put(self, window: Window, clips: Mapping[int, torch.Tensor]) -> None:
        """Keep what was generated of a window: clips THWC by cell.

        Raises:
            OutputError: The disk is full.
        """
        if self._folder is not None:
            self._folder.mkdir(exist_ok=True)
        for cell, clip_THWC in clips.items():
            if self._folder is None:
                self._kept[window.index, cell] = clip_THWC
            else:
                write_part(self._part(window.index, cell), clip_THWC, overwrite=True)

    def heads(self, window: Window) -> Mapping[int, torch.Tensor]:
        """Return what each cell of a window goes on from, THWC; nothing for the first."""
        if not window.head:
            return {}
        before = self.windows[window.index - 1]
        start = window.first - before.first
        return {
            cell: self._frames(before, cell)[start : start + window.head] for cell in self.cells
        }

    def pieces(self, cell: int) -> Iterator[torch.Tensor]:
        """Yield all frames of a cell in order, those of a window at a time; see `piece`."""
        held_THWC: torch.Tensor | None = None
        for window in self.windows:
            frames_THWC = self._frames(window, cell)
            yield _joined(window, frames_THWC, held_THWC)
            held_THWC = frames_THWC[window.shown :]

    def piece(self, window: Window, cell: int) -> torch.Tensor:
        """Return the frames of a cell that are delivered with a window, THWC.

        Args:
            window: One of `windows`.
            cell: A generated cell.
        """
        held_THWC = None
        if window.blend:
            before = self.windows[window.index - 1]
            held_THWC = self._frames(before, cell)[before.shown :]
        return _joined(window, self._frames(window, cell), held_THWC)

    def _frames(self, window: Window, cell: int) -> torch.Tensor:
        if self._folder is None:
            return self._kept[window.index, cell]
        return read_part(self._part(window.index, cell))

    def _paths(self, window: Window) -> list[Path]:
        return [self._part(window.index, cell) for cell in self.cells]

    def _part(self, index: int, cell: int) -> Path:
        if self._folder is None:
            raise ValueError("a grid that is kept in memory has no parts")
        return self._folder / f"{index:06d}.{cell}.mkv"


class GeneratedClip:
    """One generated cell as a clip that may be longer than memory: any stretch of it on demand."""

    def __init__(self, generated: Generated, cell: int) -> None:
        self._generated, self._cell = generated, cell
        # Stretches are taken in order, so the piece that one ends in is where the next begins.
        self._piece = lru_cache(maxsize=1)(self._read)

    def __len__(self) -> int:
        """Return the number of frames."""
        last = self._generated.windows[-1]
        return last.first + last.count

    def __getitem__(self, stretch: slice, /) -> torch.Tensor:
        """Return frames THWC, uint8.

        Raises:
            InputVideoError: A part on disk is damaged.
            ValueError: The slice has a step, or holds no frame.
        """
        start, stop, step = stretch.indices(len(self))
        if step != 1 or start >= stop:
            raise ValueError(f"no frames from {start} to {stop} in steps of {step}")
        found = []
        for window in self._generated.windows:
            begin, end = window.first + window.head, window.first + window.shown
            if begin < stop and start < end:
                piece_THWC = self._piece(window.index)
                found.append(piece_THWC[max(start - begin, 0) : stop - begin])
        return found[0] if len(found) == 1 else torch.cat(found)

    def frames(self, window: Window) -> torch.Tensor:
        """Return the frames of a window of a grid that this clip is given to, THWC, uint8."""
        return self[window.first : window.first + window.count]

    def pieces(self) -> Iterator[torch.Tensor]:
        """Yield all frames in order, those of a window at a time."""
        return self._generated.pieces(self._cell)

    def _read(self, index: int) -> torch.Tensor:
        return self._generated.piece(self._generated.windows[index], self._cell)


def blend(before_THWC: torch.Tensor, after_THWC: torch.Tensor) -> torch.Tensor:
    """Mix frames of two windows, the later one more from frame to frame; uint8, rounded."""
    weights_T = torch.arange(1, len(after_THWC) + 1) / (len(after_THWC) + 1)
    mixed_THWC = torch.lerp(before_THWC.float(), after_THWC.float(), weights_T[:, None, None, None])
    return mixed_THWC.round().to(torch.uint8)


def _joined(
    window: Window, frames_THWC: torch.Tensor, held_THWC: torch.Tensor | None
) -> torch.Tensor:
    """Return what is delivered with a window: its fresh frames, the first of them blended."""
    if window.blend and held_THWC is not None:
        zone = slice(window.head, window.head + window.blend)
        frames_THWC = frames_THWC.clone()
        frames_THWC[zone] = blend(held_THWC, frames_THWC[zone])
    return frames_THWC[window.fresh]


def _is_whole(path: Path) -> bool:
    try:
        read_part(path)
    except InputVideoError:
        return False
    return True


def tell_what_is_there(grids: Sequence[Generated], progress: Progress) -> None:
    """Remove damaged windows of an earlier run, and tell of them and of those that are whole."""
    if damaged := sum(generated.drop_damaged() for generated in grids):
        progress.note(f"Damaged windows of an earlier run that are generated again: {damaged}.")
    there = [generated.has(window) for generated in grids for window in generated.windows]
    if any(there):
        progress.note(
            f"{sum(there)} of {len(there)} windows are there from an earlier run; going on."
        )


@contextmanager
def work_folder(facts: Mapping[str, Any], progress: Progress) -> Iterator[Path]:
    """Hold the folder for the windows of one very run.

    It is removed when the context ends well. After an error or a kill it stays, and the same run
    goes on with it.

    Args:
        facts: All that decides the pixels; they name the folder.
        progress: Told that something was kept.

    Raises:
        OutputError: Another process works on the same run.
    """
    folder = _folder_of({"version": __version__, **facts})
    with run_lock(folder):
        try:
            yield folder
        except BaseException:
            if any(folder.rglob("*.mkv")):
                progress.note("What is generated so far is kept; the same command goes on with it.")
            else:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _folder_of(facts: Mapping[str, Any]) -> Path:
    runs = hub.cache_dir() / "runs"
    _forget_old(runs)
    text = json.dumps(facts, sort_keys=True)
    return runs / hashlib.sha256(text.encode()).hexdigest()[:24]


def _forget_old(runs: Path) -> None:
    """Remove the windows of runs that nobody went on with."""
    for folder in runs.iterdir() if runs.is_dir() else ():
        if time.time() - folder.stat().st_mtime > KEPT_DAYS * 86_400:
            shutil.rmtree(folder, ignore_errors=True)
