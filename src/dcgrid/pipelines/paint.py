"""Paint all windows of a grid, and keep what was painted until it is written.

A clip of one window is kept in memory. A longer one goes to disk window by window, without loss,
so that memory is that of one window, and a run that was killed goes on where it stopped.

Letters: T frames, H W height/width, C the 3 colours.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from dcgrid import __version__, hub
from dcgrid.errors import InputVideoError
from dcgrid.pipelines.fill import FilledCell, FillSettings, fill_grid
from dcgrid.pipelines.footage import Footage
from dcgrid.pipelines.models import LoadedModel
from dcgrid.pipelines.plan import RunPlan
from dcgrid.pipelines.progress import Progress
from dcgrid.pipelines.request import Continuation, grid_request
from dcgrid.pipelines.windows import Window
from dcgrid.runtime.lock import run_lock
from dcgrid.video.parts import read_part, write_part

KEPT_DAYS = 14
"""Days that the windows of a run that was not finished stay on disk."""


class Painted:
    """The painted cells of all windows."""

    def __init__(
        self, windows: Sequence[Window], cells: Sequence[int], folder: Path | None
    ) -> None:
        self.windows = tuple(windows)
        self.cells = tuple(cells)
        self._folder = folder
        self._kept: dict[tuple[int, int], torch.Tensor] = {}

    def has(self, window: Window) -> bool:
        """Return True if the window is painted already."""
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

    def put(self, window: Window, filled: Sequence[FilledCell]) -> None:
        """Keep what was painted of a window, and what the next one goes on from.

        Raises:
            OutputError: The disk is full.
        """
        after = self.windows[min(window.index + 1, len(self.windows) - 1)]
        start = after.first - window.first
        for one in filled:
            if self._folder is None:
                self._kept[window.index, one.cell] = one.frames_THWC
                continue
            # The last window has none after it; any frames will do to tell that it is whole.
            tail_THWC = one.small_THWC[start : start + max(after.head, 1)]
            write_part(self._tail(window.index, one.cell), tail_THWC, overwrite=True)
            write_part(self._part(window.index, one.cell), one.frames_THWC, overwrite=True)

    def heads(self, window: Window) -> Mapping[int, torch.Tensor]:
        """Return what each cell of a window goes on from, THWC; nothing for the first."""
        if not window.head:
            return {}
        return {cell: read_part(self._tail(window.index - 1, cell)) for cell in self.cells}

    def pieces(self, cell: int) -> Iterator[torch.Tensor]:
        """Yield all frames of a cell in order, those of a window at a time."""
        held_THWC: torch.Tensor | None = None
        for window in self.windows:
            frames_THWC = self._frames(window, cell)
            if window.blend and held_THWC is not None:
                zone = slice(window.head, window.head + window.blend)
                frames_THWC = frames_THWC.clone()
                frames_THWC[zone] = blend(held_THWC, frames_THWC[zone])
            held_THWC = frames_THWC[window.shown :]
            yield frames_THWC[window.fresh]

    def _frames(self, window: Window, cell: int) -> torch.Tensor:
        if self._folder is None:
            return self._kept[window.index, cell]
        return read_part(self._part(window.index, cell))

    def _paths(self, window: Window) -> list[Path]:
        named = (self._part, self._tail)
        return [name(window.index, cell) for cell in self.cells for name in named]

    def _part(self, index: int, cell: int) -> Path:
        return self._of(f"{index:06d}.{cell}.mkv")

    def _tail(self, index: int, cell: int) -> Path:
        return self._of(f"{index:06d}.{cell}.tail.mkv")

    def _of(self, name: str) -> Path:
        if self._folder is None:
            raise ValueError("a clip of one window has no parts")
        return self._folder / name


def _is_whole(path: Path) -> bool:
    try:
        read_part(path)
    except InputVideoError:
        return False
    return True


def blend(before_THWC: torch.Tensor, after_THWC: torch.Tensor) -> torch.Tensor:
    """Mix frames of two windows, the later one more from frame to frame; uint8, rounded."""
    weights_T = torch.arange(1, len(after_THWC) + 1) / (len(after_THWC) + 1)
    mixed_THWC = torch.lerp(before_THWC.float(), after_THWC.float(), weights_T[:, None, None, None])
    return mixed_THWC.round().to(torch.uint8)


@contextmanager
def paint_windows(
    plan: RunPlan, footage: Sequence[Footage], model: LoadedModel, progress: Progress
) -> Iterator[Painted]:
    """Paint every window; the result lasts as long as the context.

    Windows on disk are removed when the context ends well; after an error or a kill they stay, and
    the same run goes on with them.

    Raises:
        InputVideoError: An input ends or breaks before its plan does.
        OutputError: The disk is full, or another process works on the same run.
    """
    grid = plan.prepared.grid
    cells = [cell for cell, index in enumerate(grid.edit_of_cell) if index is not None]
    with ExitStack() as stack:
        folder = None
        if len(plan.windows) > 1:
            folder = _work_folder(plan, model)
            stack.enter_context(run_lock(folder))
        painted = Painted(plan.windows, cells, folder)
        try:
            _paint(plan, footage, model, painted, progress)
            yield painted
        except BaseException:
            if folder is not None and any(painted.has(window) for window in plan.windows):
                progress.note("What is painted so far is kept; the same command goes on with it.")
            raise
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _paint(
    plan: RunPlan,
    footage: Sequence[Footage],
    model: LoadedModel,
    painted: Painted,
    progress: Progress,
) -> None:
    spec, count = plan.spec, len(plan.windows)
    settings = FillSettings(seed=plan.prepared.job.seed, device=torch.device(plan.device))
    if damaged := painted.drop_damaged():
        progress.note(f"Damaged windows of an earlier run that are painted again: {damaged}.")
    done = sum(painted.has(window) for window in plan.windows)
    if done:
        progress.note(f"{done} of {count} windows are there from an earlier run; going on.")
    total = (footage[0].plan.num_frames - 1) // spec.stride_T + 1
    for window in plan.windows:
        if painted.has(window):
            continue
        where = None
        shown = progress
        if count > 1:
            first = window.first // spec.stride_T
            where = Continuation(first=first, total=total, heads=painted.heads(window))
            shown = _Numbered(progress, f"window {window.index + 1} of {count}")
        given = [one.frames(window) for one in footage]
        request = grid_request(plan.prepared.grid, given, where)
        painted.put(window, fill_grid(model.backbone, request, settings, shown))


class _Numbered:
    """Tells of stages with the window that they belong to."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self._progress, self._prefix = progress, prefix

    def start(self, stage: str, total: int | None = None) -> None:
        """Begin a stage."""
        self._progress.start(f"{self._prefix}: {stage}", total)

    def update(self, done: int, total: int | None = None) -> None:
        """Tell how many steps are done."""
        self._progress.update(done, total)

    def note(self, line: str) -> None:
        """Tell something about the work."""
        self._progress.note(line)

    def warn(self, line: str) -> None:
        """Tell something that may make the result worse."""
        self._progress.warn(line)


def _work_folder(plan: RunPlan, model: LoadedModel) -> Path:
    """Return the folder of this very run's windows: same inputs, text, weights, seed, machine."""
    facts = {
        "version": __version__,
        "inputs": [hub.file_sha256(path) for path in plan.prepared.job.inputs],
        "clips": [(one.start_s, one.num_frames, one.fps, one.cell_size) for one in plan.clips],
        "windows": [asdict(window) for window in plan.windows],
        "grid": asdict(plan.prepared.grid),
        "weights": [dict(model.weights), model.adapter_sha256],
        "seed": plan.prepared.job.seed,
        "machine": [plan.device, plan.dtype, torch.get_num_threads()],
    }
    text = json.dumps(facts, sort_keys=True)
    runs = hub.cache_dir() / "runs"
    _forget_old(runs)
    return runs / hashlib.sha256(text.encode()).hexdigest()[:24]


def _forget_old(runs: Path) -> None:
    """Remove the windows of runs that nobody went on with."""
    for folder in runs.iterdir() if runs.is_dir() else ():
        if time.time() - folder.stat().st_mtime > KEPT_DAYS * 86_400:
            shutil.rmtree(folder, ignore_errors=True)
