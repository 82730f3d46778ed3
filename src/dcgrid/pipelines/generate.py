"""Generate a grid window by window, and keep what was generated until it is written.

Letters: T frames, H W height/width, C the 3 colours.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from dcgrid import __version__, hub
from dcgrid.io.locks import run_lock
from dcgrid.io.progress import PrefixProgress, Progress
from dcgrid.pipelines.fill import FillSettings, GenerateFn, fill_grid
from dcgrid.pipelines.footage import Footage
from dcgrid.pipelines.generated import Generated
from dcgrid.pipelines.models import LoadedModel
from dcgrid.pipelines.plan import RunPlan
from dcgrid.pipelines.request import Continuation, grid_request
from dcgrid.pipelines.resolve import ResolvedGrid
from dcgrid.pipelines.times import window_label
from dcgrid.pipelines.windows import Window

KEPT_DAYS = 14
"""Days that the windows of a run that was not finished stay on disk."""


class GivenClip(Protocol):
    """A clip that is given to a grid: `Footage`, or what another grid has generated."""

    def frames(self, window: Window) -> torch.Tensor:
        """Return the frames of a window, THWC, uint8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridTask:
    """One grid that is to be generated."""

    grid: ResolvedGrid
    """Cells, text and sampler values."""
    given: tuple[GivenClip, ...]
    """The given clips, in the order of `grid.given`."""
    windows: tuple[Window, ...]
    """What is generated in one go."""
    cell_size: tuple[int, int]
    """Height and width of a cell in pixels."""
    seed: int
    """Seed of the noise."""
    model: LoadedModel
    """What generates it."""
    number: int = 0
    """Which grid of several it is, for progress."""
    grids: int = 1
    """How many there are."""
    generate_fn: GenerateFn | None = None
    """How it is generated; None: with `fill_grid`."""


def generate_grid(task: GridTask, generated: Generated, progress: Progress) -> None:
    """Generate the windows of a grid that are not there yet.

    Raises:
        InputVideoError: A given clip ends or breaks before its plan does.
        OutputError: The disk is full.
    """
    backbone, count = task.model.backbone, len(task.windows)
    settings = FillSettings(seed=task.seed, device=backbone.device)
    generate_fn = task.generate_fn or fill_grid
    stride = backbone.spec.stride_T
    total = (task.windows[-1].first + task.windows[-1].count - 1) // stride + 1
    for window in task.windows:
        if generated.has(window):
            continue
        where = None
        if count > 1:
            first = window.first // stride
            where = Continuation(first=first, total=total, heads=generated.heads(window))
        label = window_label(window.index, count, task.number, task.grids)
        shown = PrefixProgress(progress, label) if label else progress
        request = replace(
            grid_request(
                task.grid, backbone.spec, [one.frames(window) for one in task.given], where
            ),
            size_THW=(window.count, *task.cell_size),
        )
        generated.put(window, generate_fn(backbone, request, settings, shown))


@contextmanager
def generate_windows(
    plan: RunPlan,
    footage: Sequence[Footage],
    model: LoadedModel,
    progress: Progress,
    generate_fn: GenerateFn | None = None,
) -> Iterator[Generated]:
    """Generate the grid of a run; the result lasts as long as the context.

    A clip of one window is kept in memory, a longer one on disk.

    Args:
        plan: What is generated.
        footage: The given clips.
        model: What generates it.
        progress: Told of stages and steps.
        generate_fn: How; None: with `fill_grid`.

    Raises:
        InputVideoError: An input ends or breaks before its plan does.
        OutputError: The disk is full, or another process works on the same run.
    """
    task = GridTask(
        grid=plan.prepared.grid,
        given=tuple(footage),
        windows=plan.windows,
        cell_size=plan.clips[0].cell_size,
        seed=plan.prepared.job.seed,
        model=model,
        generate_fn=generate_fn,
    )
    with ExitStack() as stack:
        folder = None
        if len(plan.windows) > 1:
            folder = stack.enter_context(work_folder(_run_facts(plan, footage, model), progress))
        generated = Generated(plan.windows, task.grid.generated_cells, folder)
        tell_what_is_there([generated], progress)
        generate_grid(task, generated, progress)
        yield generated


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


def _run_facts(plan: RunPlan, footage: Sequence[Footage], model: LoadedModel) -> Mapping[str, Any]:
    """Return what decides the pixels of a run: inputs, text, weights, seed, machine."""
    return {
        "method": plan.prepared.job.generated_by,
        "inputs": [one.sha256 for one in footage],
        "clips": [(one.start_s, one.num_frames, one.fps, one.cell_size) for one in plan.clips],
        "windows": [asdict(window) for window in plan.windows],
        "grid": asdict(plan.prepared.grid),
        "weights": model.made_of,
        "seed": plan.prepared.job.seed,
        "machine": [plan.device, plan.dtype, torch.get_num_threads(), model.processes],
    }


def _forget_old(runs: Path) -> None:
    """Remove the windows of runs that nobody went on with."""
    for folder in runs.iterdir() if runs.is_dir() else ():
        if time.time() - folder.stat().st_mtime > KEPT_DAYS * 86_400:
            shutil.rmtree(folder, ignore_errors=True)
